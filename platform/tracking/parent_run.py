"""The MLflow run that the runs of a sweep or a comparison are nested in. Where the server is unreachable, they are not nested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sightline.platform.config import Experiment
from sightline.platform.core.paths import runs_folder
from sightline.platform.core.redaction import redact
from sightline.platform.runs.record import RUN_FILE, Run

from .client import TRAINING_VIEW, Recorded, connect, describe_run, end_run, origin, place_of, raise_or_say, run_of_record
from .datasets import data_of, dataset_input
from .problems import Place, explain, find_problem
from .quiet import quiet_mlflow


class Parent(Recorded, Protocol):
    """A sweep or a comparison."""

    command: str


def begin(parent: Parent, kind: str, trained: Sequence[Experiment], params: Mapping[str, str], say: Callable[[str], None]) -> str | None:
    """The id of the MLflow run, which is made where there is none; None where the server is unreachable.

    `trained`: settings of its runs, whose data are its inputs; the first names the experiment in MLflow.
    """
    experiment = trained[0].log.experiment
    try:
        client = connect(place_of(parent))
        tags = {f"sightline.{kind}": parent.name, "sightline.command": redact(parent.command), **origin()}
        run_id = run_of_record(client, parent, experiment, tags)
        there = client.get_run(run_id).data.params
        for key, text in params.items():
            if key not in there:
                client.log_param(run_id, key, text)
        client.log_inputs(run_id, [dataset_input(data, use) for one in trained for use, data in data_of(one)])
        return run_id
    except Exception as error:
        problem = explain(error, Place(place_of(parent), experiment, name=parent.name))
        say(f"MLflow is not reachable ({problem.what}); the runs will not be nested in one of the {kind}")
        return None


def check(parent: Parent, experiment: Experiment, say: Callable[[str], None]) -> None:
    """Ask before the first run whether MLflow takes the record. Raises `CallError` where it refuses for good."""
    if problem := find_problem(Place(place_of(parent), experiment.log.experiment, parent.mlflow_run_id, parent.name)):
        raise_or_say(problem, experiment, say)


def nest(names: Iterable[str], parent: str | None) -> None:
    """Let the runs of these names, those that are not in MLflow yet, be made there as nested in `parent`."""
    for name in names:
        if (runs_folder() / name / RUN_FILE).is_file() and (run := Run.open(name)).mlflow_run_id is None and run.parent != parent:
            run.parent = parent
            run.save()


def pages_of(tracking_uri: str, run_ids: Iterable[str | None]) -> dict[str, str]:
    """URLs of MLflow runs on their server, by run id; empty where there is no server, or it is unreachable."""
    pages: dict[str, str] = {}
    if tracking_uri.startswith(("http://", "https://")):
        with suppress(Exception):  # one request that is not answered ends it: a hanging server is asked once
            quiet_mlflow()
            from mlflow import MlflowClient

            client, place = MlflowClient(tracking_uri=tracking_uri), redact(tracking_uri).replace("***@", "").rstrip("/")
            for run_id in filter(None, run_ids):
                pages[run_id] = f"{place}/#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}?{TRAINING_VIEW}"
    return pages


def end(parent: Parent, report: Path, verdict: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """End the MLflow run with its report, metrics, tags and, as its description, the verdict.

    Does nothing where there is none, or the server is unreachable.
    """
    if parent.mlflow_run_id is None:
        return
    with suppress(Exception):  # the folder has all of it, too
        client = connect(place_of(parent))
        for key, value in metrics.items():
            client.log_metric(parent.mlflow_run_id, key, value)
        describe_run(client, parent.mlflow_run_id, redact(verdict))
        for key, text in tags.items():
            client.set_tag(parent.mlflow_run_id, key, text)
        client.log_artifact(parent.mlflow_run_id, str(report))
        end_run(client, parent.mlflow_run_id)
