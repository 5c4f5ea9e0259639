"""The import of MLflow, without its messages and its long waits."""

from __future__ import annotations

import logging
import os
import threading
import warnings

from sightline.platform.core.loopback import loopback_without_proxy

OF_ANOTHER_RUN = ("MLFLOW_ACTIVE_MODEL_ID", "_MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")
"""Variables that a program around this one set for itself. With the first MLflow would record every metric as that model's, too."""


_IMPORT = threading.Lock()
"""Held for the first import. Two threads that import parts of MLflow at once see its protocol files half loaded: "Depends on file
'databricks.proto', but it has not been loaded"."""


def quiet_mlflow() -> None:
    """Import MLflow without its messages on migrations and telemetry, and with short retries and timeouts.

    To be called before any other import of MLflow in a function that may run while another thread imports it first.
    """
    loopback_without_proxy()
    for name in OF_ANOTHER_RUN:
        os.environ.pop(name, None)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")  # seconds; a server answers an upload after it has stored the file
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    warnings.filterwarnings("ignore", module=r"mlflow\..*")
    with _IMPORT:
        import mlflow
        import mlflow.entities
        import mlflow.tracking  # noqa: F401  # sets up its loggers, so their levels are set after it

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
