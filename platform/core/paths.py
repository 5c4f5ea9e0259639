"""Paths of local state: everything is under the home, `$SIGHTLINE_HOME` (default `./sightline-runs`)."""

from __future__ import annotations

import errno
import os
import tempfile
import tomllib
from pathlib import Path

from sightline.methods.errors import CallError

DATABASE, ARTIFACTS = "mlflow.db", "mlflow-artifacts"
"""MLflow's database and its artifacts, in a home."""


def home() -> Path:
    """`$SIGHTLINE_HOME`, else the `home` of the configuration file, else `./sightline-runs`. Raises `CallError` if that is wrong."""
    return _home()[0]


def home_text() -> str:
    """The home and why it is this one, for a message that nothing was found there."""
    folder, why = _home()
    return f"{folder} ({why})"


def _home() -> tuple[Path, str]:
    if named := os.environ.get("SIGHTLINE_HOME"):
        folder = Path(named).expanduser().absolute()
        if ".." in folder.parts:
            folder = folder.resolve()
        if folder.is_file():
            raise CallError(f"$SIGHTLINE_HOME = {named} is a file", "name a folder: export SIGHTLINE_HOME=FOLDER")
        return folder, "$SIGHTLINE_HOME"
    file = config_file()
    if file.is_file():
        try:
            configured = tomllib.loads(file.read_text()).get("home")
            if configured is not None:
                return file.parent / Path(configured).expanduser(), f"home of {file}"
        except (OSError, ValueError, TypeError) as error:
            raise CallError(f"{file} is not readable: {error}", 'it holds one line: home = "/folder/of/runs"') from None
    return Path("sightline-runs").absolute(), "the default; $SIGHTLINE_HOME is not set"


def config_file() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")) / "sightline" / "config.toml"  # noqa: PTH111  (a user without a home is none of our business)


def check_here() -> None:
    """Raise `CallError` where the current folder was deleted."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise CallError("the current folder was deleted", "go to one that is there, for example: cd ~") from None


def check_writable(folder: Path) -> None:
    """Raise `CallError` where `folder`, a home, can be neither made nor written."""
    place = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{place} is a file")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return  # what is written next tells it
        raise CallError(
            f"{home_text()} cannot be written: {error.strerror}", "name a folder that you can write: export SIGHTLINE_HOME=FOLDER"
        ) from None


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


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file. SQLAlchemy decodes `%` and ends the path at `?`, so these two are quoted."""
    return "sqlite:///" + str(path).replace("%", "%25").replace("?", "%3F")


def local_tracking_uri(folder: Path | None = None) -> str:
    """The MLflow database of a home, by default of `home()`."""
    return sqlite_uri((folder or home()) / DATABASE)


def home_of(record: Path) -> Path:
    """The home that the folder of a run, a sweep or a comparison lies in; `home()` where it lies elsewhere."""
    return record.parent.parent if record.parent.name in ("runs", "sweeps", "comparisons") else home()


def shown_path(path: Path) -> str:
    """As a command that is told names it: from the current folder where the path lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def absolute(uri: str) -> str:
    """A data set's URI, or its folder as an absolute path: workers run in other directories."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())
