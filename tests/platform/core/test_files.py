"""Records on disk: replaced whole, synced, and an error of the machine is told in words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sightline.methods.errors import MachineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.retention import Retention, prune
from sightline.platform.core import files
from sightline.platform.core.files import (
    append_lines,
    as_record,
    make_folder,
    parse_lines,
    read_record,
    replacing,
    write_record,
    write_text,
)

WRITERS: dict[str, Callable[[Path], Any]] = {
    "record": lambda folder: write_record(folder / "run.json", {"name": "new"}),
    "text": lambda folder: write_text(folder / "run.json", '{"name": "new"}'),
    "log": lambda folder: append_lines(folder / "events.jsonl", [{"kind": "note"}]),
}


def failing(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    """Every call of `os.FUNCTION` fails like a disk."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, function, fail)


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.EROFS, "read-only"), (errno.EIO, "input/output error"), (errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "quota")],
)
def test_an_error_of_the_disk_is_told_and_the_old_record_stays(
    writer: str, number: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(tmp_path / "run.json", {"name": "old"})
    before = sorted(path.name for path in tmp_path.iterdir())
    failing(monkeypatch, "fsync", number)
    with pytest.raises(MachineError, match=f"{says}.*{tmp_path}") as caught:
        WRITERS[writer](tmp_path)
    assert "then do the same again" in caught.value.hint
    assert read_record(tmp_path / "run.json") == {"name": "old"}
    assert [name for name in sorted(path.name for path in tmp_path.iterdir()) if name != "events.jsonl"] == before, "nothing hidden is left"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC])
def test_a_checkpoint_that_the_disk_refuses_leaves_the_one_before(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def write(step: int) -> None:
        state = checkpoint.TrainState(step, step * 12, 0, 1, "data", "settings", "fp32", "history")
        checkpoint.write(tmp_path, state, {"model": {"a": torch.ones(3)}})
        prune(tmp_path, Retention(2))

    write(1)
    with monkeypatch.context() as patch, pytest.raises(MachineError, match="checkpoint of step 2 could not be written"):
        failing(patch, "fsync", number)
        write(2)
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.state.step == 1 and [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    (tmp_path / ".part-killed").mkdir()  # what a kill left behind
    (tmp_path / "step-00000000").mkdir()  # half deleted
    write(2)
    write(3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_every_write_is_synced_before_its_rename_and_the_folder_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loss of power takes: bytes that were not synced, and names in folders that were not synced."""
    calls: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_sync(descriptor)

    def replace(self: Path, target: Path) -> Path:
        calls.append(f"rename {self.name} {target.name}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    folder = make_folder(tmp_path / "a" / "b")
    write_record(folder / "run.json", {})
    append_lines(folder / "log", [{"n": 1}])
    append_lines(folder / "log", [{"n": 2}])
    made = [f"sync {tmp_path.name}", "sync a"]
    assert calls == [*made, "sync .run.json.part", "rename .run.json.part run.json", "sync b", "sync log", "sync b", "sync log"]


def test_devices_are_written_to_and_links_are_followed(tmp_path: Path) -> None:
    write_text(Path("/dev/null"), "gone")
    assert not Path("/dev/null").is_file()
    (tmp_path / "link").symlink_to(write_text(tmp_path / "real", "old"))
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "real") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "real").read_text() == "new" and len(list(tmp_path.iterdir())) == 2


def test_lines_that_hold_no_record_are_skipped() -> None:
    lines = [
        b'{"a": 1}\n',
        b"[1]\n",
        b"null\n",
        b"3\n",
        bytes(40) + b"\n",
        b'{"a": "\xff"}\n',
        b"[" * 100_000 + b"\n",
        b'{"a": 2}\n',
        b'{"a"',
    ]
    assert list(parse_lines(lines)) == [{"a": 1}, {"a": 2}]


@dataclass
class Small:
    name: str
    steps: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": 3}, "name: Expected `str`"),
        ({}, "missing.*name"),
        ({"name": "a", "steps": ["x"]}, "steps"),
        ({"nam": "a"}, "unknown field 'nam'"),
    ],
)
def test_a_record_of_wrong_types_names_the_field(values: dict[str, Any], says: str) -> None:
    assert as_record(Small, {"name": "a", "steps": [1, 2]}) == Small("a", (1, 2))
    with pytest.raises(ValueError, match=says):
        as_record(Small, values)


def test_no_other_module_of_the_platform_writes_files_by_itself() -> None:
    """But for a checkpoint, an export and a model for the registry, which are folders that are whole or absent, for sample files, and for
    locks and the log of the process behind `sightline up`."""
    root = Path(checkpoint.__file__).parents[1]
    folders = {"checkpoints/local.py", "checkpoints/remote.py", "models/export.py", "tracking/registry.py"}
    writing = re.compile(r"(?<!part)\.write_(text|bytes)\(|\.open\(\"[wa]")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if writing.search(path.read_text())}
    files = {"core/files.py", "core/locks.py", "core/kept_ray.py"}
    assert {name for name in found if not name.startswith("data/synthetic/")} <= folders | files


def test_durations_and_names_do_not_depend_on_the_clock_of_the_day() -> None:
    """It may be set back. It is read for the times in records, for people."""
    root = Path(checkpoint.__file__).parents[1]
    reading = re.compile(r"time\.time\(\)|datetime\.now|strftime")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if reading.search(path.read_text())}
    records = {"core/files.py", "data/writer.py", "experiments/create.py", "experiments/compare/record.py", "experiments/sweep/record.py"}
    names = {"runs/names.py", "tracking/database.py"}  # for people, and not the only thing that tells two apart
    ages = {"runs/clean.py"}  # a clock put forward by an hour while a command starts lets `clean` take data that no run names yet
    mlflow = {f"tracking/{name}.py" for name in ("client", "evaluation_run", "mlflow_run", "models", "promotion")}  # times of its records
    assert found <= records | names | ages | mlflow


def test_a_clock_that_is_set_back_harms_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files.time, "time", lambda: 2e9)
    append_lines(tmp_path / "log", [{"n": 1}])
    monkeypatch.setattr(files.time, "time", lambda: 1e9)
    append_lines(tmp_path / "log", [{"n": 2}])
    with (tmp_path / "log").open("rb") as log:
        assert [(line["n"], line["time"]) for line in parse_lines(log)] == [(1, 2e9), (2, 1e9)]
