"""Sends a run's metrics to MLflow, from the driver: one MLflow run for each logical run, across retries and resumes.

A thread reads `events.jsonl` and `probes.jsonl`, sends in batches and notes how far it came. While the server is unreachable nothing is
lost and no step waits: the rest is sent later, at the latest by the next resume.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

import msgspec

from sightline.platform.core.event_log import parse_events
from sightline.platform.core.files import read_record, write_record
from sightline.platform.core.redaction import redact
from sightline.platform.runs.events import EVENTS, PROBES, HealthMeasured, ProbesMeasured, RunEvent, StepsDone, ValidationDone
from sightline.platform.runs.identity import identity
from sightline.platform.runs.record import Run

from .client import connect, describe_run, end_run, origin, place_of, raise_or_say, run_of_record
from .database import forget_stray
from .datasets import data_of, dataset_input, licences
from .models import Results, drop_gone_checkpoints, log_results
from .problems import Place, TrackingError, TrackingProblem, explain, find_problem

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

MOST_METRICS = 1000
"""Metrics in one request, MLflow's own limit."""


class _State(TypedDict):
    """How far delivery came; kept in `tracking.json`."""

    run: NotRequired[str]
    """The MLflow run. Older versions do not name it."""
    offset: int
    """Bytes of `events.jsonl`."""
    probes: NotRequired[int]
    """Bytes of `probes.jsonl`."""
    delivered: dict[str, int]
    """Metric -> its last step."""


class Tracking:
    """Delivers one run's events to MLflow in the background, from `start` to `close`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.uri = place_of(run)
        self.problem: TrackingProblem | None = None
        self._state_path = run.folder / "tracking.json"
        self._state = _read_state(self._state_path, run)
        self._client: MlflowClient | None = None
        self._connected = time.monotonic()
        """Since when there is a client."""
        self._closing = threading.Event()
        self._lock = threading.RLock()
        """Held while connecting and delivering: `close` may be called while the thread still delivers."""
        self._thread = threading.Thread(target=self._work, name="sightline-tracking", daemon=True)

    def check(self, say: Callable[[str], None]) -> None:
        """Ask before training whether MLflow takes the record. Raises `CallError` where it refuses for good; less is told by `say`."""
        if problem := find_problem(self.place):
            raise_or_say(problem, self.run.experiment, say)

    def start(self) -> None:
        identity(self.run.folder)  # written before the thread and the workers' start, which both read it
        self._thread.start()

    @property
    def place(self) -> Place:
        """Where the run is to be recorded."""
        return Place(self.uri, self.run.experiment.log.experiment, self.run.mlflow_run_id, self.run.name)

    @property
    def offset(self) -> int:
        """Bytes of `events.jsonl` that were delivered."""
        return self._state["offset"]

    @property
    def offsets(self) -> dict[str, int]:
        """By file, the bytes that were delivered."""
        return {EVENTS: self.offset, PROBES: self._state.get("probes", 0)}

    @property
    def run_id(self) -> str:
        """Of the MLflow run, which `client` creates."""
        return str(self.run.mlflow_run_id)

    @property
    def client(self) -> MlflowClient:
        """The MLflow client; creates the MLflow run where there is none yet. Raises what MLflow raises when the server is unreachable."""
        with self._lock:
            if self._client is None:
                if problem := find_problem(self.place):
                    raise TrackingError(problem)
                client = connect(self.uri)
                if self.run.mlflow_run_id is None:
                    self.run.mlflow_run_id = self._create(client)
                    self.run.save()
                else:
                    client.update_run(self.run.mlflow_run_id, status="RUNNING")
                self._log_params(client)
                self._log_data(client)
                self._client, self._connected = client, time.monotonic()
            return self._client

    def deliver(self) -> None:
        """Send the events that were not delivered yet. Raises what MLflow raises."""
        for name in (EVENTS, PROBES):
            if (self.run.folder / name).exists():
                with self._lock:
                    self._deliver(name)

    def _deliver(self, name: str) -> None:
        from mlflow.entities import Metric

        offset, newest, metrics = self.offsets[name], dict(self._state["delivered"]), []
        with (self.run.folder / name).open("rb") as file:
            file.seek(offset)
            block = file.read()
        for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
            for event in parse_events([line], RunEvent):
                # The time of the event, whenever it is sent: a request whose answer was lost then repeats what the server has.
                when = int((event.time or time.time()) * 1000)
                for metric, step, value in metrics_of(event):
                    if step > newest.get(metric, -1):  # a repeated step of a later attempt is the same step
                        newest[metric] = step
                        metrics.append(Metric(metric, value, when, step))
                    if len(metrics) == MOST_METRICS:
                        self._send(metrics, name, offset, newest)
                        metrics = []
            offset += len(line)
        if offset > self.offsets[name]:
            self._send(metrics, name, offset, newest)

    def _send(self, metrics: list[Metric], name: str, offset: int, newest: dict[str, int]) -> None:
        """Send one request, then note how far it came: `offset` in the file is past whole events; `newest` is each metric's last step."""
        if metrics:
            self.client.log_batch(self.run_id, metrics=metrics)
        self._note({**self.offsets, name: offset}, newest)

    def _note(self, offsets: dict[str, int], newest: dict[str, int]) -> None:
        self._state = {"run": self.run_id, "offset": offsets[EVENTS], "delivered": dict(newest)}
        if offsets[PROBES]:
            self._state["probes"] = offsets[PROBES]
        write_record(self._state_path, self._state)

    def close(
        self, status: str, artifacts: Iterable[Path] = (), results: Results | None = None, note: str = "", wait: float = 60.0
    ) -> None:
        """Deliver the rest and end the MLflow run: `FINISHED`, `KILLED` (stopped early, may be resumed) or `FAILED`. Never raises.

        `note`: the description of a run that has no `results`, which have a verdict.
        """
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(wait)
        try:
            client = self.client
            self.deliver()
            if results:
                newest = self._state["delivered"]
                log_results(client, self.run_id, results, newest)
                drop_gone_checkpoints(client, self.run)
                if curves := {name: results.step for name in results.metrics if newest.get(name, results.step) < results.step}:
                    self._note(self.offsets, {**newest, **curves})  # they end here
            if verdict := redact(results.verdict if results else note):
                describe_run(client, self.run_id, verdict, results.numbers if results else "")
            for path in artifacts:
                if path.exists():
                    client.log_artifact(self.run_id, str(path))
            end_run(client, self.run_id, status, time.monotonic() - self._connected)
            self.problem = None
        except Exception as error:
            self.problem = self.problem_of(error)
        forget_stray(self.uri)

    def _work(self) -> None:
        pause = 2.0
        while not self._closing.wait(pause):
            try:
                _ = self.client
                self.deliver()
                self.problem, pause = None, 2.0
            except Exception as error:
                self.problem, pause = self.problem_of(error), min(pause * 2, 60.0)

    def problem_of(self, error: Exception) -> TrackingProblem:
        """Of MLflow's errors, the problem; it is asked again, because what MLflow says of a refusal is often vague."""
        problem = explain(error, self.place)
        return problem if problem.away else find_problem(self.place) or problem

    def _create(self, client: MlflowClient) -> str:
        tags = {
            **origin(),
            **self.run.experiment.log.tags,
            "sightline.method": self.run.settings["method"],
            "sightline.recipe": self.run.recipe,
            "sightline.fingerprint": self.run.fingerprint,
            "sightline.folder": str(self.run.folder),
            "sightline.command": self.run.command,
        }
        if self.run.commit:
            tags["mlflow.source.git.commit"] = self.run.commit
        if self.run.parent:
            tags["mlflow.parentRunId"] = self.run.parent
        tags = {key: redact(value) for key, value in tags.items()}
        return run_of_record(client, self.run, self.run.experiment.log.experiment, tags)

    def _log_params(self, client: MlflowClient) -> None:
        """Log the settings that the MLflow run does not have yet; those of the first attempt stay."""
        from mlflow.entities import Param

        there = client.get_run(self.run_id).data.params
        flat = self.run.experiment.flat()
        params = [Param(key, redact(str(value))[:6000]) for key, value in flat.items() if key not in there]
        for start in range(0, len(params), 100):
            client.log_batch(self.run_id, params=params[start : start + 100])

    def _log_data(self, client: MlflowClient) -> None:
        """Log the data sets as inputs of the MLflow run, and the training data's licences as a tag.

        MLflow recognises those that the run already has.
        """
        opened = data_of(self.run.experiment)
        learned = [dataset for context, dataset in opened if context == "training"]
        client.set_tag(self.run_id, "sightline.licence", licences(learned)[:4000] or "unstated")
        client.log_inputs(self.run_id, datasets=[dataset_input(dataset, context) for context, dataset in opened])


def _read_state(path: Path, run: Run) -> _State:
    """How far delivery came. Where the note is missing, damaged or of another MLflow run, all is sent: a repeated metric is the same."""
    nothing: _State = {"offset": 0, "delivered": {}}
    try:
        state = msgspec.convert(read_record(path), _State)
    except (OSError, ValueError):
        return nothing
    of_this_run = state["run"] == run.mlflow_run_id if "run" in state else not run.earlier_mlflow_runs
    within = 0 <= state["offset"] <= _size(run, EVENTS) and 0 <= state.get("probes", 0) <= _size(run, PROBES)
    return state if of_this_run and within else nothing


def _size(run: Run, name: str) -> int:
    path = run.folder / name
    return path.stat().st_size if path.exists() else 0


def is_behind(run: Run) -> bool:
    """Whether some of the run's events were not delivered to MLflow."""
    return run.mlflow_run_id is None or any(_size(run, name) > offset for name, offset in Tracking(run).offsets.items())


def metrics_of(event: RunEvent) -> Iterator[tuple[str, int, float]]:
    """(metric, step, value) of an event. MLflow's step is the number of steps done: the first step's loss is at 1."""
    match event:
        case StepsDone():
            series = {f"train/{name}": values for name, values in event.losses.items()}
            series |= {"train/lr": event.lr, "train/grad_norm": event.grad_norm}
            for name, values in series.items():
                for i, value in enumerate(values):
                    yield name, event.first + i + 1, value
            yield "speed/samples_per_second", event.end, event.samples_per_second
            yield "speed/data_wait", event.end, event.data_wait
            for name, value in (event.system or {}).items():
                yield f"system/{name}", event.end, value
            for name, done in (event.sets or {}).items():
                told = {"loss": done.loss, "samples": done.seen, "epochs": done.epochs}
                yield from ((f"data/{name}/{what}", event.end, value) for what, value in told.items() if value is not None)
        case ValidationDone():
            for name, value in event.losses.items():
                yield f"val/{name}", event.step, value
        case HealthMeasured():
            for name, value in event.metrics.items():
                yield f"health/{name}", event.step, value
        case ProbesMeasured():
            for name, value in {**event.values, **event.baselines}.items():
                yield name, event.step, value
