"""MLflow, owned by the driver: one MLflow run for a logical run, across retries, resumes and changes of size.

`events.jsonl` is the spool. A thread delivers from it in batches and notes how far it came, so a server that is away costs no
metric and no step: what was not delivered goes out later, at the latest with the next resume.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sightline.platform.core.files import parse_lines
from sightline.platform.core.paths import local_tracking_uri
from sightline.platform.core.redaction import redact, safe_line
from sightline.platform.runs.events import EVENTS, Event
from sightline.platform.runs.record import Run

from .client import experiment_of, quiet_mlflow

MOST_METRICS = 1000
"""Metrics in one request, MLflow's own limit."""


class Tracking:
    """Delivers one run's record to MLflow in the background; start with `start`, finish with `close`."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.uri = run.tracking_uri or local_tracking_uri()
        self.problem: str | None = None
        self._state_path = run.folder / "tracking.json"
        self._state: dict[str, Any] = {"offset": 0, "delivered": {}}
        if self._state_path.exists():
            self._state = json.loads(self._state_path.read_text())
        self._client: Any = None
        self._closing = threading.Event()
        self._lock = threading.RLock()
        """Held while connecting and while delivering: `close` may come while the thread still delivers."""
        self._thread = threading.Thread(target=self._work, name="sightline-tracking", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def offset(self) -> int:
        """Bytes of the record that were delivered."""
        return int(self._state["offset"])

    @property
    def client(self) -> Any:
        """The MLflow client, with the run made where it was not yet. Raises what MLflow raises when the server is away."""
        with self._lock:
            if self._client is None:
                quiet_mlflow()
                from mlflow import MlflowClient

                client = MlflowClient(tracking_uri=self.uri)
                if self.run.mlflow_run_id is None:
                    self.run.mlflow_run_id = self._create(client)
                    self.run.save()  # at once: a failure from here on must not make a second run
                else:
                    client.update_run(self.run.mlflow_run_id, status="RUNNING")
                self._log_params(client)
                self._log_data(client)
                self._client = client
            return self._client

    def deliver(self) -> None:
        """Send what is in the spool and not yet delivered. Raises what MLflow raises."""
        from mlflow.entities import Metric

        path = self.run.folder / EVENTS
        if not path.exists():
            return
        with self._lock:
            offset, newest, metrics = self._state["offset"], dict(self._state["delivered"]), []
            with path.open("rb") as file:
                file.seek(offset)
                block = file.read()
            for line in block[: block.rfind(b"\n") + 1].splitlines(keepends=True):
                for event in parse_lines([line]):
                    # One time for an event, whenever it is sent: a request whose answer was lost then repeats what the server has.
                    when = int(event.get("time", time.time()) * 1000)
                    for name, step, value in figures(event):
                        if step > newest.get(name, -1):  # a repeated step of a later attempt is the same step
                            newest[name] = step
                            metrics.append(Metric(name, value, when, step))
                        if len(metrics) == MOST_METRICS:
                            self._send(metrics, offset, newest)
                            metrics = []
                offset += len(line)
            if offset > self._state["offset"]:
                self._send(metrics, offset, newest)

    def _send(self, metrics: list[Any], offset: int, newest: dict[str, int]) -> None:
        """One request, then a note of how far it came: `offset` is past all whole events, `newest` past all steps."""
        if metrics:
            self.client.log_batch(self.run.mlflow_run_id, metrics=metrics)
        self._state = {"offset": offset, "delivered": dict(newest)}
        part = self._state_path.with_suffix(".part")
        part.write_text(json.dumps(self._state))
        part.replace(self._state_path)

    def close(self, status: str, artifacts: list[Path] | None = None, metrics: dict[str, float] | None = None, wait: float = 60.0) -> None:
        """Deliver the rest and end the MLflow run: `FINISHED`, `KILLED` (stopped early, may be resumed) or `FAILED`. Never raises."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(wait)
        try:
            client = self.client
            self.deliver()
            there = client.get_run(self.run.mlflow_run_id).data.metrics if metrics else {}
            for name, value in (metrics or {}).items():
                if there.get(name) != value:  # measured again by a resume, it is the same figure
                    client.log_metric(self.run.mlflow_run_id, name, value)
            for path in artifacts or []:
                if path.exists():
                    client.log_artifact(self.run.mlflow_run_id, str(path))
            client.set_terminated(self.run.mlflow_run_id, status=status)
            self.problem = None
        except Exception as error:
            self.problem = safe_line(error)

    def _work(self) -> None:
        pause = 2.0
        while not self._closing.wait(pause):
            try:
                _ = self.client
                self.deliver()
                self.problem, pause = None, 2.0
            except Exception as error:
                self.problem, pause = safe_line(error), min(pause * 2, 60.0)

    def _create(self, client: Any) -> str:
        experiment_id = experiment_of(client, self.run.experiment.log.experiment, self.uri)
        tags = {
            **self.run.experiment.log.tags,
            "sightline.method": self.run.settings["method"],
            "sightline.recipe": self.run.recipe,
            "sightline.fingerprint": self.run.fingerprint,
            "sightline.folder": str(self.run.folder),
            "sightline.command": self.run.command,
            "mlflow.source.name": "sightline",
        }
        if self.run.commit:
            tags["mlflow.source.git.commit"] = self.run.commit
        if self.run.parent:
            tags["mlflow.parentRunId"] = self.run.parent
        tags = {key: redact(value) for key, value in tags.items()}
        return str(client.create_run(experiment_id, run_name=self.run.name, tags=tags).info.run_id)

    def _log_params(self, client: Any) -> None:
        """The settings that the MLflow run does not have yet; those of the first attempt stay."""
        from mlflow.entities import Param

        there = client.get_run(self.run.mlflow_run_id).data.params
        flat = self.run.experiment.flat()
        params = [Param(key, redact(str(value))[:6000]) for key, value in flat.items() if key not in there]
        for start in range(0, len(params), 100):
            client.log_batch(self.run.mlflow_run_id, params=params[start : start + 100])

    def _log_data(self, client: Any) -> None:
        """The data sets as MLflow's dataset inputs, with their fingerprints as digests, and the licences of the training data as a tag.

        Those that the MLflow run has already it takes as the same.
        """
        from mlflow.entities import Dataset as LoggedDataset
        from mlflow.entities import DatasetInput, InputTag

        from sightline.platform.data.dataset import Dataset

        data, inputs = self.run.experiment.data, []
        for use, uri in (("training", data.train), ("validation", data.val)):
            if not uri:
                continue
            dataset = Dataset.open(uri)
            source, profile = json.dumps({"uri": redact(dataset.uri)}), json.dumps({"num_rows": dataset.rows, "kind": dataset.kind})
            logged = LoggedDataset(Path(dataset.uri).name, dataset.fingerprint[:36], "sightline", source, profile=profile)
            inputs.append(DatasetInput(logged, [InputTag("mlflow.data.context", use)]))
            if use == "training":
                licences = "; ".join(sorted({source.licence for source in dataset.manifest.provenance.sources}))
                client.set_tag(self.run.mlflow_run_id, "sightline.licence", licences[:4000] or "unstated")
        client.log_inputs(self.run.mlflow_run_id, datasets=inputs)


def is_behind(run: Run) -> bool:
    """Whether MLflow has not been given all of the run's record."""
    path = run.folder / EVENTS
    return run.mlflow_run_id is None or (path.exists() and path.stat().st_size > Tracking(run).offset)


def figures(event: Event) -> Iterator[tuple[str, int, float]]:
    """(metric, step, value) of an event. Steps count what is done: the first step's loss stands at 1."""
    if event["kind"] == "steps":
        steps = len(event["lr"])
        series = {f"train/{name}": values for name, values in event["losses"].items()}
        series |= {"train/lr": event["lr"], "train/grad_norm": event["grad_norm"]}
        for name, values in series.items():
            for i, value in enumerate(values):
                yield name, event["first"] + i + 1, value
        last = event["first"] + steps
        yield "speed/samples_per_second", last, event["samples"] / event["seconds"]
        yield "speed/data_wait", last, event["phases"].get("data_wait", 0.0) / event["seconds"]
        for name, value in event.get("system", {}).items():
            yield f"system/{name}", last, value
    elif event["kind"] == "validation":
        for name, value in event["losses"].items():
            yield f"val/{name}", event["step"], value
    elif event["kind"] == "health":
        for name, value in event["figures"].items():
            yield f"health/{name}", event["step"], value
