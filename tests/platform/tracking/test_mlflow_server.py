"""A real MLflow server, with artifacts through its proxy: it is away at the start, killed in the middle, away at the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import finish, start
from mlflow_server import MlflowServer
from toy import TOY

from sightline.platform.core.screen import Screen
from sightline.platform.experiments import execution, train_run
from sightline.platform.runs.clean import find_waste
from sightline.platform.runs.events import RunEvent, StepsDone, ValidationDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.parent_run import pages_of
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.filterwarnings("ignore")]  # MLflow's own warnings


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path / "server")
    yield server
    server.kill()


def client_of(server: MlflowServer) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=server.uri)


def points(server: MlflowServer, run: Run, metric: str) -> list[int]:
    """The steps that the server holds of a metric, repetitions included."""
    return sorted(m.step for m in client_of(server).get_metric_history(str(run.mlflow_run_id), metric))


def wait_for(what: Callable[[], Any], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.2)


def busy(tracking: Any) -> bool:
    """Whether its thread is delivering."""
    free = tracking._lock.acquire(blocking=False)
    if free:
        tracking._lock.release()
    return not free


def delivered(run: Run) -> int:
    """Bytes of the spool that the server has taken."""
    path = run.folder / "tracking.json"
    return int(json.loads(path.read_text())["offset"]) if path.exists() else 0


def has_everything(server: MlflowServer, run: Run, steps: int) -> None:
    """Every figure once; settings, data, pictures and report; the encoder under its alias, with where it came from."""
    client, run_id = client_of(server), str(run.mlflow_run_id)
    (experiment,) = [e for e in client.search_experiments() if e.name == "sightline"]
    assert [found.info.run_id for found in client.search_runs([experiment.experiment_id])] == [run_id]
    for metric in ("train/loss", "train/lr", "train/grad_norm"):
        assert points(server, run, metric) == list(range(1, steps + 1))
    assert points(server, run, "val/loss") == sorted({event.step for event in run.events() if isinstance(event, ValidationDone)})
    filed = client.get_run(run_id)
    page = f"{server.uri}/#/experiments/{experiment.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    assert pages_of(run.tracking_uri, [run_id]) == {run_id: page}
    for metric in (name for name in filed.data.metrics if name.startswith(("claim/", "probe/"))):
        assert len(points(server, run, metric)) == 1, metric
    assert any(name.startswith("claim/") for name in filed.data.metrics)
    assert filed.info.status == "FINISHED" and filed.info.artifact_uri.startswith("mlflow-artifacts:")
    assert set(filed.data.params) == set(run.experiment.flat())
    assert {"report.html", "settings.yaml", "claims.json", "picture-1.png"} <= {item.path for item in client.list_artifacts(run_id)}
    (version,) = client.search_model_versions("name = 'croco-encoder'")
    assert client.get_model_version_by_alias("croco-encoder", "candidate").version == version.version
    assert version.run_id == run_id and version.tags["sightline.run"] == run.name
    assert version.tags["sightline.fingerprint"] == run.fingerprint and version.tags["sightline.recipe"] == run.recipe
    assert version.tags.get("sightline.commit") == filed.data.tags.get("mlflow.source.git.commit") == run.commit
    data = {given.tags[0].value: given.dataset.digest for given in filed.inputs.dataset_inputs}
    assert data.keys() == {"training", "validation"} and data["training"] == run.fingerprint[:36]


def loads_back(server: MlflowServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the server: as MLflow loads it, and as Sightline opens it."""
    import mlflow

    from sightline.platform.models.encoders import open_encoder

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    images = torch.linspace(0, 1, 3 * 3 * 64 * 64).reshape(3, 3, 64, 64)
    own = open_encoder(str(run.folder)).encoder.eval()
    filed = mlflow.pytorch.load_model("models:/croco-encoder@candidate")
    opened = open_encoder("models:/croco-encoder@candidate").encoder.eval()
    with torch.no_grad():
        assert (filed(images) - own(images)).abs().max() < 1e-5
        assert torch.equal(opened(images), own(images))


def test_a_server_that_comes_dies_and_comes_back_has_every_metric_once(
    server: MlflowServer, toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down at the start, up at step 8, killed at step 24, up again at step 40, silent from step 48 to 54; 60 steps."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
    run = toy_run("restless", **{"train.length": "60 steps", "log.every": 2, "log.system_metrics": True, "probe.names": []})
    run.tracking_uri = server.uri
    run.save()
    silent = 0.0

    def post(event: RunEvent) -> None:
        """As the recorder of a worker does: on disk at once; then what the test does to the server between two steps."""
        nonlocal silent
        run.append([event])
        match event:
            case StepsDone(first=6):
                assert run.mlflow_run_id is None
                server.start()
                wait_for(lambda: run.mlflow_run_id and delivered(run))
            case StepsDone(first=22):
                before = delivered(run)
                assert before
                server.kill()
                wait_for(lambda: tracking.problem)
                assert delivered(run) >= before
            case StepsDone(first=38):
                before = delivered(run)
                server.start()
                wait_for(lambda: delivered(run) > before and tracking.problem is None)
            case StepsDone(first=46):
                server.pause()
                wait_for(lambda: busy(tracking))
                silent = time.monotonic()
            case StepsDone(first=52):
                assert busy(tracking) and time.monotonic() - silent < 60, "no step waits for an answer"
                server.go_on()

    def train_on_ray(run: Run, on_event: Callable[[RunEvent], None]) -> None:
        train(TrainJob(run.experiment, run.folder, run.fingerprint), post, lambda: False)
        run.status = "trained"
        run.save()

    made = execution.Tracking

    def remembered(run: Run) -> Any:
        nonlocal tracking
        tracking = made(run)
        return tracking

    tracking: Any = None
    monkeypatch.setattr(execution, "Tracking", remembered)
    monkeypatch.setattr(train_run, "start_ray", lambda **named: None)
    monkeypatch.setattr(train_run, "train_on_ray", train_on_ray)
    result = execution.execute(run, Screen(stderr=True))
    assert result["undelivered"] is None and result["registered"] == "models:/croco-encoder@candidate"
    assert points(server, run, "system/cpu_utilization_percentage") == list(range(2, 61, 2))
    has_everything(server, run, 60)
    loads_back(server, run, monkeypatch)


@pytest.mark.long
def test_a_server_that_was_never_there_gets_all_of_it_from_one_resume(
    server: MlflowServer, home: Path, toy_data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(yaml.safe_dump({**TOY, "probe": {"names": []}}))
    data = [f"{key}={value}" for key, value in toy_data.items()]
    result = finish(start(home, "pretrain", str(recipe), *data, f"log.tracking_uri={server.uri}", "--name", "alone"))
    assert result["status"] == "finished" and result["registered"] is None and result["undelivered"]
    run = Run.open(str(home / "runs" / "alone"))
    assert run.mlflow_run_id is None and delivered(run) == 0 and (run.folder / "encoder").is_dir()
    recorded = (run.folder / "events.jsonl").read_bytes()

    server.start()
    for _ in range(2):  # the second one has nothing left to deliver, files nothing twice, and needs no more than `clean` leaves
        result = finish(start(home, "resume", "alone"))
        run = Run.open(str(home / "runs" / "alone"))
        assert result["undelivered"] is None and result["registered"] == "models:/croco-encoder@candidate"
        assert run.attempts == 1 and (run.folder / "events.jsonl").read_bytes() == recorded, "nothing is trained again"
        has_everything(server, run, 18)
        for waste in find_waste(run):
            waste.remove()
        assert [path.name for path in (run.folder / "checkpoints").rglob("*.safetensors")] == ["model.safetensors"]
    loads_back(server, run, monkeypatch)


def test_a_request_whose_answer_was_lost_is_sent_again_and_stands_once(server: MlflowServer, toy_run: Callable[..., Run]) -> None:
    from sightline.platform.tracking.mlflow_run import Tracking

    server.start()
    run = toy_run("lost")
    run.tracking_uri = server.uri
    run.append([ValidationDone(step, {"loss": 1.0 / step}) for step in range(1, 6)])
    tracking = Tracking(run)
    sent = tracking.client.log_batch

    def unanswered(run_id: str, **what: Any) -> None:
        sent(run_id, **what)
        raise ConnectionError("the answer was lost")

    tracking.client.log_batch = unanswered
    with pytest.raises(ConnectionError):
        tracking.deliver()
    tracking.client.log_batch = sent
    tracking.close("FINISHED")
    assert tracking.problem is None and points(server, run, "val/loss") == [1, 2, 3, 4, 5]
