"""A `sightline` command in a process of its own, as a person starts one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def start(home: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    """The command with `--json`, at home in `home`, in a session of its own."""
    kept = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "sightline.pipelines", *words, "--json"]
    return subprocess.Popen(
        command,
        env={**kept, "SIGHTLINE_HOME": str(home), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=home.parent,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Its result, once it has ended well."""
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err[-3000:]
    result: dict[str, Any] = json.loads(out)
    return result
