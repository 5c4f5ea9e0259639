"""`sightline evaluate` in MLflow: a run of its own, with metrics that belong to the evaluated models.

One model: the run lies below the run that trained the model. Several: it holds what they have in common, and each has a run below it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.platform.core.redaction import redact
from sightline.platform.data.dataset import Dataset
from sightline.platform.runs.record import Run, find_run

from .client import connect, default_uri, describe_run, experiment_of, origin, place_of
from .database import forget_stray
from .datasets import dataset_input
from .models import LOGGED, Table, log_external_model, log_model_metrics, log_tables, models_of, name_of_step
from .problems import Place, TrackingProblem, explain, find_problem
from .promotion import EVALUATED

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

EXPERIMENT = "sightline"
"""Of models that MLflow does not know yet."""


@dataclass(frozen=True)
class EvaluatedEncoder:
    """An encoder and what was measured of it."""

    name: str
    """In the evaluation."""
    model: str
    """As the person named it."""
    method: str
    source: str
    """Where it comes from, in words."""
    sha256: str
    metrics: Mapping[str, float]
    resamples: Path | None = None
    """A file for comparisons with later models (`paired`)."""


@dataclass(frozen=True)
class Evaluation:
    """Of one or several encoders on the same data."""

    encoders: Sequence[EvaluatedEncoder]
    data: Mapping[str, Dataset]
    """Beginning of the names of metrics -> the data they were measured on."""
    verdict: str
    command: str
    artifacts: Sequence[Path] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class RecordedEvaluation:
    uri: str
    run_id: str


def place_of_models(models: Sequence[str]) -> str:
    """Where an evaluation of these models is recorded: where the first of them that is a run is, else where new runs are. Raises
    `CallError`."""
    runs = [run for model in models if (run := _run_of(model)) is not None]
    return place_of(runs[0]) if runs else default_uri()


def _run_of(model: str) -> Run | None:
    """The run that a person named, as `RUN`, `RUN@5000` or `RUN@best`."""
    return find_run(model) or (find_run(model.rpartition("@")[0]) if "@" in model else None)


def record_evaluation(evaluation: Evaluation) -> RecordedEvaluation | TrackingProblem:
    """Log it, or say why MLflow did not take it. Nothing is made where the place refuses."""
    uri = place_of_models([one.model for one in evaluation.encoders])
    place = Place(uri, EXPERIMENT)
    if problem := find_problem(place):
        return problem
    run_id = None
    try:
        client = connect(uri)
        known = [_known(client, one) for one in evaluation.encoders]
        experiment = known[0].experiment_id if known[0] else experiment_of(client, EXPERIMENT, uri)
        source = known[0].source_run_id if known[0] and len(known) == 1 else None
        run_id = _begin(client, experiment, evaluation, f"evaluate {', '.join(one.name for one in evaluation.encoders)}"[:200], source)
        client.log_inputs(run_id, datasets=[dataset_input(dataset, "testing") for dataset in _once(evaluation.data)])
        for one, model in zip(evaluation.encoders, known, strict=True):
            own = run_id if len(known) == 1 else _begin(client, experiment, evaluation, f"evaluate {one.name}"[:200], run_id)
            _log(client, own, one, model, evaluation.data)
            if own != run_id:
                client.set_terminated(own)
        log_tables(client, run_id, evaluation.tables)
        describe_run(client, run_id, redact(evaluation.verdict))
        for path in evaluation.artifacts:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id)
        return RecordedEvaluation(uri, run_id)
    except Exception as error:  # of a database they are of many types
        if run_id is not None:
            with suppress(Exception):
                client.set_terminated(run_id, "FAILED")
        return explain(error, place)
    finally:
        forget_stray(uri)


def _begin(client: MlflowClient, experiment: str, evaluation: Evaluation, name: str, parent: str | None) -> str:
    tags = {"sightline.command": redact(evaluation.command), **origin()}
    return str(client.create_run(experiment, run_name=name, tags=tags | ({"mlflow.parentRunId": parent} if parent else {})).info.run_id)


def _log(client: MlflowClient, run_id: str, one: EvaluatedEncoder, known: LoggedModel | None, data: Mapping[str, Dataset]) -> None:
    from mlflow.entities import LoggedModelInput, Metric

    tags = {"sightline.method": one.method, "sightline.sha256": one.sha256, "sightline.source": redact(one.source)}
    model_id = known.model_id if known else log_external_model(client, client.get_run(run_id), _model_name(one.name), tags)
    if known:
        client.log_inputs(run_id, models=[LoggedModelInput(model_id)])
    client.set_tag(run_id, EVALUATED, one.sha256)
    now = int(time.time() * 1000)
    log_model_metrics(client, run_id, model_id, [Metric(name, value, now, 0) for name, value in one.metrics.items()], data)
    if one.resamples:
        client.log_artifact(run_id, str(one.resamples))


def _known(client: MlflowClient, one: EvaluatedEncoder) -> LoggedModel | None:
    """The newest ready model of these weights, whichever run made it."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments(max_results=1000)]
    found = client.search_logged_models(experiments, f"tags.`sightline.sha256` = '{one.sha256}'") if experiments else []
    ready = next((model for model in found if str(model.status) == "READY"), None)
    return ready or _kept_checkpoint(client, one)


def _kept_checkpoint(client: MlflowClient, one: EvaluatedEncoder) -> LoggedModel | None:
    """The model of a milestone or the best checkpoint, which learns the SHA-256 of its encoder."""
    from mlflow.exceptions import MlflowException

    found = None
    run, step = _run_of(one.model), re.search(r", step (\d+)$", one.source)
    if LOGGED.fullmatch(model_id := one.model.removeprefix("models:/")):
        with suppress(MlflowException):  # of another place
            found = client.get_logged_model(model_id)
    elif run is not None and run.mlflow_run_id is not None and step is not None:
        models = models_of(client, client.get_run(run.mlflow_run_id))
        found = next((model for model in models if model.name == name_of_step(int(step[1]))), None)
    if found is not None:
        client.set_logged_model_tags(found.model_id, {"sightline.sha256": one.sha256})
    return found


def _model_name(name: str) -> str:
    """MLflow takes no `/`, `:`, `.`, `%` or quotes in the name of a model."""
    return "".join(letter if letter.isalnum() or letter in "-_ " else "-" for letter in name)[:200] or "model"


def _once(data: Mapping[str, Dataset]) -> list[Dataset]:
    return list({dataset.fingerprint: dataset for dataset in data.values()}.values())
