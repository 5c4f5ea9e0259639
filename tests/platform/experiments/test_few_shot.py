"""Folds of few-shot fine-tuning: the same for everybody, disjoint, kept as JSON; a study goes on where it stopped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments import few_shot
from sightline.platform.experiments.few_shot import Fold, Pool, Scores, make_folds, parse_task, read_folds, run_folds, summary, write_folds
from tests.support.toy_shapes import make_clouds


@pytest.fixture
def datasets(home: Path, tmp_path: Path) -> list[Dataset]:
    return [make_clouds(tmp_path / name, rows, points=8) for name, rows in (("train", 45), ("test", 30))]


def test_folds_are_classes_and_samples_that_are_not_shared_and_the_same_for_everybody(datasets: list[Dataset], tmp_path: Path) -> None:
    pool = Pool(datasets)
    folds = make_folds(pool.labels, 2, 3, 10, seed=0)
    assert folds == make_folds(dict(reversed(pool.labels.items())), 2, 3, 10, seed=0) != make_folds(pool.labels, 2, 3, 10, seed=1)
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        assert sorted(Counter(pool.labels[name] for name in fold.train).values()) == [3, 3]
        assert sorted(Counter(pool.labels[name] for name in fold.test).values()) == [20, 20], "25 of a class, of which 3 are learned from"
    assert len({tuple(sorted({pool.labels[name] for name in fold.train})) for fold in folds}) == 3, "classes are drawn for each fold"
    assert read_folds(write_folds(folds, tmp_path / "kept"), pool, 2, 3) == folds
    with pytest.raises(CallError, match="take 2 classes with 26 labelled rows or more; there are 0"):
        make_folds(pool.labels, 2, 21, 1, seed=0)


def test_what_is_wrong_with_a_file_of_folds_is_named(datasets: list[Dataset], tmp_path: Path) -> None:
    pool, file = Pool(datasets), tmp_path / "folds.json"
    for text, told in (
        ("[", "is no list of folds"),
        ('{"folds": []}', "has no fold"),
        ('{"folds": [{"train": ["train0", "train1", "nobody"], "test": []}]}', "no labelled row 'nobody'"),
        ('{"folds": [{"train": ["train0", "train1"], "test": ["train0"]}]}', "'train0' is both learned from and tested on"),
        ('{"folds": [{"train": ["train0", "train3"], "test": []}]}', "not 2 classes with 1 each"),
        ('{"folds": [{"train": ["train0", "train1"], "test": ["test2"]}]}', "tests class 2, which it does not learn"),
    ):
        file.write_text(text)
        with pytest.raises(CallError, match=told):
            read_folds(file, pool, 2, 1)
    with pytest.raises(CallError, match="write ways x shots"):
        parse_task("5")


def test_a_study_runs_each_fold_once_and_goes_on_where_it_stopped(datasets: list[Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    done: set[str] = set()

    def run_fold(name: str, train: Path, test: Path) -> dict[str, Any]:
        ran.append(name)
        learned, asked = Dataset.open(train), Dataset.open(test)
        assert len(learned.manifest.classes) == 2 and learned.labels == {0: 3, 1: 3} and asked.labels == {0: 20, 1: 20}
        if name == "study-1" and ran.count(name) == 1:
            return {"status": "stopped"}
        done.add(name)
        return {"status": "finished"}

    monkeypatch.setattr(few_shot, "_finished", done.__contains__)
    monkeypatch.setattr(few_shot.Run, "open", staticmethod(lambda name: name))
    monkeypatch.setattr(few_shot, "scores_of", lambda name: Scores(name, 0.5 + 0.1 * int(name[-1]), 0.9))
    told: list[str] = []
    assert run_folds("study", datasets, "2x3", "3", run_fold, told.append)["status"] == "stopped"
    found = run_folds("study", datasets, "2x3", "3", run_fold, told.append)
    assert ran == ["study-0", "study-1", "study-1", "study-2"]
    assert found["accuracy"] == {"mean": pytest.approx(0.6), "deviation": pytest.approx(0.1)} and found["best"]["deviation"] == 0
    assert "2-way 3-shot over 3 folds, at the end: 60.0% ± 10.0%" in told
    with pytest.raises(CallError, match="another task"):
        run_folds("study", datasets, "2x4", "3", run_fold, told.append)


def test_the_spread_is_that_of_a_sample() -> None:
    assert summary([Scores("a", 0.5, 0.5), Scores("b", 0.7, 0.8)])["accuracy"]["deviation"] == pytest.approx(0.1 * 2**0.5)
    assert Fold(("a",), ("b",)) != Fold(("b",), ("a",)) and json.dumps(summary([Scores("a", 0.5, 0.5)]))
