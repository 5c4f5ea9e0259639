"""MLflow as the driver keeps it: one run, every figure exactly once, and a server that is away costs nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.core.event_log import append_events
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import (
    PROBES,
    BrokenSamples,
    CheckpointWritten,
    ProbesMeasured,
    ProbesMissed,
    StepsDone,
    TrainingEnded,
    TrainingStarted,
    ValidationDone,
)
from sightline.platform.runs.record import Run
from sightline.platform.tracking import mlflow_run, parent_run
from sightline.platform.tracking.client import NOTE, VERDICT, describe_run, experiment_of
from sightline.platform.tracking.datasets import logged_dataset
from sightline.platform.tracking.mlflow_run import Tracking, is_behind, metrics_of
from sightline.platform.tracking.models import Results

AWAY = "http://127.0.0.1:1"


def steps(first: int, losses: list[float], system: dict[str, float] | None = None) -> StepsDone:
    return StepsDone(
        first=first,
        losses={"loss": losses, "reconstruction": losses},
        lr=[1e-3] * len(losses),
        grad_norm=[1.0] * len(losses),
        seconds=2.0,
        phases={"data_wait": 0.5, "forward": 1.0},
        samples=12 * len(losses),
        system=system,
    )


def validation(step: int, loss: float) -> ValidationDone:
    return ValidationDone(step, {"loss": loss})


def test_the_loss_of_the_first_step_stands_at_one() -> None:
    assert [(step, value) for name, step, value in metrics_of(steps(0, [3.0, 2.0])) if name == "train/loss"] == [(1, 3.0), (2, 2.0)]


def test_steps_give_losses_rate_norm_and_speed() -> None:
    found = {name: (step, value) for name, step, value in metrics_of(steps(10, [3.0, 2.0]))}
    assert found == {
        "train/loss": (12, 2.0),
        "train/reconstruction": (12, 2.0),
        "train/lr": (12, 1e-3),
        "train/grad_norm": (12, 1.0),
        "speed/samples_per_second": (12, 12.0),
        "speed/data_wait": (12, 0.25),
    }


def test_system_metrics_stand_at_the_report_they_were_read_at() -> None:
    event = steps(10, [3.0, 2.0], system={"cpu_utilization_percentage": 55.0})
    assert [found for found in metrics_of(event) if found[0].startswith("system/")] == [("system/cpu_utilization_percentage", 12, 55.0)]


def test_validation_stands_at_its_step_and_other_events_give_nothing() -> None:
    assert list(metrics_of(validation(6, 0.5))) == [("val/loss", 6, 0.5)]
    started = TrainingStarted("cpu", "fp32", 10, 0, 9, 1)
    for event in (started, CheckpointWritten(3, "here", 0.1), TrainingEnded(9, "", stopped=False), BrokenSamples(1, ["why"])):
        assert list(metrics_of(event)) == []


def curve(run: Run, metric: str = "train/loss") -> list[tuple[int, float]]:
    """What MLflow holds of a metric, in the order of steps, repetitions included."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=run.tracking_uri)
    return sorted((m.step, m.value) for m in client.get_metric_history(str(run.mlflow_run_id), metric))


def reopened(run: Run) -> Run:
    """The run as a new driver finds it on disk."""
    return Run.open(str(run.folder))


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite for all tests: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def run(toy_run: Callable[..., Run], database: str) -> Run:
    made = toy_run("tracked")
    made.tracking_uri = database
    made.save()
    return made


@pytest.mark.slow
def test_a_run_has_its_settings_provenance_and_metrics(run: Run) -> None:
    from mlflow import MlflowClient

    run.append([steps(0, [3.0, 2.0, 1.0]), validation(3, 0.9)])
    report = run.folder / "report.html"
    report.write_text("<p>fine</p>")
    tracking = Tracking(run)
    tracking.start()
    tracking.close("FINISHED", artifacts=[report, run.folder / "absent"], results=Results({"probe/depth/delta1": 0.7}))
    assert tracking.problem is None
    assert curve(run) == [(1, 3.0), (2, 2.0), (3, 1.0)] and curve(run, "val/loss") == [(3, 0.9)]
    client = MlflowClient(tracking_uri=run.tracking_uri)
    filed = client.get_run(str(run.mlflow_run_id))
    assert filed.info.status == "FINISHED" and filed.info.run_name == "tracked"
    assert filed.data.params["pretext.mask_ratio"] == "0.75" and filed.data.params["train.length"] == "18 steps"
    assert set(filed.data.params) == set(run.experiment.flat())
    assert filed.data.tags["sightline.fingerprint"] == run.fingerprint and filed.data.tags["sightline.method"] == "croco"
    assert filed.data.metrics["probe/depth/delta1"] == 0.7
    assert [item.path for item in client.list_artifacts(filed.info.run_id)] == ["report.html"]
    assert (Path(filed.info.artifact_uri.removeprefix("file://")) / "report.html").is_file(), "artifacts lie under $SIGHTLINE_HOME"


@pytest.mark.slow
def test_probes_during_training_are_a_curve_that_ends_in_the_final_value(run: Run) -> None:
    """Also where the last two values are the same, and once only where a resume measures the end again."""
    for step, accuracy in ((6, 0.3), (12, 0.5)):
        measured = ProbesMeasured(
            step=step,
            values={"probe/knn/accuracy": accuracy},
            low={},
            high={},
            baselines={"probe/knn/random_accuracy": 0.1},
            skipped={},
            seconds=1,
        )
        append_events(run.folder / PROBES, [measured, ProbesMissed(step=step + 1, reason="late", late=True)])
        Tracking(run).deliver()
    for _ in range(2):
        final = {"probe/knn/accuracy": 0.5, "probe/knn/random_accuracy": 0.1}
        Tracking(reopened(run)).close("FINISHED", results=Results(final, step=18))
    assert curve(run, "probe/knn/accuracy") == [(6, 0.3), (12, 0.5), (18, 0.5)]
    assert curve(run, "probe/knn/random_accuracy") == [(6, 0.1), (12, 0.1), (18, 0.1)]
    assert not is_behind(reopened(run))


@pytest.mark.slow
def test_steps_that_a_later_attempt_repeats_are_delivered_once(run: Run) -> None:
    tracking = Tracking(run)
    run.append([steps(0, [3.0, 2.0, 1.0])])
    tracking.deliver()
    run.append([steps(1, [2.0, 1.0, 0.5]), validation(4, 0.9), steps(0, [3.0, 2.0]), validation(4, 0.9)])
    tracking.deliver()
    tracking.deliver()
    tracking.close("FINISHED")
    assert curve(run) == [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]
    assert curve(run, "val/loss") == [(4, 0.9)]


@pytest.mark.slow
def test_a_line_that_is_still_being_written_waits_for_its_end(run: Run) -> None:
    tracking = Tracking(run)
    run.append([steps(0, [3.0])])
    path = run.folder / "events.jsonl"
    line = path.read_text()
    path.write_text(line[:40])
    tracking.deliver()
    path.write_text(line)
    tracking.close("FINISHED")
    assert tracking.problem is None and curve(run) == [(1, 3.0)]


@pytest.mark.slow
def test_a_second_driver_goes_on_in_the_same_mlflow_run(run: Run) -> None:
    from mlflow import MlflowClient

    run.append([steps(0, [3.0, 2.0])])
    first = Tracking(run)
    first.close("KILLED")
    again = reopened(run)
    assert again.mlflow_run_id == run.mlflow_run_id
    again.append([steps(1, [2.0, 1.0])])
    second = Tracking(again)
    assert second.client.get_run(again.mlflow_run_id).info.status == "RUNNING"
    second.close("FINISHED")
    assert curve(again) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    client = MlflowClient(tracking_uri=run.tracking_uri)
    experiment = client.get_experiment_by_name("sightline")
    named = client.search_runs([experiment.experiment_id], filter_string="attributes.run_name = 'tracked'")
    mine = [found for found in named if found.data.tags["sightline.folder"] == str(run.folder)]
    assert [found.info.run_id for found in mine] == [run.mlflow_run_id]


@pytest.mark.slow
def test_a_server_that_is_away_costs_nothing_and_gets_everything_later(run: Run, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    run.tracking_uri = AWAY
    run.append([steps(0, [3.0, 2.0])])
    tracking = Tracking(run)
    tracking.start()
    tracking.close("FAILED")
    assert tracking.problem and run.mlflow_run_id is None
    assert not (run.folder / "tracking.json").exists()

    again = reopened(run)
    again.tracking_uri = database
    again.append([steps(2, [1.0])])
    later = Tracking(again)
    later.close("FINISHED")
    assert later.problem is None
    assert curve(again) == [(1, 3.0), (2, 2.0), (3, 1.0)]


@pytest.mark.slow
def test_a_server_that_goes_away_in_the_middle_of_a_long_spool_gets_each_metric_once(run: Run) -> None:
    """More figures than one request holds; the second request fails, and is sent again from there."""
    from mlflow import MlflowClient

    losses = [float(value) for value in range(600)]
    run.append([steps(0, losses)])
    tracking = Tracking(run)
    sent = tracking.client.log_batch
    calls: list[int] = []

    def failing(run_id: str, **what: Any) -> None:
        calls.append(len(what["metrics"]))
        if len(calls) == 2:
            raise ConnectionError("gone")
        sent(run_id, **what)

    tracking.client.log_batch = failing
    with pytest.raises(ConnectionError):
        tracking.deliver()
    tracking.client.log_batch = sent
    tracking.deliver()
    tracking.close("FINISHED")
    assert max(calls) <= 1000
    client = MlflowClient(tracking_uri=run.tracking_uri)
    held = client.get_metric_history(str(run.mlflow_run_id), "train/loss")
    assert sorted(m.step for m in held) == list(range(1, 601))


class Server:
    """Stands for an MLflow client: keeps what it is sent, and fails at the calls a test names."""

    def __init__(self, *failing: int) -> None:
        self.failing, self.calls, self.runs = set(failing), 0, 0
        self.metrics: list[tuple[str, int, int]] = []
        self.params: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.inputs: list[Any] = []
        self.started, self.ended = 0, 0
        """Milliseconds since 1970."""
        self.of_experiment: dict[str, str] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1", tags=dict(self.of_experiment))

    def set_experiment_tag(self, experiment_id: str, key: str, value: str) -> None:
        self.of_experiment[key] = value

    def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> Any:
        self.runs, self.tags = self.runs + 1, dict(tags)
        return SimpleNamespace(info=SimpleNamespace(run_id=f"id{self.runs}"))

    def search_runs(self, experiment_ids: list[str], filter_string: str, max_results: int) -> list[Any]:
        key = self.tags.get("sightline.id")
        return [SimpleNamespace(info=SimpleNamespace(run_id=f"id{self.runs}"))] if key and f"'{key}'" in filter_string else []

    def get_run(self, run_id: str) -> Any:
        data = SimpleNamespace(params=self.params, metrics={}, tags=self.tags)
        return SimpleNamespace(data=data, info=SimpleNamespace(start_time=self.started))

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self.tags[key] = value

    def log_inputs(self, run_id: str, datasets: Any) -> None:
        self.inputs = datasets

    def update_run(self, run_id: str, status: str) -> None:
        pass

    def set_terminated(self, run_id: str, status: str, end_time: int) -> None:
        self.ended = end_time

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        self.calls += 1
        assert len(metrics) <= 1000 and len(params) <= 100
        if self.calls in self.failing:
            raise ConnectionError("http://ann:secret@host is gone")
        assert not {param.key for param in params} & set(self.params), "MLflow refuses to change a parameter"
        self.params |= {param.key: param.value for param in params}
        self.metrics += [(m.key, m.step, m.timestamp) for m in metrics]


@pytest.fixture
def tracked(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], Tracking]:
    """A fresh driver of one run, with a server of the test's making."""
    run = toy_run("tracked", **{"log.tracking_uri": "http://ann:secret@host:5000"})
    run.tracking_uri = "http://ann:secret@host:5000"

    def make(server: Server) -> Tracking:
        monkeypatch.setattr(mlflow_run, "connect", lambda uri: server)
        monkeypatch.setattr(mlflow_run, "find_problem", lambda place: None)
        return Tracking(run)

    return make


def test_after_a_failed_request_only_what_was_not_sent_is_sent(tracked: Callable[[Server], Tracking]) -> None:
    server = Server(3)
    tracking = tracked(server)
    tracking.run.append([steps(0, [1.0] * 600), steps(600, [1.0] * 10)])
    with pytest.raises(ConnectionError):
        tracking.deliver()
    assert len(server.metrics) == 1000
    tracked(server).deliver()
    assert len(server.metrics) == len(set(server.metrics)) == 4 * 610 + 4
    assert {step for name, step, _ in server.metrics if name == "train/loss"} == set(range(1, 611))


def test_a_metric_bears_the_time_of_its_event(tracked: Callable[[Server], Tracking]) -> None:
    server = Server()
    tracking = tracked(server)
    tracking.run.append([ValidationDone(1, {"loss": 0.5}, time=12.5), validation(2, 0.4)])
    tracking.deliver()
    (_, _, first), (_, _, second) = server.metrics
    assert first == 12_500 and abs(second / 1000 - time.time()) < 60


@pytest.mark.parametrize("set_back", [0, 7200])
def test_an_mlflow_run_ends_after_its_start_though_the_clock_is_set_back(
    set_back: float, tracked: Callable[[Server], Tracking], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, clock = Server(), time.time
    tracking = tracked(server)
    server.started = int(clock() * 1000)
    assert tracking.client
    time.sleep(0.02)
    monkeypatch.setattr(time, "time", lambda: clock() - set_back)
    tracking.close("FINISHED")
    assert 20 <= server.ended - server.started < 3_600_000


def test_a_close_beside_a_slow_delivery_sends_nothing_twice(tracked: Callable[[Server], Tracking]) -> None:
    server, sending, go_on = Server(), threading.Event(), threading.Event()
    tracking = tracked(server)
    tracking.run.append([steps(0, [3.0])])
    keep = server.log_batch

    def slow(run_id: str, metrics: Any = (), params: Any = ()) -> None:
        if metrics:
            sending.set()
            go_on.wait(300)
        keep(run_id, metrics, params)

    server.log_batch = slow  # type: ignore[method-assign]
    thread = threading.Thread(target=tracking.deliver)
    thread.start()
    assert sending.wait(300)
    closing = threading.Thread(target=tracking.close, args=("FINISHED",))
    closing.start()
    closing.join(0.2)
    go_on.set()
    thread.join()
    closing.join()
    assert tracking.problem is None and len(server.metrics) == 6


def test_settings_that_failed_to_arrive_come_later_in_the_same_mlflow_run(tracked: Callable[[Server], Tracking]) -> None:
    server = Server(1)
    tracking = tracked(server)
    with pytest.raises(ConnectionError):
        _ = tracking.client
    assert reopened(tracking.run).mlflow_run_id == "id1" and server.params == {}
    tracked(server).close("FINISHED")
    tracked(server).close("FINISHED")
    assert server.runs == 1 and set(server.params) == set(tracking.run.experiment.flat())


def test_a_driver_that_dies_between_create_and_note_leaves_one_mlflow_run(tracked: Callable[[Server], Tracking]) -> None:
    server = Server()
    tracking = tracked(server)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            _ = tracking.client
    assert server.runs == 1 and reopened(tracking.run).mlflow_run_id is None
    again = Tracking(reopened(tracking.run))
    again.close("FINISHED")
    assert server.runs == 1 and reopened(tracking.run).mlflow_run_id == "id1"


def test_the_run_of_a_sweep_names_the_data_that_its_runs_use(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run, server = toy_run("of-a-sweep"), Server()
    monkeypatch.setattr(parent_run, "connect", lambda uri: server)
    monkeypatch.setattr(server, "log_param", lambda *given: None, raising=False)
    told: list[str] = []
    assert parent_run.begin(run, "sweep", [run.experiment, run.experiment], {"objective": "knn"}, told.append) == "id1" and not told
    assert [given.tags[0].value for given in server.inputs] == ["training", "validation"] * 2, "MLflow keeps equal ones once"
    assert server.inputs[0].dataset.digest == run.fingerprint[:36]


def test_a_nested_run_names_its_parent(toy_run: Callable[..., Run], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = toy_run("alone")
    nested = create_run("nested", alone.experiment, alone.fingerprint, "test", "", parent="abc")
    for run, tag in ((alone, None), (reopened(nested), "abc")):
        server = Server()
        monkeypatch.setattr(mlflow_run, "connect", lambda uri, server=server: server)
        Tracking(run).close("FINISHED")
        assert server.runs == 1 and server.tags.get("mlflow.parentRunId") == tag


def test_data_sets_are_inputs_and_tags_are_those_of_sightline_and_of_the_person(
    toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGNAME", "eve")
    run, server = toy_run("tagged", **{"log.tags": {"owner": "ann", "sightline.recipe": "mine"}}), Server()
    monkeypatch.setattr(mlflow_run, "connect", lambda uri: server)
    Tracking(run).close("FINISHED")
    assert server.tags["owner"] == "ann" and server.tags["sightline.recipe"] == "toy" and server.tags["sightline.licence"]
    assert server.tags["mlflow.user"] == "eve" and server.tags["mlflow.source.name"] == "sightline"
    found = {given.tags[0].value: given.dataset for given in server.inputs}
    assert found.keys() == {"training", "validation"}
    assert found["training"].digest == run.fingerprint[:36] != found["validation"].digest
    profile = json.loads(found["training"].profile)
    assert profile["num_rows"] == 90 and profile["kind"] == "pairs" and profile["largest_image"] == "80 x 72"
    columns = {column["name"]: column["type"] for column in json.loads(found["training"].schema)["mlflow_colspec"]}
    assert columns["id"] == "string" and columns["image1"] == "binary"


def test_a_logged_data_set_is_opened_by_mlflow_and_another_in_its_place_is_not(toy_data: dict[str, str]) -> None:
    import mlflow.data
    from mlflow.entities import Dataset as LoggedDataset

    logged = logged_dataset(Dataset.open(toy_data["data.train"]))
    opened = mlflow.data.get_source(logged).load()
    assert opened == Dataset.open(toy_data["data.train"]) and opened.fingerprint.startswith(logged.digest)
    older = LoggedDataset("train", "digest", "sightline", json.dumps({"uri": toy_data["data.train"]}))
    assert mlflow.data.get_source(older).load() == opened
    replaced = json.dumps({**json.loads(logged.source), "uri": toy_data["data.val"]})
    with pytest.raises(SightlineError, match="not the data set that was logged"):
        mlflow.data.get_source(LoggedDataset("train", logged.digest, "sightline", replaced)).load()


def test_an_experiment_opens_for_training_and_what_a_person_wrote_of_it_stays() -> None:
    server: Any = Server()
    server.of_experiment[NOTE] = "ours"
    assert experiment_of(server, "sightline", "http://host") == "1"
    assert server.of_experiment == {NOTE: "ours", "mlflow.experimentKind": "custom_model_development"}


def test_a_run_is_described_by_its_newest_verdict_unless_a_person_did() -> None:
    server: Any = Server()
    describe_run(server, "id", "It *stopped*.")
    describe_run(server, "id", "It has learned.", "k-NN 30 %.")
    assert server.tags == {NOTE: "It has learned.\n\nk-NN 30 %.", VERDICT: "It has learned."}
    server.tags[NOTE] = "mine"
    describe_run(server, "id", "Better.")
    assert server.tags == {NOTE: "mine", VERDICT: "Better."}


def test_a_password_connects_and_is_shown_nowhere(tracked: Callable[[Server], Tracking]) -> None:
    server = Server(2)
    tracking = tracked(server)
    tracking.run.append([steps(0, [3.0])])
    tracking.close("FINISHED")
    assert tracking.uri == "http://ann:secret@host:5000"
    assert server.params["log.tracking_uri"] == "http://***@host:5000"
    assert tracking.problem is not None and tracking.problem.what.endswith("ConnectionError: http://***@host is gone")
    assert "secret" not in json.dumps([server.params, server.tags])
