"""The shell blocks of README and docs, in order, and those that a newcomer cannot run, each with its reason."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOR_LATER = {
    "make quickstart": "run by the tests of that command, and by CI's clean checkout",
    "pip install": "installs packages",
    "pip wheel": "needs setuptools; tests/test_house.py builds the wheel",
    "ray get-auth-token": "starts a real cluster",
    "ray start": "starts a real cluster",
    "sightline submit": "needs a running cluster; tests/pipelines/test_submit_cluster.py",
    "export ": "addresses of a real cluster",
    "mlflow ui": "a server that stays",
    "mlflow server": "a server that stays",
    "mlflow models serve": "a server that stays; tests/pipelines/test_finetune_command.py",
    "serve run": "a server that stays; tests/pipelines/test_serving.py",
    "curl ": "asks such a server",
    "log.tracking_uri=http": "needs that server; tests/platform/tracking/test_mlflow_server.py",
    "sightline predict": "photographs of the reader's own; tests/pipelines/test_predict_command.py",
    "sightline import": "a file that its authors publish",
    "init=croco-v2.safetensors": "a file that its authors publish",
    "../shared/": "data sets that lie beside the checkout where this project is developed",
    "./data/": "made of data sets that lie beside the checkout where this project is developed",
    "./habitat_release": "a data set that its authors publish",
    "./arkitscenes": "a data set that its authors publish",
    "./ModelNet10": "a data set that its authors publish",
    "./ShapeNet55": "a data set that its authors publish",
    "./modelnet40": "a data set that its authors publish",
    "./h5_files": "a data set that its authors publish",
    "./shapenetcore": "a data set that its authors publish",
    "./my-photos": "photos of the reader's own; tests/pipelines/test_unprepared.py",
    "./kitchen-rgbd": "frames of the reader's own; tests/pipelines/test_unprepared.py",
    "./flowers": "photos of the reader's own; tests/pipelines/test_unprepared.py",
    "my-stereo-run": "runs of the reader's own; tests/pipelines/test_evaluate_command.py",
    "my-segmentation-run": "runs of the reader's own; tests/platform/evaluation/test_test_metrics.py",
    "data.train=[./a/train": "data sets of the reader's own; tests/platform/experiments/sweep/test_plan.py",
    "ray:my_data": "a module of the reader's own; tests/platform/experiments/test_ray_run.py",
    "parquet:./": "files of the reader's own; tests/platform/data/loader/test_ray_stream.py",
    "/tmp/animals.txt": "made of data sets that lie beside the checkout where this project is developed",
}
"""Part of a line -> why a newcomer does not run it as it stands."""


@dataclass(frozen=True)
class Line:
    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Of a `sightline` command, without its first word; empty for another."""
        words = shlex.split(self.text, comments=True)
        return words[1:] if words[:1] == ["sightline"] else []

    @property
    def reason(self) -> str:
        """Why it is left out; empty where it is run."""
        if self.page.startswith("clusters"):
            return "needs a running cluster"
        return next((why for part, why in FOR_LATER.items() if part in self.text), "")


def told() -> Iterator[Line]:
    """Every line of every shell block, README first."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.S | re.M):
            for line in re.sub(r"\\\n\s*", "", block).splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield Line(page.name, line.strip())
