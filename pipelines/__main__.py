"""`sightline`: finds the command that the first word names, reads the other words, runs it and prints the result or the error.

To add a command, add a module to this package with `SUMMARY`, `add_arguments` and `run`. What is heavy is imported inside `run`, because
the help imports every command.
"""

from __future__ import annotations

import _thread
import argparse
import atexit
import contextlib
import json
import os
import sys
import threading
from functools import lru_cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

import sightline.pipelines

from .parser import Parser


class Command(Protocol):
    """A module of this package with these names is a command. `INTERMIXED = False` says that its positional words stand together."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> dict[str, object]: ...


# argparse stays: `--help` of a program with 15 commands takes 25 ms of CPU with it, 44 ms with Click and 132 ms with Typer (median of 5, in
# turns), and neither makes options from a dataclass that is known only at run time, as `prepare` does from the class of a source.
FIRST = (
    "quickstart",
    "examples",
    "prepare",
    "inspect",
    "pretrain",
    "finetune",
    "resume",
    "sweep",
    "compare",
    "evaluate",
    "encode",
    "predict",
    "promote",
    "export",
    "import",
    "clean",
    "up",
    "down",
    "submit",
)
"""The order of the help; a command that is not named here follows in the order of the alphabet."""
EXAMPLES = """examples:
  sightline quickstart
  sightline examples ./examples
  sightline prepare pairs rgbd ./examples/room --size 112 --split train=0.8,val=0.2 --out ./pairs
  sightline pretrain croco-tiny data.train=./pairs/train data.val=./pairs/val --name first
  sightline resume first

`sightline COMMAND --help` says more. Everything a run makes lies under $SIGHTLINE_HOME (default ./sightline-runs)."""


@lru_cache
def commands() -> dict[str, Command]:
    """Name -> module of every command. The name is the module's, with `-` for `_`, and without a `_` at its end (`import_`)."""
    found: dict[str, Command] = {}
    for module in iter_modules(sightline.pipelines.__path__):
        if not module.name.startswith("_"):
            command = import_module(f"sightline.pipelines.{module.name}")
            if hasattr(command, "SUMMARY"):
                found[module.name.rstrip("_").replace("_", "-")] = cast(Command, command)
    order = {name: place for place, name in enumerate(FIRST)}
    return {name: found[name] for name in sorted(found, key=lambda name: (order.get(name, len(FIRST)), name))}


def _overview() -> Parser:
    """The parser of a call without a command."""
    from sightline.platform.core.version import installed_version

    summaries = "\n".join(f"  {name:<11} {command.SUMMARY}" for name, command in commands().items())
    parser = Parser(
        prog="sightline",
        description=f"Self-supervised pretext methods on Ray: from data to a registered encoder.\n\ncommands:\n{summaries}",
        epilog=EXAMPLES,
    )
    parser.add_argument("command", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"sightline {installed_version()}")
    return parser


def _parser_of(name: str, command: Command) -> Parser:
    parser = Parser(prog=f"sightline {name}", description=command.__doc__, parents=[_common()])
    command.add_arguments(parser)
    return parser


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print the result as JSON on standard output, for scripts")
    common.add_argument("--debug", action="store_true", help="show the stack trace of an error")
    return common


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the work failed, 2 the call was wrong, 130 stopped by Ctrl-C before there was anything to keep."""
    try:
        import sightline.platform.core.rare_collections  # noqa: F401
        from sightline.platform.core.printable import open_streams

        open_streams()
        sys.unraisablehook = _interrupt_again
        words = sys.argv[1:] if arguments is None else arguments
        if not words:
            _overview().print_help()
            return 2
        code = _guarded(words)
        return code if arguments is not None else _end(code)
    except KeyboardInterrupt:
        return _stopped()


def _end(code: int) -> int:
    """End this process without freeing its memory piece by piece first, which takes two seconds after a run."""
    if sys.gettrace() is None and sys.getprofile() is None:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def _stopped() -> int:
    print("sightline: stopped", file=sys.stderr)
    return 130


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C may come while Python runs what cannot raise it, such as a finaliser: then it is sent once more, a moment later."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.05, _thread.interrupt_main)
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _call(words: list[str]) -> dict[str, object]:
    """Read the words, run the command."""
    from sightline.platform.core.paths import check_here

    check_here()
    if os.environ.get("SIGHTLINE_SHIPPED"):
        from sightline.platform.cluster.code_wheel import verify_driver

        verify_driver()
    args = parse(words)
    return commands()[words[0]].run(args)


def parse(words: list[str]) -> argparse.Namespace:
    """Find the command and read its words; `--help` and `--version` are answered. Raises `CallError`."""
    from sightline.methods.errors import CallError

    name = words[0]
    if name.startswith("-"):
        _overview().parse_args(words)  # --help, --version, or an error
    if name not in commands():
        import difflib

        near = difflib.get_close_matches(name, commands(), n=1)
        raise CallError(f"unknown command {name!r}: " + (f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(commands())}"))
    parser = _parser_of(name, commands()[name])
    # Settings may stand on both sides of an option; argparse refuses that for sub-commands and for the words of another command.
    intermixed = getattr(commands()[name], "INTERMIXED", True)
    return parser.parse_intermixed_args(words[1:]) if intermixed else parser.parse_args(words[1:])


def _guarded(words: list[str]) -> int:
    """Run the command. Print an error as one sentence, and with `--json` print exactly one JSON document on standard output."""
    from sightline.methods.errors import SightlineError, explained
    from sightline.platform.core.printable import printable
    from sightline.platform.core.redaction import redact, redacted

    own = words[: words.index("--")] if "--" in words else words
    as_json, debug = "--json" in own, "--debug" in own
    real_stdout = os.dup(1) if as_json else None
    if as_json:  # libraries print to standard output; a script must be able to read ours
        sys.stdout.flush()
        os.dup2(2, 1)
    result: dict[str, object] | None = None
    try:
        result = _call(words)
        code = 0
    except KeyboardInterrupt:
        code = _stopped()
        result = {"error": "stopped"}
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        code = 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except Exception as error:
        if debug:
            raise
        known = error if isinstance(error, SightlineError) else explained(error)
        told = known or SightlineError(f"{type(error).__name__}: {error}", "run again with --debug to see where; please report it")
        code = told.exit_code
        result = {**told.result, "error": str(told), "hint": told.hint}
        print(f"sightline: {printable(redact(str(told)))}", file=sys.stderr)
        if told.hint:
            print(f"  hint: {printable(redact(told.hint))}", file=sys.stderr)
    if real_stdout is not None:
        sys.stdout.flush()
        os.dup2(real_stdout, 1)
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(redacted(result), default=str), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
