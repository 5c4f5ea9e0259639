"""The version of Sightline that runs."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import version
from pathlib import Path

DISTRIBUTION = "sightline-pretext"
"""The name under which Sightline is installed, as in pyproject.toml: `sightline` belongs to another project on the package index."""


def installed_version() -> str:
    return version(DISTRIBUTION)


def this_commit() -> str | None:
    """The commit of the checkout that Sightline runs from; None where it runs from no checkout, or git is not installed."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=10,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if tracked.returncode == 0 else None  # not somebody else's checkout around an installed Sightline
