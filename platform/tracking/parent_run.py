"""The MLflow run that the runs of a sweep or a comparison are nested in. Where the server is unreachable, they are not nested."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sightline.platform.core.redaction import redact
from sightline.platform.runs.identity import identity

from .client import experiment_of, quiet_mlflow, run_of


class Parent(Protocol):
    """A sweep or a comparison."""

    name: str
    folder: Path
    command: str
    tracking_uri: str
    mlflow_run_id: str | None


def begin(parent: Parent, kind: str, experiment: str, params: Mapping[str, str], say: Callable[[str], None]) -> str | None:
    """The id of a new MLflow run; None where the server is unreachable."""
    try:
        quiet_mlflow()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=parent.tracking_uri)
        tags = {f"sightline.{kind}": parent.name, "sightline.command": redact(parent.command), "mlflow.source.name": "sightline"}
        run_id = run_of(client, experiment_of(client, experiment, parent.tracking_uri), parent.name, identity(parent.folder), tags)
        for key, text in params.items():
            client.log_param(run_id, key, text)
        return run_id
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        say(f"MLflow is not reachable ({redact(first_line)}); the runs will not be nested in one of the {kind}")
        return None


def pages_of(tracking_uri: str, run_ids: Iterable[str | None]) -> dict[str, str]:
    """URLs of MLflow runs on their server, by run id; empty where there is no server, or it is unreachable."""
    pages: dict[str, str] = {}
    if tracking_uri.startswith(("http://", "https://")):
        with suppress(Exception):  # one request that is not answered ends it: a hanging server is asked once
            quiet_mlflow()
            from mlflow import MlflowClient

            client, place = MlflowClient(tracking_uri=tracking_uri), redact(tracking_uri).replace("***@", "").rstrip("/")
            for run_id in filter(None, run_ids):
                pages[run_id] = f"{place}/#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}"
    return pages


def end(parent: Parent, report: Path, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
    """End the MLflow run with its report, metrics and tags. Does nothing where there is none, or the server is unreachable."""
    if parent.mlflow_run_id is None:
        return
    with suppress(Exception):  # the folder has all of it, too
        quiet_mlflow()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=parent.tracking_uri)
        for key, value in metrics.items():
            client.log_metric(parent.mlflow_run_id, key, value)
        for key, text in tags.items():
            client.set_tag(parent.mlflow_run_id, key, text)
        client.log_artifact(parent.mlflow_run_id, str(report))
        client.set_terminated(parent.mlflow_run_id, status="FINISHED")
