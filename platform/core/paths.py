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


def shown_path(path: Path) -> str:
    """As a command that is told names it: from the current folder where the path lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def absolute(uri: str) -> str:
    """A data set's URI, or its folder as an absolute path: workers run in other directories."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
