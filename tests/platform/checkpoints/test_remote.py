"""Checkpoints in a second place: whole there or not there, never in the way of training, and enough to go on in an empty folder."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tenacity
import torch
from pyarrow import fs

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints import remote, uploader
from sightline.platform.checkpoints.background import BackgroundWriter
from sightline.platform.checkpoints.local import TrainState
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.checkpoints.retention import Retention
from sightline.platform.checkpoints.uploader import Uploader
from sightline.platform.cluster import shared_fs
from sightline.platform.cluster.shared_fs import folder_here
from sightline.platform.experiments.preflight import check
from sightline.platform.runs.events import RunEvent, StorageNote, TrainingEnded, TrainingStarted
from sightline.platform.runs.identity import identity, mark
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

Train = Callable[..., list[RunEvent]]


class Place:
    """In the place of `open_place`: the real file system, which can be away, and of which single calls can fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self.calls = False, 0
        self.before: Callable[[str, str], None] = lambda call, path: None
        self.real = remote.open_place
        monkeypatch.setattr(remote, "open_place", self)
        monkeypatch.setattr(remote, "RETRY_TIMEOUT_SECONDS", 0.0)
        monkeypatch.setattr(uploader, "LAST_UPLOAD_TIMEOUT_SECONDS", 1.5)

    def __call__(self, uri: str) -> tuple[Any, str]:
        self.system, path = self.real(uri)
        return self, path

    def __getattr__(self, name: str) -> Any:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            self.calls += 1
            if self.away:
                raise OSError("no route to s3://ann:secret@host")
            self.before(name, str(path))
            return getattr(self.system, name)(path, *rest, **more)

        return call


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


@pytest.fixture(params=["folder", "file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    there = tmp_path / "there"
    return {"folder": str(there), "file": f"file://{there}", "memory": f"memory://{tmp_path.name}/runs"}[request.param]


QUICK = {"batch.microbatch": 12, "train.length": "9 steps", "train.checkpoint_every": "3 steps", "data.val": None}


def reach(folder: Path, step: int) -> Path:
    """A checkpoint of `step`, as training leaves it."""
    tensors = {"model": {"w": torch.full((8,), float(step))}, "optimizer": {"w|step": torch.tensor(float(step))}}
    return checkpoint.write(folder / "checkpoints", TrainState(step, step * 4, 0, 1, "f", "s", "fp32", "h"), tensors)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The place ---------------------------------------------------------------------------------------------------------------------------


def test_what_is_put_is_fetched_elsewhere_and_old_ones_go(uri: str, tmp_path: Path) -> None:
    mine, other = Storage(uri, tmp_path / "one" / "run"), Storage(uri, tmp_path / "two" / "run")
    said: list[str] = []
    assert other.pull(said.append) is None, "nothing is there yet"
    for step in (6, 12, 18):
        reach(mine.folder, step)
        mine.push(Retention(2))
    found = other.pull(said.append)
    assert found is not None and found.state.step == 18 and checkpoint.problem(found.path) is None
    assert torch.equal(found.tensors("model")["w"], torch.full((8,), 18.0))
    assert names(other.folder / "checkpoints") == ["step-00000018"], "the newest alone, and no beginnings"
    assert remote._steps(*mine._open()) == ["step-00000018", "step-00000012"] and not said


def test_what_is_there_is_not_put_again_and_what_is_here_not_fetched(place: Place, tmp_path: Path) -> None:
    mine = Storage(str(tmp_path / "there"), tmp_path / "one" / "run")
    reach(mine.folder, 6)
    mine.push(Retention(2))
    writes: list[str] = []
    place.before = lambda call, path: writes.append(path) if call in ("open_output_stream", "open_input_stream") else None
    mine.push(Retention(2))
    assert {Path(path).name for path in writes} == {"complete.json"}, "read, to compare it"
    writes.clear()
    reach(mine.folder, 12)
    found = mine.pull(print)
    assert found is not None and found.state.step == 12 and not writes


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "complete.json.part"])
def test_half_an_upload_is_not_seen_and_the_next_completes_it(file: str, place: Place, tmp_path: Path) -> None:
    mine, other = (Storage(str(tmp_path / "there"), tmp_path / name / "run") for name in ("one", "two"))
    reach(mine.folder, 6)
    mine.push(Retention(1))
    reach(mine.folder, 12)

    def cut(call: str, path: str) -> None:
        if call == "open_output_stream" and path.endswith(file):
            raise OSError("connection reset")

    place.before = cut
    with pytest.raises(OSError, match="connection reset"):
        mine.push(Retention(1))
    said: list[str] = []
    found = other.pull(said.append)
    assert found is not None and found.state.step == 6 and not said, "the one before is still there, and the new one does not exist"
    place.before = lambda call, path: None
    mine.push(Retention(1))
    found = other.pull(print)
    assert found is not None and found.state.step == 12
    assert names(tmp_path / "there" / "run" / "checkpoints") == ["step-00000012"]


def test_altered_bytes_are_passed_over_and_a_harmed_copy_here_is_replaced(tmp_path: Path) -> None:
    mine, other = (Storage(str(tmp_path / "there"), tmp_path / name / "run") for name in ("one", "two"))
    for step in (6, 12):
        reach(mine.folder, step)
        mine.push(Retention(2))
    file = tmp_path / "there" / "run" / "checkpoints" / "step-00000012" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said: list[str] = []
    found = other.pull(said.append)
    assert found is not None and found.state.step == 6 and "step-00000012" in said[0] and "altered" in said[0]
    file.write_bytes(whole)
    (mine.folder / "checkpoints" / "step-00000012" / "model.safetensors").write_bytes(b"")
    found = mine.pull(said.append)
    assert found is not None and found.state.step == 12 and len(said) == 1


def test_a_checkpoint_that_training_removes_meanwhile_is_put_to_its_end(place: Place, tmp_path: Path) -> None:
    """Else a slow storage and many checkpoints would leave none there."""
    mine = Storage(str(tmp_path / "there"), tmp_path / "one" / "run")
    path = reach(mine.folder, 6)
    place.before = lambda call, target: shutil.rmtree(path, ignore_errors=True) if call == "open_output_stream" else None
    mine.push(Retention(1))
    assert not path.exists()
    found = Storage(mine.uri, tmp_path / "two" / "run").pull(print)
    assert found is not None and found.state.step == 6


def test_an_upload_that_comes_late_removes_no_newer_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looked before the newer one was there: the thread of a training that ended, and the process that goes on."""
    late, other = (Storage(str(tmp_path / "there"), tmp_path / name / "run") for name in ("one", "two"))
    reach(late.folder, 6)
    reach(other.folder, 12)
    complete = remote._complete

    def stale(*place: Any) -> list[str]:
        found = complete(*place)
        monkeypatch.setattr(remote, "_complete", complete)
        other.push(Retention(1))
        return found

    monkeypatch.setattr(remote, "_complete", stale)
    late.push(Retention(1))
    assert remote._steps(*other._open())[0] == "step-00000012"


def test_a_storage_that_is_away_at_the_start(place: Place, tmp_path: Path) -> None:
    mine = Storage(str(tmp_path / "there"), tmp_path / "one" / "run")
    place.away = True
    with pytest.raises(SightlineError, match=r"train\.storage does not answer: .*no route to .*\*\*\*@host") as caught:
        mine.pull(print)
    assert "secret" not in str(caught.value)
    reach(mine.folder, 6)
    said: list[str] = []
    found = mine.pull(said.append)
    assert found is not None and found.state.step == 6 and "going on from step-00000006" in said[0]


def test_it_is_asked_again_for_a_while(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Storage(str(tmp_path / "there"), tmp_path / "one" / "run")
    place.away = True
    monkeypatch.setattr(remote, "RETRY_TIMEOUT_SECONDS", 10.0)
    monkeypatch.setattr(tenacity.nap.time, "sleep", lambda seconds: setattr(place, "away", False))
    assert mine.pull(print) is None and not place.away


def test_the_weights_a_run_began_with_go_along_and_the_place_is_one_runs_alone(uri: str, tmp_path: Path) -> None:
    mine, other = Storage(uri, tmp_path / "one" / "run"), Storage(uri, tmp_path / "two" / "run")
    for name in ("init/weights.safetensors", "frozen/model.teacher.safetensors"):
        (mine.folder / name).parent.mkdir(parents=True)
        (mine.folder / name).write_bytes(name.encode())
    mine.claim(identity(mine.folder))
    mine.claim(identity(mine.folder))
    for name in ("init/weights.safetensors", "frozen/model.teacher.safetensors", "frozen/nothing"):
        other.fetch(name)
    assert (other.folder / "frozen/model.teacher.safetensors").read_bytes() == b"frozen/model.teacher.safetensors"
    assert names(other.folder / "init") == ["weights.safetensors"] and not (other.folder / "frozen/nothing").exists()
    with pytest.raises(SightlineError, match="another run of this name lies in"):
        other.claim(identity(other.folder))


@pytest.mark.parametrize("uri", ["nosuch://bucket/runs", "s3://key:secret@bucket/runs"])
def test_an_address_that_will_not_do_is_refused_before_anything_starts(uri: str, toy_run: Callable[..., Run]) -> None:
    run = toy_run("refused", **{"train.storage": uri})
    with pytest.raises(CallError) as caught:
        check(run.experiment)
    assert "secret" not in str(caught.value)


# Beside the training -----------------------------------------------------------------------------------------------------------------


def test_nobody_waits_for_an_upload_but_the_end(place: Place, tmp_path: Path) -> None:
    mine, gate = Storage(str(tmp_path / "there"), tmp_path / "one" / "run"), threading.Event()
    beside = Uploader(mine, Retention(2))
    place.before = lambda call, path: gate.wait(300) and None
    reach(mine.folder, 6)
    beside.begin()
    reach(mine.folder, 12)
    beside.begin()
    beside.finish(timeout=0.1)
    assert "takes too long" in beside.news()[0] and not beside.news(), "said once"
    gate.set()
    beside.finish(timeout=300)
    assert "answers again" in beside.news()[0]
    assert remote._complete(*mine._open())[0] == "step-00000012", "what came while another was under way"


@pytest.mark.slow
def test_training_goes_on_while_the_storage_is_away(
    place: Place, toy_run: Callable[..., Run], train_here: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = toy_run("away", **QUICK, **{"train.storage": str(tmp_path / "there")})
    begin, start = Uploader.begin, BackgroundWriter.start  # each checkpoint is written and uploaded before the next step
    monkeypatch.setattr(Uploader, "begin", lambda self: (begin(self), self._thread.join()))
    monkeypatch.setattr(BackgroundWriter, "start", lambda self, *given: (start(self, *given), self.wait()))
    there = tmp_path / "there" / "away" / "checkpoints"
    place.before = lambda call, path: setattr(place, "away", "step-00000006" in path)
    events = train_here(run)
    assert isinstance(events[-2], TrainingEnded) and events[-2].step == 9 and names(there) == ["step-00000003"], "the end is tried, too"
    assert sum(isinstance(event, StorageNote) for event in events) == 2, "once where it happened, once at the end"
    assert isinstance(events[-1], StorageNote) and "no route to" in events[-1].text and "secret" not in events[-1].text
    assert names(run.folder / "checkpoints") == ["step-00000006", "step-00000009"]
    place.before, place.away = lambda call, path: None, False
    events = train_here(run)
    assert isinstance(events[-1], TrainingEnded) and names(there) == ["step-00000003", "step-00000009"]


@pytest.mark.slow
def test_a_run_goes_on_in_an_empty_folder_with_the_same_bits(toy_run: Callable[..., Run], train_here: Train, tmp_path: Path) -> None:
    """As on another node that shares nothing with the first but the storage."""
    whole, parts = toy_run("whole", **QUICK), toy_run("parts", **QUICK, **{"train.storage": str(tmp_path / "there")})
    train_here(whole)
    train_here(parts, stop_after=5)
    shutil.rmtree(parts.folder / "checkpoints")
    events: list[RunEvent] = []
    job = TrainJob(parts.experiment, tmp_path / "node" / "parts", parts.fingerprint)
    train(job, events.append, lambda: False)
    assert [event.first_step for event in events if isinstance(event, TrainingStarted)] == [5]
    found, expected = Storage.of(parts.experiment, parts.folder).pull(print), checkpoint.newest(whole.folder / "checkpoints")  # type: ignore[union-attr]
    assert found is not None and expected is not None and found.path.is_relative_to(parts.folder)
    assert replace(found.state, settings=expected.state.settings) == expected.state
    for stem in ("model", "optimizer"):
        ours, theirs = (json.loads((one.path / "complete.json").read_text())["files"] for one in (found, expected))
        assert ours[f"{stem}.safetensors"] == theirs[f"{stem}.safetensors"], "by their SHA-256"


# Nodes -------------------------------------------------------------------------------------------------------------------------------


def test_a_node_knows_whether_it_sees_the_runs_folder(toy_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_fs, "LOOK_SECONDS", 0.0)
    run, kept = toy_run("plain"), toy_run("kept", **{"train.storage": str(tmp_path / "there")})
    token = mark(run.folder)
    assert folder_here(run.folder, token, None) == run.folder
    copy = shutil.copytree(run.folder, tmp_path / "copy" / "plain")
    again = mark(run.folder)
    assert again != token and again.split()[0] == token.split()[0] == identity(run.folder)
    for folder in (copy, tmp_path / "nowhere" / "plain"):
        with pytest.raises(SightlineError, match="does not see the run's folder") as caught:
            folder_here(folder, again, None)
        assert "train.storage=URI" in caught.value.hint
    own = folder_here(kept.folder, "another-identity start", kept.experiment.train.storage)
    assert own.name == "kept" and own.is_dir() and not own.is_relative_to(kept.folder)
    assert fs.LocalFileSystem().get_file_info(str(own)).type == fs.FileType.Directory
