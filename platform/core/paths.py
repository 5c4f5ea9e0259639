"""Paths of local state: everything is under `$SIGHTLINE_HOME` (default `./sightline-runs`)."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    return Path(os.environ.get("SIGHTLINE_HOME", "sightline-runs")).absolute()


def runs_folder() -> Path:
    return home() / "runs"


def sweep_record(reference: str) -> Path | None:
    """The record of the sweep with this name or folder; None where there is none."""
    return _record(reference, "sweeps", "sweep.json")


def comparison_record(reference: str) -> Path | None:
    """The record of the comparison with this name or folder; None where there is none."""
    return _record(reference, "comparisons", "comparison.json")


def _record(reference: str, kind: str, file: str) -> Path | None:
    places = (Path(reference), home() / kind / reference)
    return next((place / file for place in places if (place / file).is_file()), None)


def local_tracking_uri() -> str:
    return f"sqlite:///{home() / 'mlflow.db'}"


def artifact_location() -> str:
    """Explicit, because MLflow's default follows the current directory."""
    return (home() / "mlflow-artifacts").as_uri()


def absolute(uri: str) -> str:
    """A data set's URI, or its folder as an absolute path: workers run in other directories."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
