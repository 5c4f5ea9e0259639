"""Data, checkpoints and MLflow's artifacts on a real S3-compatible server that throttles, fails and breaks off answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from object_store import BUCKET, ObjectStore, object_store
from pyarrow import fs

from sightline.methods.errors import CallError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints import remote, uploader
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.checkpoints.retention import Retention
from sightline.platform.core.filesystem import open_place
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.preflight import check
from sightline.platform.runs.events import RunEvent, StorageNote, TrainingStarted
from sightline.platform.runs.identity import identity
from sightline.platform.runs.record import Run
from sightline.platform.training import loop

pytestmark = pytest.mark.slow
FAULTS = 0.15
"""Share of requests that fail."""
QUICK = {"batch.microbatch": 12, "train.length": "9 steps", "train.checkpoint_every": "3 steps"}
MakeRun = Callable[..., Run]
Train = Callable[..., list[RunEvent]]


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with object_store() as store:
        yield store


@pytest.fixture
def store(server: ObjectStore) -> Iterator[ObjectStore]:
    """Without faults at the beginning and at the end of each test."""
    server.rng.seed(1)
    server.share, server.away, server.counts = 0.0, False, dict.fromkeys(server.counts, 0)
    yield server
    server.share, server.away = 0.0, False


def upload(folder: str, name: str) -> str:
    """The address of a copy of a local data set."""
    system, place = open_place(f"s3://{BUCKET}/{name}")
    fs.copy_files(folder, place, destination_filesystem=system)
    return f"s3://{BUCKET}/{name}"


def weights(run: Run) -> dict[str, torch.Tensor]:
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None and found.state.step == run.experiment.train.length.amount
    return found.tensors("model")


def test_a_run_in_which_everything_lies_there_gives_the_same_bits_and_goes_on_elsewhere(
    store: ObjectStore, toy_run: MakeRun, toy_data: dict[str, str], train_here: Train
) -> None:
    plain = toy_run("plain", **QUICK)
    train_here(plain)
    there = {key: upload(value, f"{key}-run") for key, value in toy_data.items()}
    assert Dataset.open(there["data.train"]).fingerprint == plain.fingerprint
    run = toy_run("run", **QUICK, **there, **{"train.storage": f"s3://{BUCKET}/runs"})
    store.share = FAULTS
    train_here(run, stop_after=5)
    shutil.rmtree(run.folder / "checkpoints")  # the machine is gone, another one goes on
    events = train_here(run)
    assert [event.first_step for event in events if isinstance(event, TrainingStarted)] == [5]
    assert min(store.counts[fault] for fault in ("throttled", "failed", "cut")) > 0, store.counts
    ours, theirs = weights(run), weights(plain)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    system, place = open_place(f"s3://{BUCKET}/runs/run")
    assert remote._complete(system, place) == ["step-00000009", "step-00000006"]


def test_a_store_that_is_away_stops_no_training_and_gets_the_newest_checkpoint_later(
    store: ObjectStore, toy_run: MakeRun, train_here: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploader, "LAST_UPLOAD_TIMEOUT_SECONDS", 1.0)
    run = toy_run("away", **{**QUICK, "train.storage": f"s3://{BUCKET}/runs"})
    mine = Storage(f"s3://{BUCKET}/runs", run.folder)
    mine.claim(identity(run.folder))
    monkeypatch.setattr(loop, "find", lambda *places: None)  # it was there when the run began
    store.away = True
    events = train_here(run)
    assert any("the newest checkpoint is not in s3://bucket/runs/away" in event.text for event in events if isinstance(event, StorageNote))
    store.away = False
    mine.push(Retention(2))
    assert weights(run) and remote._complete(*mine._open())[0] == "step-00000009"


def test_what_is_not_there_is_told_before_training(store: ObjectStore, toy_run: MakeRun) -> None:
    with pytest.raises(CallError, match="there is no bucket 'nobody'"):
        check(toy_run("bucket", **{"train.storage": "s3://nobody/runs"}).experiment)
    with pytest.raises(CallError, match="there is no data set at s3://nobody/set: there is no bucket 'nobody'"):
        Dataset.open("s3://nobody/set")


def test_mlflow_keeps_its_artifacts_there(store: ObjectStore, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder, registered while requests fail, and opened by its alias."""
    import mlflow
    from made import made_run

    from sightline.platform.models.encoders import open_encoder
    from sightline.platform.tracking.registry import register_import

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    mlflow.MlflowClient(uri).create_experiment("sightline", artifact_location=f"s3://{BUCKET}/mlflow")
    run = made_run("first")
    store.share = 2 * FAULTS
    filed = register_import(open_encoder("first").weights, "kitchen")
    assert store.counts["answered"] > 3 and sum(store.counts.values()) > store.counts["answered"]
    opened = open_encoder("models:/kitchen@candidate")
    assert filed.aliased and opened.sha256 == open_encoder(str(run.folder)).sha256
    version = mlflow.MlflowClient(uri).get_model_version("kitchen", "1")
    assert mlflow.artifacts.list_artifacts(f"models:/kitchen/{version.version}", tracking_uri=uri)
