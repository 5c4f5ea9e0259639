"""Commands of `sightline` in a work folder, for benchmarks whose runs must survive a kill: what is finished is not done again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class WorkFolder:
    """The folder of data, runs (`home`) and the log of all commands."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.home = folder, folder / "home"
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {"SIGHTLINE_HOME": str(self.home), "MLFLOW_TRACKING_URI": "", **(environment or {})}

    def sightline(self, *words: str) -> None:
        """One command. Raises `SystemExit` with the end of its log where it fails."""
        log = self.folder / "log.txt"
        with log.open("ab") as out:
            command = [sys.executable, "-m", "sightline.pipelines", *words]
            done = subprocess.run(command, cwd=self.folder, env={**os.environ, **self.environment}, stdout=out, stderr=out)
        if done.returncode:
            raise SystemExit(f"sightline {' '.join(words)}\n{log.read_text(errors='replace')[-2000:]}")

    def data(self, name: str, *words: str) -> None:
        """A data set, or a folder of them, by `sightline prepare`."""
        if not any(next((self.folder / name).glob(where), None) for where in ("manifest.json", "*/manifest.json")):
            print(f"data {name}", flush=True)
            self.sightline("prepare", *words, "--out", name)

    def train(self, name: str, *words: str) -> None:
        """A run to its end, by a new command or by `resume`."""
        record = self.home / "runs" / name / "run.json"
        status = json.loads(record.read_text())["status"] if record.exists() else ""
        if status != "finished":
            print(f"run {name}", flush=True)
            self.sightline(*(["resume", name] if record.exists() else [*words, "--name", name]))


def settings(values: Mapping[str, Any]) -> list[str]:
    """As words of a command."""
    return [f"{key}={json.dumps(value) if isinstance(value, list) else value}" for key, value in values.items()]
