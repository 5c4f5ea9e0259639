"""The MLflow client: quiet, and at the address that settings or environment name."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.core.loopback import loopback_without_proxy
from sightline.platform.core.paths import artifact_location, local_tracking_uri
from sightline.platform.core.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "sightline.id"
"""Tag of an MLflow run: the identity of the run, sweep or comparison that it records."""


def quiet_mlflow() -> None:
    """Import MLflow without its messages on migrations and telemetry, and with short retries and timeouts."""
    loopback_without_proxy()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds; a server answers an upload after it has stored the file
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    import mlflow  # noqa: F401  # sets up its loggers, so their levels are set after it

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)


def undelivered(problem: str, name: str) -> str:
    """The message for a person when the server was unreachable. `name`: what to resume."""
    return f"MLflow was away ({problem}); nothing is lost: `sightline resume {shlex.quote(name)}` delivers the rest"


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the MLflow experiment of this name, which is created where there is none."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    return str(client.create_experiment(name, artifact_location=artifact_location() if uri.startswith("sqlite:") else None))


def run_of(client: MlflowClient, experiment_id: str, name: str, key: str, tags: Mapping[str, str]) -> str:
    """The id of the MLflow run whose tag `sightline.id` is `key`, which is created with `tags` where there is none.

    A kill between the creation and the note of its id leaves a run that is found here, so no second one is made.
    """
    found = client.search_runs([experiment_id], filter_string=f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment_id, run_name=name, tags={**tags, RUN_KEY: key}).info.run_id)


def tracking_uri(experiment: config.Experiment) -> str:
    """Where MLflow records the run; local SQLite unless the settings or `MLFLOW_TRACKING_URI` say otherwise."""
    uri = experiment.log.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return local_tracking_uri()
    if not uri.startswith(("sqlite:///", "http://", "https://", "file:", "databricks", "postgresql", "mysql")):
        raise CallError(
            f"log.tracking_uri = {redact(uri)!r} is no MLflow address",
            "use for example http://127.0.0.1:5000 or sqlite:////folder/mlflow.db",
        )
    return uri
