"""The command line: fast answers, mistakes named with their hint, one JSON document for scripts, nothing started by a wrong call."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from asking import Ask
from toy import TOY, write_pairs

from sightline.pipelines.__main__ import commands, main
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.experiments.create import create_run

SIGHTLINE = str(Path(sys.executable).parent / "sightline")
HEAVY = {"torch", "ray", "mlflow", "timm"}
RUNNER = """
import json, sys
from sightline.pipelines.__main__ import main
try:
    code = main(sys.argv[1:])
except SystemExit as exit:
    code = exit.code
print(json.dumps([code, sorted(set(name.partition(".")[0] for name in sys.modules))]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pairs` of 80 x 72 pixels, `images`, a `folder` with a pickle in it, and a `pickle`."""
    root = tmp_path_factory.mktemp("data")
    write_pairs(root / "pairs", 30, 1)
    with ShardWriter(root / "images", "images") as writer:
        image = encode_image(np.full((80, 80, 3), 90, np.uint8), 90)
        for index in range(4):
            writer.write({"id": f"i{index}", "scene": "s", "image": image})
    (root / "folder").mkdir()
    (root / "pickle").write_bytes(pickle.dumps({"rows": [1, 2, 3]}))
    write_pairs(root / "swapped", 4, 2)
    shard = next((root / "swapped").glob("*.parquet"))
    size = shard.stat().st_size
    shard.write_bytes(pickle.dumps(b"x" * size)[:size].ljust(size, b"."))
    return root


@pytest.fixture
def toy(tmp_path: Path) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY))
    return str(path)


def children_seconds() -> float:
    """CPU seconds of ended child processes: what a call costs on an idle machine, whatever else this one does."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_a_process(*words: str) -> tuple[int, set[str], str, float]:
    """(exit code, modules that were imported, output, seconds) of the words in a fresh Python."""
    began = children_seconds()
    done = subprocess.run([sys.executable, "-c", RUNNER, *words], capture_output=True, text=True, timeout=120)
    seconds = children_seconds() - began
    *rest, last = done.stderr.splitlines()
    code, modules = json.loads(last)
    return code, set(modules), done.stdout + "\n".join(rest), seconds


def test_help_answers_in_half_a_second_and_names_every_command() -> None:
    seconds = []
    for _ in range(3):
        began = children_seconds()
        done = subprocess.run([SIGHTLINE, "--help"], capture_output=True, text=True)
        seconds.append(children_seconds() - began)
    assert done.returncode == 0 and all(f"  {command}" in done.stdout for command in commands())
    assert statistics.median(seconds) < 0.5


@pytest.mark.parametrize("words", [["--help"], ["pretrain", "--help"], ["prepare", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code, modules, _, _ = in_a_process(*words)
    assert code == 0 and not modules & (HEAVY | {"pydantic", "numpy"})


def test_a_misspelt_setting_is_answered_in_two_seconds_without_torch_or_ray(home: Path) -> None:
    code, modules, said, seconds = in_a_process("pretrain", "croco-tiny", "pretext.mask_ration=0.5")
    assert code == 2 and "mask_ratio'?" in said
    assert not modules & HEAVY
    assert seconds < 2
    assert not home.exists()


def test_no_command_prints_the_help_and_is_a_wrong_call(ask: Ask) -> None:
    code, out, _ = ask()
    assert code == 2 and "commands:" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrian", "croco-tiny"], "did you mean 'pretrain'?"),
        (["zzz"], "commands: quickstart"),
        (["pretrain", "croco-tinny"], "did you mean 'croco-tiny'?"),
        (["pretrain", "croco-tiny", "mask_ratio"], "'mask_ratio' is no setting"),
        (["quickstart", "pretext.mask_ration=0.5"], "did you mean 'pretext.mask_ratio'?"),
        (["pretrain", "croco-tiny", "--nam", "x", "--nope"], "--nope"),
        (["pretrain", "croco-tiny"], "data.train is not set"),
        (["pretrain", "croco-tiny", "data.train={data}/nowhere"], "the folder does not exist"),
        (["pretrain", "croco-tiny", "data.train={data}/folder"], "holds no pairs that are known"),
        (["pretrain", "croco-tiny", "data.train={data}/pickle"], "{data}/pickle"),
        (["pretrain", "{toy}", "data.train={data}/images"], "images"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "data.val={data}/images"], "images"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "data.val={data}/nowhere"], "{data}/nowhere"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "probe.test={data}/nowhere"], "{data}/nowhere"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "batch.size=32"], "the data set has 30 samples, one batch needs 32"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "model.image_size=96"], "the largest stored size is 72 x 80"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "model.image_size=[64, 96]"], "64 x 96"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "model.patch_size=15"], "64 / 15 = 4.27 patches"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "log.tracking_uri=localhost:5000"], "is no MLflow address"),
        (["pretrain", "{toy}", "data.train={data}/pairs", "--name", "../x"], "'../x' is no run name"),
        (["resume", "nobody"], "no runs under"),
    ],
)
def test_a_wrong_call_exits_2_names_the_thing_and_starts_nothing(
    words: list[str], said: str, ask: Ask, data: Path, toy: str, home: Path
) -> None:
    code, out, err = ask(*(word.format(data=data, toy=toy) for word in words))
    assert code == 2 and (out == "" or "looking at what is in it" in out)
    assert said.format(data=data) in err
    assert "Traceback" not in err
    assert not home.exists() or not list(home.rglob("run.json"))


def test_a_resource_plan_that_cannot_fit_is_refused_with_the_arithmetic(
    ask: Ask, data: Path, toy: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    code, _, err = ask("pretrain", toy, f"data.train={data}/pairs", "batch.size=10", "train.workers=5", "train.device=cpu")
    assert code == 2 and "train.workers = 5 cannot fit: 1 logical CPUs x 4 workers a CPU = 4 at most" in err
    assert not home.exists()


@pytest.mark.parametrize("words", [["pretrain", "croco-tiny"], ["pretrain", "{toy}", "data.train={data}/folder"], ["resume", "nobody"]])
def test_scripts_get_one_json_document_for_an_error_too(words: list[str], ask: Ask, data: Path, toy: str) -> None:
    code, out, err = ask(*(word.format(data=data, toy=toy) for word in words), "--json")
    answer = json.loads(out)
    assert code == 2 and len(out.splitlines()) == 1
    assert set(answer) == {"error", "hint"} and answer["error"] in err


@pytest.mark.parametrize("words", [["pretrain", "--json"], ["pretrian", "--json"], ["resume", "x", "--nope", "--json"]])
def test_scripts_get_json_for_words_that_make_no_call(words: list[str], ask: Ask) -> None:
    code, out, _ = ask(*words)
    assert code == 2 and "error" in json.loads(out)


def test_settings_may_stand_after_an_option(ask: Ask) -> None:
    _, _, err = ask("pretrain", "croco-tiny", "--name", "x", "pretext.mask_ratio=2")
    assert "pretext.mask_ratio = 2" in err


def test_what_a_library_prints_stays_off_the_document(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.pipelines import inspect as command

    def run(args: object) -> dict[str, Any]:
        os.write(1, b"noise of C\n")
        return {"fine": True}

    monkeypatch.setattr(command, "run", run)
    code, out, err = ask("inspect", "anything", "--json")
    assert code == 0 and json.loads(out) == {"fine": True}
    assert "noise of C" in err


def test_a_fault_of_the_code_is_one_line_unless_debug_is_asked_for(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.pipelines import inspect as command

    def run(args: object) -> dict[str, Any]:
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr(command, "run", run)
    code, out, err = ask("inspect", "anything", "--json")
    assert code == 1 and "ZeroDivisionError" in json.loads(out)["error"]
    assert "Traceback" not in err and "--debug" in err
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "anything", "--debug"])


def test_a_pickle_in_the_place_of_a_shard_is_never_read(ask: Ask, data: Path) -> None:
    code, _, err = ask("inspect", str(data / "swapped"), "--verify")
    assert code == 1 and ".parquet" in err and "hint:" in err


def test_a_run_name_that_exists_is_refused_and_the_run_is_left_alone(ask: Ask, data: Path, toy: str, home: Path) -> None:
    experiment = config.load(toy, {"data.train": str(data / "pairs")})
    run = create_run("taken", experiment, Dataset.open(data / "pairs").fingerprint, "test", "")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    code, _, err = ask("pretrain", toy, f"data.train={data}/pairs", "--name", "taken")
    assert code == 2 and "a run named 'taken' exists" in err and "sightline resume taken" in err
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_resume_names_the_nearest_run_and_refuses_to_change_what_is_learned(ask: Ask, data: Path, toy: str) -> None:
    experiment = config.load(toy, {"data.train": str(data / "pairs")})
    create_run("morning", experiment, Dataset.open(data / "pairs").fingerprint, "test", "")
    code, _, err = ask("resume", "mornin")
    assert code == 2 and "did you mean 'morning'?" in err
    for change in ("pretext.mask_ratio=0.5", "batch.microbatch=4", "train.length=9 steps", "data.block=32"):
        code, _, err = ask("resume", "morning", change)
        assert code == 2 and "cannot change what is learned" in err, change
    code, _, err = ask("resume", "morning", "train.workers=5")
    assert code == 2 and "does not divide the 6 microbatches" in err


@pytest.mark.slow
def test_a_dry_run_tells_settings_plan_and_cost_and_starts_nothing(home: Path, data: Path, toy: str) -> None:
    code, modules, said, _ = in_a_process("pretrain", toy, f"data.train={data}/pairs", "pretext.mask_ratio=0.5", "--dry-run")
    assert code == 0 and "ray" not in modules and "mlflow" not in modules
    for expected in ("mask_ratio: 0.5", "parameters ", "GFLOP a sample", "18 steps over 216 samples", "data tasks 1 x"):
        assert expected in said
    assert not home.exists()


@pytest.mark.slow
def test_a_dry_run_answers_scripts_with_settings_that_load(ask: Ask, home: Path) -> None:
    code, out, _ = ask("pretrain", "croco-v2-base", "train.workers=1", "--dry-run", "--json")
    answer = json.loads(out)
    assert code == 0 and config.load("x", settings=answer["settings"]).train.workers == 1
    assert 190e6 < answer["estimate"]["parameters"] < 210e6 and answer["estimate"]["steps"] is None
    assert not home.exists()


def test_a_command_is_one_module(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beside the others is in the help, takes settings on both sides of an option and answers scripts."""
    import sightline.pipelines

    (tmp_path / "count_rows.py").write_text(
        '"""Count."""\n\nSUMMARY = "count the rows"\n\n\ndef add_arguments(parser):\n    parser.add_argument("names", nargs="*")\n'
        '    parser.add_argument("--by")\n\n\ndef run(args):\n    return {"names": args.names, "by": args.by}\n'
    )
    (tmp_path / "helpers.py").write_text('"""No command: it has no summary."""\n')
    monkeypatch.setattr(sightline.pipelines, "__path__", [*sightline.pipelines.__path__, str(tmp_path)])
    commands.cache_clear()
    try:
        assert list(commands())[-1] == "count-rows" and "helpers" not in commands()
        _, out, _ = ask("--help")
        assert "  count-rows  count the rows" in out
        code, out, _ = ask("count-rows", "a", "--by", "x", "b", "--json")
        assert code == 0 and json.loads(out) == {"names": ["a", "b"], "by": "x"}
    finally:
        sys.modules.pop("sightline.pipelines.count_rows", None)
        sys.modules.pop("sightline.pipelines.helpers", None)
        monkeypatch.undo()
        commands.cache_clear()


@pytest.mark.parametrize("where", ["command", "finaliser"])
def test_ctrl_c_ends_a_command_wherever_it_comes(where: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python cannot raise it from a finaliser, and would go on."""
    from sightline.pipelines import clean

    class Left:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def run(args: Any) -> dict[str, object]:
        if where == "command":
            raise KeyboardInterrupt
        left = Left()
        del left
        until = time.monotonic() + 300
        while time.monotonic() < until:
            time.sleep(0.01)
        return {}

    hook = sys.unraisablehook
    monkeypatch.setattr(clean, "run", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
    try:
        assert main(["clean"]) == 130
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "sightline: stopped\n"


def test_a_folder_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert main(["clean"]) == 2
    assert capsys.readouterr().err.startswith("sightline: the current folder was deleted\n  hint: ")


def test_a_home_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for home, told in ((str(tmp_path / "file"), "is a file"), ("~nobody-of-this-name/x", "that user has no home folder here")):
        monkeypatch.setenv("SIGHTLINE_HOME", home)
        assert main(["clean"]) == 2
        assert told in capsys.readouterr().err


def test_a_user_without_a_home_folder_has_the_default_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_CONFIG_HOME", "SIGHTLINE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert main(["clean"]) == 0


def test_a_home_is_told_without_steps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.platform.core.paths import home

    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "here")
    for named, folder in (("../runs", tmp_path / "runs"), ("../link", tmp_path / "here"), (str(tmp_path / "link"), tmp_path / "link")):
        monkeypatch.setenv("SIGHTLINE_HOME", named)
        assert home() == folder
