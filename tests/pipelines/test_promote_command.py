"""`sightline promote`: what it prints, its exit code, and what it changes; on a registry and measurements that the test makes."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from asking import Ask
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from sightline.platform.evaluation.paired import FILE, Measured, write_measured
from sightline.platform.evaluation.probes.spec import share
from sightline.platform.evaluation.results import Resamples
from sightline.platform.evaluation.test_metrics import METRICS
from sightline.platform.tracking import client as tracking_client


@dataclass
class Registry:
    """As MLflow's client, with one model `birds`, whose versions have found this share of 200 images."""

    folder: Path
    found: dict[str, float]
    aliases: dict[str, str]
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    tested: dict[str, float] = field(default_factory=dict)
    """Of fine-tuned versions: what their runs have found of 200 test images at their end."""

    def get_model_version(self, name: str, number: str) -> Any:
        if name != "birds" or number not in self.found:
            raise MlflowException("no such version", RESOURCE_DOES_NOT_EXIST)
        tags = {"sightline.sha256": f"sha{number}", **self.tags.get(number, {})}
        return SimpleNamespace(version=number, run_id=number, tags=tags)

    def get_model_version_by_alias(self, name: str, alias: str) -> Any:
        return self.get_model_version(name, self.aliases.get(alias, ""))

    def set_registered_model_alias(self, name: str, alias: str, number: str) -> None:
        self.aliases[alias] = number

    def set_model_version_tag(self, name: str, number: str, key: str, value: str) -> None:
        self.tags.setdefault(number, {})[key] = value

    def search_experiments(self, max_results: int) -> list[Any]:
        return []

    def search_runs(self, experiments: list[str], text: str, max_results: int) -> list[Any]:
        return []

    def list_artifacts(self, run_id: str) -> list[Any]:
        return [SimpleNamespace(path=FILE)]

    def download_artifacts(self, run_id: str, name: str, folder: str) -> str:
        drawn = np.random.default_rng(0).normal(0, 0.02, 300) + np.random.default_rng(int(run_id)).normal(0, 0.001, 300)
        value, info = self.found[run_id], share("accuracy", "share of test images whose class is found")
        resamples = Resamples(drawn + value, 0.95, {"protocol": "abc", "test data": "def"})
        knn = Measured("knn", "accuracy", info, value, resamples, "image", 200, {"train": None, "test": "/nowhere"})
        measured = [knn]
        if (test := self.tested.get(run_id)) is not None:
            resamples = Resamples(drawn + test, 0.95, {"test data": "xyz", "units": "u", "classes": "owl, cat"})
            measured.append(
                Measured("test", "accuracy", METRICS["accuracy"], test, resamples, "image", 200, {"train": None, "test": "/birds"})
            )
        return shutil.copy(write_measured(self.folder / FILE, f"sha{run_id}", measured), folder)


@pytest.fixture
def registry(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry(tmp_path, {"1": 0.5, "2": 0.6, "3": 0.601}, {"champion": "2", "candidate": "3"})
    monkeypatch.setattr(tracking_client, "open_registry", lambda to_write: made)
    return made


NOT_SHOWN = "No difference is shown between version 3 and version 2, the champion, in knn accuracy: 60.1% against 60.0%"


def test_a_version_that_is_not_shown_to_be_better_gets_nothing(registry: Registry, ask: Ask) -> None:
    for words in ((), ("--dry-run",)):
        code, out, err = ask("promote", "birds", "--to", "champion", *words)
        assert code == 1 and not out.strip()
        assert (
            f"sightline: {NOT_SHOWN}" in err and "interval" in err and "the same 200 images for both; both figures recorded earlier" in err
        )
        assert "models:/birds/3 does not become champion; --force gives it the alias all the same" in err
    code, out, _ = ask("promote", "birds", "--to", "champion", "--json")
    told = json.loads(out)
    assert code == 1 and told["promoted"] is False and told["verdict"] == "no difference shown" and told["error"].startswith(NOT_SHOWN)
    code, _, err = ask("promote", "birds/1", "--to", "champion")
    assert code == 1 and "Version 1 is worse than version 2, the champion, in knn accuracy: 50.0% against 60.0% (-10.0 points" in err
    assert registry.aliases == {"champion": "2", "candidate": "3"} and not registry.tags


def test_force_and_a_better_version_get_the_alias(registry: Registry, ask: Ask) -> None:
    code, out, _ = ask("promote", "birds", "--to", "champion", "--force")
    assert code == 0 and NOT_SHOWN in out and out.endswith("models:/birds/3 is birds@champion\n") and registry.aliases["champion"] == "3"
    assert (
        f": forced. {NOT_SHOWN}" in registry.tags["3"]["sightline.promoted"] and "now version 3" in registry.tags["2"]["sightline.replaced"]
    )
    registry.aliases["champion"] = "1"
    code, out, _ = ask("promote", "birds", "--to", "champion", "--over", "knn", "--dry-run")
    assert code == 0 and out.endswith("models:/birds/3 would be birds@champion\n") and registry.aliases["champion"] == "1"
    code, out, _ = ask("promote", "birds", "--to", "champion", "--over", "knn")
    assert code == 0 and "Version 3 is better than version 1, the champion, in knn accuracy: 60.1% against 50.0% (+10.1 points" in out
    assert registry.aliases["champion"] == "3"


def test_fine_tuned_classifiers_are_compared_by_what_they_found_of_the_test_images(registry: Registry, ask: Ask) -> None:
    """By default, too, though a probe says otherwise; where one of them has none, that is told."""
    registry.tested = {"1": 0.9, "2": 0.7, "3": 0.7005}
    code, out, _ = ask("promote", "birds/1", "--to", "champion", "--over", "test")
    assert code == 0 and registry.aliases["champion"] == "1"
    assert "Version 1 is better than version 2, the champion, in test accuracy: 90.0% against 70.0% (+20.0 points" in out
    assert "the same 200 images for both; both figures recorded earlier" in out
    registry.aliases["champion"] = "2"
    code, _, err = ask("promote", "birds", "--to", "champion")
    assert code == 1 and "No difference is shown between version 3 and version 2, the champion, in test accuracy: 70.0%" in err
    registry.tested.pop("2")
    code, _, err = ask("promote", "birds", "--to", "champion", "--over", "test")
    assert code == 1 and "have no test metrics that were measured alike" in err and registry.aliases["champion"] == "2"


def test_what_cannot_be_compared_is_said(registry: Registry, ask: Ask) -> None:
    code, _, err = ask("promote", "birds", "--to", "champion", "--over", "test")
    assert code == 1 and "version 3 and version 2 have no test metrics that were measured alike" in err and "--data" not in err
    code, _, err = ask("promote", "birds", "--to", "champion", "--over", "linear")
    assert code == 2 and "name the data: --data DIR" in err
    registry.aliases.pop("champion")
    code, out, _ = ask("promote", "birds", "--to", "champion")
    assert code == 0 and out.startswith("No version of birds was champion.") and registry.aliases["champion"] == "3"
