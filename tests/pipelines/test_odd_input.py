"""Whatever words, settings and files a person brings: a sentence and an exit code, never a fault of ours, and nothing is started."""

from __future__ import annotations

import errno
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from asking import Ask
from toy import TOY_IMAGES, write_images

from sightline.methods.errors import MachineError, explained
from sightline.pipelines import inspect as command
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.record import Run

RECIPES = [
    "",
    "a",
    "{}",
    "method:",
    "method: [a]",
    "method: conmim\nmodel: 3",
    "method: conmim\n1: {}",
    "method: conmim\ntrain: {1: 2}",
    "method: conmim\ntrain: [1]\ninit: x",
    "method: conmim\ntrain: false",
    "method: conmim\nmodel: {? [1] : 2}",
    "&a [*a]",
    "- x",
    "\t",
    "method: 2026-02-30",
    "{" * 300,
    "!!python/object:os.system x",
    "method: conmim\nmethod: loca",
    "entries: 3",
    "entries: []",
    "entries: {a: b}",
    "entries: {a: {recipe: conmim-tiny, 3: 4}}",
    "entries: {'a b': {recipe: conmim-tiny}}",
    "a.b: []",
    "optim.lr: {a: b}",
]
VALUES = [
    "",
    "nan",
    ".nan",
    ".inf",
    "-1",
    "0",
    "true",
    "null",
    "1e999",
    "9" * 40,
    "[]",
    "[1,2",
    "{a: b}",
    "a b",
    "~",
    "'",
    '"',
    "2026-02-30",
    "0b_",
    "*a",
    "&a b",
    "!!binary x",
    "1:30",
    "1e400 steps",
    ".5.5 epochs",
    "[64,64]",
    "ünï",
    "\x1b[31m",
    "\udce9",
    "x" * 3000,
    "| a",
    "%",
    "@",
]
PLACES = [
    "",
    "empty",
    "binary",
    "folder",
    "images",
    "toy.yaml",
    "nowhere",
    "folder/not.jpg",
    "images/manifest.json",
    "x" * 5000,
    "~nobody/x",
    "/",
    "\x1b[31m",
    "\udce9",
    "[red]",
    "a\nb",
    "://",
    "file:///nowhere",
    "memory://x",
    "x://y",
    "models:/",
    "models:/a",
    "models:/a@b",
    "random:1",
    "random:x",
    "..",
    "-1",
    "good",
    "broken",
    *(f"recipe{number}.yaml" for number in range(len(RECIPES))),
]
RECORDS = ["", "{}", "[]", "3", "null", '"x"', '{"kind": "images"}', "{", "\x00", "[" * 2000, '{"name": []}']
KEYS = ["init", "lr", "a", "", "a.", "..", "train", "model.encoder.x", *config.load("conmim-tiny").flat()]


@pytest.fixture
def place(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, made: list[Run]) -> Path:
    """A folder with a data set, a recipe and a run that are good, and much that is not."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", 12, 1)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(TOY_IMAGES["conmim"]))
    for number, text in enumerate(RECIPES):
        (tmp_path / f"recipe{number}.yaml").write_text(text)
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "not.jpg").write_bytes(b"not")
    experiment = config.load("toy.yaml", {"data.train": str(tmp_path / "images")})
    create_run("good", experiment, Dataset.open(tmp_path / "images").fingerprint, "a test", "")
    for kind, file in (("runs", "run.json"), ("sweeps", "sweep.json"), ("comparisons", "comparison.json")):
        (home / kind / f"{kind}-broken").mkdir(parents=True)
        (home / kind / f"{kind}-broken" / file).write_text("{}")
    (tmp_path / "broken").mkdir()
    return tmp_path


def words(rng: random.Random) -> list[str]:
    """A call of any command but those that would take long."""

    def options(*names: str) -> list[str]:
        return [word for name in names if rng.random() < 0.4 for word in (name, rng.choice(VALUES + PLACES))]

    settings = [f"{rng.choice(KEYS)}={rng.choice(VALUES + PLACES)}" for _ in range(rng.randint(0, 2))] + rng.choice(
        [[], [rng.choice(VALUES)]]
    )
    data = f"data.train={rng.choice(['images', *PLACES])}"
    recipe, model = rng.choice(["toy.yaml", "conmim-tiny", *PLACES]), rng.choice(PLACES)
    space = rng.choice([f"{rng.choice(KEYS)}={rng.choice(VALUES)}", rng.choice(PLACES), "optim.lr=log:1e-3..1"])
    split = options("--split", "--size", "--max-skipped", "--seed", "--split-gap")
    return rng.choice(
        [
            ["pretrain", recipe, data, *settings, *options("--name")],
            ["finetune", model, data, "--task", "classification", *settings, *options("--recipe")],
            ["resume", rng.choice(["runs-broken", "sweeps-broken", "comparisons-broken", model]), *settings, *options("--trials")],
            [
                "sweep",
                recipe,
                data,
                *settings,
                "--space",
                space,
                "--dry-run",
                *options("--trials", "--objective", "--rungs", "--seed", "--name"),
            ],
            [
                "compare",
                recipe,
                data,
                *settings,
                "--budget",
                *rng.choice([["1 flip"], VALUES[:1]]),
                *options("--seeds", "--probe", "--data"),
            ],
            ["evaluate", model, *options("--probe", "--data", "--train", "--test", "--controls")],
            ["encode", model, rng.choice(PLACES), "--out", "features.parquet", *options("--pool", "--batch")],
            ["export", model, "--format", "timm", "--out", "exported"],
            ["import", model, "--method", rng.choice(["croco", "x"]), "--out", "imported", *settings, *options("--preset")],
            ["inspect", rng.choice(PLACES), *options("--rows")],
            ["clean", *rng.sample(PLACES, rng.randint(0, 2)), *options("--keep")],
            ["prepare", "images", "folder", rng.choice(PLACES), "--out", rng.choice(["made", "empty/made", "folder"]), *split],
            ["prepare", "pairs", rng.choice(["frames", "rgbd", "list"]), rng.choice(PLACES), "--out", "made", *split],
            ["prepare", "merge", rng.choice(PLACES), rng.choice(PLACES), "--out", "made"],
            ["submit", "--address", rng.choice(["http://127.0.0.1:9", *PLACES]), "--", "pretrain", recipe, *settings],
        ]
    )


def told(ask: Ask, *call: str) -> None:
    code, _, err = ask(*call)
    assert code in (0, 1, 2) and "please report it" not in err and "Traceback" not in err, (call, err)
    assert code == 0 or err.startswith("sightline: "), (call, err)
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in err), (call, "control characters reach the terminal")


def calls(ask: Ask, made: list[Run], place: Path, home: Path, seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        (place / "broken" / "manifest.json").write_text(rng.choice(RECORDS))
        for kind, file in (("runs", "run.json"), ("sweeps", "sweep.json"), ("comparisons", "comparison.json")):
            (home / kind / f"{kind}-broken" / file).write_text(rng.choice(RECORDS))
        told(ask, *words(rng))
    assert all(run.experiment.data.train for run in made)


def test_odd_words_are_answered_with_a_sentence(ask: Ask, made: list[Run], place: Path, home: Path) -> None:
    calls(ask, made, place, home, range(25))


@pytest.mark.slow
def test_many_odd_words_are_answered_with_a_sentence(ask: Ask, made: list[Run], place: Path, home: Path) -> None:
    calls(ask, made, place, home, range(1000, 1500))


def altered(record: Any, rng: random.Random) -> Any:
    """The record with one value, at any depth, replaced by an odd one."""
    odd = [None, True, -1, 1.5, float("nan"), 10**30, "", "\x00", "\x1b[31m", [], [None], {}, {"a": {}}]
    if isinstance(record, (dict, list)) and record and rng.random() < 0.8:
        where = rng.choice(list(record) if isinstance(record, dict) else range(len(record)))
        copy: Any = dict(record) if isinstance(record, dict) else list(record)
        copy[where] = altered(record[where], rng)
        return copy
    return rng.choice(odd)


@pytest.mark.parametrize("seeds", [range(3), pytest.param(range(100, 160), marks=pytest.mark.slow)], ids=("few", "many"))
def test_one_odd_value_in_a_record_is_told(seeds: range, ask: Ask, place: Path, home: Path) -> None:
    run, manifest = home / "runs" / "good" / "run.json", place / "images" / "manifest.json"
    records = {path: json.loads(path.read_text()) for path in (run, manifest)}
    for seed in seeds:
        rng = random.Random(seed)
        for path, record in records.items():
            path.write_text(json.dumps(altered(record, rng)))
            for call in (["resume", "good"], ["clean"], ["inspect", "images"], ["pretrain", "toy.yaml", "data.train=images"]):
                told(ask, *call)
            path.write_text(json.dumps(record))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG])
def test_what_the_system_refuses_is_no_fault_of_the_code(number: int, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> dict[str, Any]:
        raise OSError(number, os.strerror(number), "/somewhere/[red]x\x1b")

    monkeypatch.setattr(command, "run", run)
    code, out, err = ask("inspect", "anything", "--json")
    assert code == 1 and f"sightline: /somewhere/[red]x\\x1b: {os.strerror(number)}\n  hint: " in err and "report" not in err
    assert json.loads(out)["hint"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: 5 bytes"), "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left"),
        (ValueError("embedded null byte"), "null byte"),
    ],
)
def test_the_machine_and_names_are_explained(error: Exception, said: str) -> None:
    known = explained(error)
    assert known is not None and said in str(known) and known.hint


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("x"), RuntimeError("x"), OSError("x"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")]
)
def test_other_errors_are_faults_of_the_code(error: Exception) -> None:
    assert explained(error) is None and not isinstance(error, MachineError)


def test_who_stops_reading_ends_the_command(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(args: object) -> dict[str, Any]:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(os, "dup2", lambda *words: None)
    code, _, err = ask("inspect", "anything")
    assert code == 1 and err == ""


@pytest.mark.parametrize("name", ["my run", "ünï", ".hidden", "a/b", "x" * 102, "-x", "", "[red]"])
def test_a_name_is_refused_by_every_command_and_its_dry_run(name: str, ask: Ask, place: Path, home: Path) -> None:
    data = ["data.train=images", "--name", name] if name != "-x" else ["data.train=images", f"--name={name}"]
    for call in (
        ["pretrain", "toy.yaml"],
        ["pretrain", "toy.yaml", "--dry-run"],
        ["sweep", "toy.yaml", "--space", "optim.lr=0.1..1", "--dry-run"],
    ):
        if not name:  # none is asked for
            continue
        code, _, err = ask(*call, *data)
        assert code == 2 and "name" in err and "and begin with a letter or a digit" in err, err
        assert f"{len(name)} letters" in err or len(name) < 99
    assert not (home / "sweeps" / name / "sweep.json").exists() or not name


def test_a_dead_ray_is_told_before_anything_is_made(ask: Ask, place: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    before = sorted(home.rglob("*"))
    data = "data.train=images"
    for call in (
        ["pretrain", "toy.yaml", data, "--name", "x"],
        ["pretrain", "toy.yaml", "--dry-run"],
        ["sweep", "toy.yaml", data, "--space", "optim.lr=0.1..1", "--dry-run"],
        ["resume", "good"],
        ["quickstart"],
        ["prepare", "images", "folder", "folder", "--out", "made"],
    ):
        code, _, err = ask(*call)
        assert code == 2 and "is the address of a dashboard" in err, (call, err)
    assert sorted(home.rglob("*")) == before and not (place / "made").exists()
