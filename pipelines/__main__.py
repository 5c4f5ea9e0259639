"""`sightline`: one command, a word for each job. This file imports nothing heavy, so that help and mistakes are answered at once."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from importlib import import_module
from typing import Any, NoReturn

COMMANDS = {
    "quickstart": "the main job on an embedded default, from rendered rooms to a registered encoder, in minutes",
    "prepare": "turn what you have (pairs, RGB-D, frames, images, masks, rendered rooms) into a data set",
    "inspect": "show what a data set holds: counts, sizes, overlap, a contact sheet",
    "pretrain": "train an encoder by a recipe, probe it, register it, report on it",
    "finetune": "train an encoder on with labels (classification, segmentation), and score it",
    "resume": "go on with a run or a sweep that was stopped or killed",
    "sweep": "search settings: many runs of one recipe, compared by probes; the winner becomes champion",
    "compare": "train several recipes on one budget with several seeds, and measure them by the same probes",
    "evaluate": "measure what encoders are worth: probes beside random weights and raw pixels",
    "encode": "write an encoder's features of your images to a Parquet file",
    "export": "write an encoder for timm, as safetensors, in its authors' layout or as ONNX",
    "import": "take in weights that a method's authors published",
    "clean": "free the disk of checkpoints that no run needs any more",
    "submit": "run any of these as a job of a running Ray cluster, with the code as it is here",
}
MODULES = {"import": "weights_in", "prepare": "prepare.command"}
"""Of commands whose word is none that a module may have."""
EXAMPLES = """examples:
  sightline quickstart
  sightline prepare pairs rgbd ./kitchen --size 128 --out ./pairs
  sightline pretrain croco-tiny pretext.mask_ratio=0.8 data.train=./pairs/train data.val=./pairs/val
  sightline resume croco-tiny-1121-0930

`sightline COMMAND --help` says more. Everything a run makes lies under $SIGHTLINE_HOME (default ./sightline-runs)."""


class _Parser(argparse.ArgumentParser):
    """Tells a wrong call as an error like any other, so that `--json` gets its document for it too."""

    def error(self, message: str) -> NoReturn:
        from sightline.methods.errors import CallError

        raise CallError(message, f"see `{self.prog} --help`")


def _parser(command: str | None) -> _Parser:
    summaries = "\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON on standard output, for scripts")
    common.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    if command is None:
        parser = _Parser(
            prog="sightline",
            description=f"Self-supervised pretext methods on Ray: from data to a registered encoder.\n\ncommands:\n{summaries}",
            epilog=EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("command", help=argparse.SUPPRESS)
        parser.add_argument("--version", action="version", version=_version())
        return parser
    module = _module(command)
    parser = _Parser(
        prog=f"sightline {command}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    module.add_arguments(parser)
    return parser


def _module(command: str) -> Any:
    return import_module(f"sightline.pipelines.{MODULES.get(command, command)}")


def _version() -> str:
    from importlib.metadata import version

    return f"sightline {version('sightline')}"


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 stopped by Ctrl-C before there was anything to keep."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words:
        _parser(None).print_help()
        return 2
    return _guarded(words)


def _call(words: list[str]) -> Any:
    """Read the words, run the command."""
    if os.environ.get("SIGHTLINE_SHIPPED"):
        from sightline.platform.cluster.code_wheel import verify_driver

        verify_driver()
    args = parse(words)
    return _module(words[0]).run(args)


def parse(words: list[str]) -> argparse.Namespace:
    """Find the command and read its words; `--help` and `--version` are answered. Raises `CallError`."""
    from sightline.methods.errors import CallError

    command = words[0]
    if command.startswith("-"):
        _parser(None).parse_args(words)  # --help, --version, or an error
    if command not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(command, COMMANDS, n=1)
        raise CallError(f"unknown command {command!r}: " + (f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"))
    parser = _parser(command)
    # Settings may stand on both sides of an option; sub-commands, which `prepare` has, and the words of another command exclude that.
    return parser.parse_args(words[1:]) if command in ("prepare", "submit") else parser.parse_intermixed_args(words[1:])


def _guarded(words: list[str]) -> int:
    """Run with errors told in one sentence, and with exactly one JSON document on standard output where `--json` asks for it."""
    from sightline.methods.errors import SightlineError

    own = words[: words.index("--")] if "--" in words else words
    as_json, debug = "--json" in own, "--debug" in own
    real_stdout = os.dup(1) if as_json else None
    if as_json:  # libraries print to standard output; a script must be able to read ours
        sys.stdout.flush()
        os.dup2(2, 1)
    result: Any = None
    try:
        result = _call(words)
        code = 0
    except SightlineError as error:
        if debug:
            raise
        code = error.exit_code
        result = {"error": str(error), "hint": error.hint}
        print(f"sightline: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
        result = {"error": "stopped"}
        print("sightline: stopped", file=sys.stderr)
    except Exception as error:
        if debug:
            raise
        code = 1
        result = {"error": f"{type(error).__name__}: {error}"}
        print(f"sightline: {type(error).__name__}: {error}\n  hint: run again with --debug to see where; please report it", file=sys.stderr)
    if real_stdout is not None:
        sys.stdout.flush()
        os.dup2(real_stdout, 1)
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(result, default=str), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
