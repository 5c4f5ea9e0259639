"""Models that MLflow can rank: a LoggedModel for each kept checkpoint, and metrics with the model and the data that they belong to.

The final encoder's model holds the weights (`registry.py`). The model of any other checkpoint names the checkpoint's folder, and holds
no second copy. Where the checkpoint is deleted, so is its model.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints.local import number, steps
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.checkpoints.retention import Kept
from sightline.platform.core.scratch import scratch_folder
from sightline.platform.data.dataset import Dataset
from sightline.platform.runs.record import Run

from .client import connect, origin, place_of
from .datasets import DatasetRef, dataset_input
from .problems import Kind, Place, TrackingProblem, explain, find_problem

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric
    from mlflow.entities import Run as MlflowRun

LOGGED = re.compile(r"m-[0-9a-f]{32}")
"""The id of a LoggedModel."""
OF_MODELS = ("val/", "health/", "probe/", "claim/", "test/")
"""What the names of metrics begin with that tell what a checkpoint is worth."""
EXTERNAL = "mlflow.model.isExternal"
"""MLflow's tag of a model whose weights lie elsewhere."""
CHECKPOINT, STEP = "sightline.checkpoint", "sightline.step"
"""Tags of the model of a checkpoint: its folder, and its step."""
TABLES = "mlflow.loggedArtifacts"
"""MLflow's tag of the artifacts that it shows as tables."""
Table = Mapping[str, list[Any]]
"""Columns by name."""


@dataclass(frozen=True)
class Results:
    """What was found of a run's final encoder."""

    metrics: Mapping[str, float]
    step: int = 0
    """Of its checkpoint."""
    verdict: str = ""
    numbers: str = ""
    """What the verdict rests on."""
    model_id: str | None = None
    """Its LoggedModel; None where it was not registered."""
    data: Mapping[str, Dataset] = field(default_factory=dict)
    """Beginning of the names of metrics, such as `val/` -> the data that they are measured on."""
    checkpoints: Sequence[Kept] = ()
    """Milestones and the best."""
    tables: Mapping[str, Table] = field(default_factory=dict)
    """By the name of the artifact."""


def log_results(client: MlflowClient, run_id: str, results: Results, curves: Mapping[str, int]) -> None:
    """Log metrics of the run, those of its models, its test data, and tables. What is there is not logged again.

    `curves`: metrics that were also measured during training, with their last steps. Raises what MLflow raises.
    """
    from mlflow.entities import Metric

    run, now = client.get_run(run_id), int(time.time() * 1000)
    there = run.data.metrics  # a resume measured the same values again
    fresh = [
        Metric(name, value, now, results.step)
        for name, value in results.metrics.items()
        if there.get(name) != value or curves.get(name, results.step) < results.step
    ]
    if fresh:
        client.log_batch(run_id, metrics=fresh)
    log_test_data(client, run, results.data.values())
    models = {one.step: log_checkpoint(client, run, one) for one in results.checkpoints if one.step != results.step}
    if results.model_id is not None:
        models[results.step] = results.model_id
    names = [name for name in there if name.startswith(OF_MODELS)] if models else []
    points = [*fresh, *(point for name in names for point in client.get_metric_history(run_id, name))]
    for step, model_id in models.items():
        final = results.metrics if model_id == results.model_id else {}  # older versions logged these at step 0
        own = [point for point in points if point.step == step or (point.step == 0 and final.get(point.key) == point.value)]
        log_model_metrics(client, run_id, model_id, own, results.data)
    log_tables(client, run_id, results.tables)


def log_model_metrics(client: MlflowClient, run_id: str, model_id: str, points: Iterable[Metric], data: Mapping[str, Dataset]) -> None:
    """Log points of the run as the model's, too. In MLflow's databases those that the run has stay the same points."""
    from mlflow.entities import Metric

    known = {(metric.key, metric.step, metric.timestamp) for metric in client.get_logged_model(model_id).metrics or []}
    refs = {beginning: DatasetRef.of(dataset) for beginning, dataset in data.items()}
    metrics = []
    for point in points:
        if (point.key, point.step, point.timestamp) not in known:
            of = next((ref for beginning, ref in refs.items() if point.key.startswith(beginning)), None)
            name, digest = (of.name, of.digest) if of else (None, None)
            metrics.append(Metric(point.key, point.value, point.timestamp, point.step, model_id, name, digest))
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def log_test_data(client: MlflowClient, run: MlflowRun, datasets: Iterable[Dataset]) -> None:
    """Log as inputs of the run what it was tested on, besides those that it has."""
    known = {given.dataset.digest for given in (run.inputs.dataset_inputs if run.inputs else [])}
    fresh = {ref.digest: dataset for dataset in datasets if (ref := DatasetRef.of(dataset)).digest not in known}
    if fresh:
        client.log_inputs(run.info.run_id, datasets=[dataset_input(dataset, "testing") for dataset in fresh.values()])


def log_checkpoint(client: MlflowClient, run: MlflowRun, kept: Kept) -> str:
    """The id of the LoggedModel of a checkpoint, which is made where there is none."""
    tags = {STEP: str(kept.step), CHECKPOINT: str(kept.path), "sightline.kept": ", ".join(kept.reasons)}
    for key in ("sightline.method", "sightline.recipe"):
        if key in run.data.tags:
            tags[key] = run.data.tags[key]
    return log_external_model(client, run, name_of_step(kept.step), tags, kept.step)


def drop_gone_checkpoints(client: MlflowClient, run: Run) -> int:
    """Delete the LoggedModels of checkpoints that the run has no more, so that MLflow ranks none that cannot be opened; how many.

    A checkpoint in `train.storage` is there; where that does not answer, nothing is deleted. Raises what MLflow raises.
    """
    models = [model for model in models_of(client, client.get_run(str(run.mlflow_run_id))) if CHECKPOINT in model.tags]
    if not models:
        return 0
    there = {number(path.name) for path in steps(run.folder / "checkpoints")}
    if storage := Storage.of(run.experiment, run.folder):
        try:
            there |= storage.steps()
        except (OSError, SightlineError):
            return 0
    gone = [model for model in models if model.name not in {name_of_step(step) for step in there}]
    for model in gone:
        client.delete_logged_model(model.model_id)
    return len(gone)


def drop_gone_checkpoints_of(runs: Iterable[Run]) -> tuple[int, dict[str, TrackingProblem]]:
    """`drop_gone_checkpoints` of several runs: (how many, where it could not be done and why)."""
    count = 0
    problems: dict[str, TrackingProblem] = {}
    clients: dict[str, MlflowClient] = {}
    for run in runs:
        place = Place(place_of(run), run.experiment.log.experiment, run.mlflow_run_id, run.name)
        if run.mlflow_run_id is None or str(place) in problems:
            continue
        try:
            if problem := find_problem(place):
                if problem.kind not in (Kind.RUN_DELETED, Kind.RUN_UNKNOWN, Kind.EXPERIMENT_DELETED):  # of one run
                    problems[str(place)] = problem
                continue
            client = clients[place.uri] = clients.get(place.uri) or connect(place.uri)
            count += drop_gone_checkpoints(client, run)
        except Exception as error:  # of a database they are of many types
            problems[str(place)] = explain(error, place)
    return count, problems


def name_of_step(step: int) -> str:
    """The name of the LoggedModel of a checkpoint."""
    return f"step-{step}"


def log_external_model(client: MlflowClient, run: MlflowRun, name: str, tags: Mapping[str, str], step: int = 0) -> str:
    """The id of the LoggedModel of this name of an MLflow run, whose weights lie elsewhere; its `tags` say where.

    It is made where there is none. One that a kill left pending is made ready.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models.utils import get_external_mlflow_model_spec

    run_id = run.info.run_id
    model = next((model for model in models_of(client, run) if model.name == name and EXTERNAL in model.tags), None)
    if model is None:
        model = client.create_logged_model(
            run.info.experiment_id,
            name=name,
            source_run_id=run_id,
            tags={**origin(), **tags, EXTERNAL: "true"},
            params=dict(run.data.params),
            model_type="encoder",
        )
    if model.status != LoggedModelStatus.READY:
        with scratch_folder("model") as scratch:  # as `mlflow.create_external_model` does
            get_external_mlflow_model_spec(model).save(str(scratch / "MLmodel"))
            client.log_model_artifacts(model.model_id, str(scratch))
        client.finalize_logged_model(model.model_id, "READY")
    if not run.outputs or model.model_id not in {each.model_id for each in run.outputs.model_outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])
    return str(model.model_id)


def models_of(client: MlflowClient, run: MlflowRun) -> Iterator[LoggedModel]:
    """The LoggedModels that an MLflow run made, whatever their status."""
    token = None
    while True:
        page = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'", page_token=token)
        yield from page
        if not (token := page.token):
            return


def log_tables(client: MlflowClient, run_id: str, tables: Mapping[str, Table]) -> None:
    """Log tables as `MlflowClient.log_table` does, which would add the rows once more where the run has the table already."""
    if not tables:
        return
    for name, columns in tables.items():
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        client.log_text(run_id, json.dumps({"columns": list(columns), "data": rows}), name)
    shown: list[dict[str, str]] = []
    with suppress(ValueError):
        shown = json.loads(client.get_run(run_id).data.tags.get(TABLES, "[]"))
    added = [{"path": name, "type": "table"} for name in tables if all(one.get("path") != name for one in shown)]
    if added:
        client.set_tag(run_id, TABLES, json.dumps(shown + added))
