"""`sightline sweep` as a person runs it: stopped, killed, gone on with, to a champion; and what single trials do to it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import finish, start
from heads import until
from listening import family, open_to_others
from toy import TOY_IMAGES, write_images

from sightline.pipelines.__main__ import main
from sightline.platform.experiments.sweep.record import Sweep
from sightline.platform.runs.events import TrainingStarted, ValidationDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.client import place_of

SPACE = ["--space", "pretext.mask_ratio=0.2..0.8", "--space", "pretext.temperature=log:0.05..0.5"]
RATES = ["--space", "optim.lr=log:1e-4..1e-1", "--space", "optim.weight_decay=log:1e-3..1", "--objective", "val/loss"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "train", 40, 1)
    write_images(tmp_path / "val", 30, 2)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump({**TOY_IMAGES["conmim"], "probe": {"names": ["knn"]}}))
    return tmp_path


def sweep(name: str, *words: str) -> subprocess.Popen[str]:
    return start(Path.cwd() / "home", "sweep", "toy.yaml", "data.train=train", "data.val=val", *words, "--name", name)


def in_a_trial(name: str, results: int) -> Sweep:
    """The sweep when so many results are on record and a trial that has one of them goes on training."""
    record = Path("home/sweeps") / name / "trials.jsonl"

    def met() -> bool:
        if not record.exists() or len(Sweep.open(name).results()) < results:
            return False
        return any(trial.status == "open" and trial.results and not trial.stopped for trial in Sweep.open(name).trials())

    until(met, 0.02)
    return Sweep.open(name)


def measured(name: str) -> list[tuple[Any, ...]]:
    return [(trial.number, trial.settings, trial.results, trial.status) for trial in Sweep.open(name).trials()]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_that_was_stopped_and_killed_ends_as_one_that_was_not(place: Path) -> None:
    words = ["train.length=240 steps", *RATES, "--trials", "6", "--concurrent", "1"]  # long enough to be met in the middle of a trial
    whole = finish(sweep("whole", *words))
    assert whole["status"] == "finished" and whole["registered"] == "models:/conmim-encoder@champion"
    trials = Sweep.open("whole").trials()
    assert {trial.status for trial in trials} == {"finished", "pruned"}, "something was stopped early, or the test shows nothing"
    assert whole["winner"]["trial"] == min((t for t in trials if t.status == "finished"), key=lambda t: (t.results[240], t.number)).number
    _is_nested(whole)

    process = sweep("harmed", *words)
    in_a_trial("harmed", 2)
    os.killpg(process.pid, signal.SIGINT)
    assert finish(process)["status"] == "stopped"
    process = start(Path.cwd() / "home", "resume", "harmed")
    done = in_a_trial("harmed", 6)
    process.kill()
    process.communicate()
    time.sleep(3)
    before = {trial.number: trial for trial in done.trials() if trial.status != "open"}
    result = finish(start(Path.cwd() / "home", "resume", "harmed"))
    assert result["status"] == "finished" and result["winner"]["settings"] == whole["winner"]["settings"]
    assert measured("harmed") == measured("whole")
    for number in before:
        attempts = Run.open(f"harmed-{number:03d}").attempts
        assert attempts <= 2, "a finished trial does not run again"
    starts = [event.first_step for n in range(6) for event in Run.open(f"harmed-{n:03d}").events() if isinstance(event, TrainingStarted)]
    assert len(starts) > 6 and any(first > 0 for first in starts), "a trial went on from its checkpoint"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("search", ["optuna:cmaes", "ray:hyperopt"])
def test_after_a_kill_a_searcher_that_learns_proposes_what_it_would_have(search: str, place: Path) -> None:
    words = ["train.length=4 steps", *RATES, "--trials", "9", "--concurrent", "1", "--search", search]
    finish(sweep("whole", *words))
    process = sweep("killed", *words)
    record = Path("home/sweeps/killed/trials.jsonl")
    until(lambda: record.exists() and len(Sweep.open("killed").results()) >= 4, 0.02)
    process.kill()
    process.communicate()
    known = len(Sweep.open("killed").trials())
    assert known <= 6, "most of the search is still to come"
    assert finish(start(Path.cwd() / "home", "resume", "killed"))["status"] == "finished"
    assert measured("killed") == measured("whole")
    drawn = {str(trial.settings) for trial in Sweep.open("whole").trials()}
    assert len(drawn) == 9


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_objective_of_a_trial_of_several_seeds_is_their_mean(place: Path) -> None:
    words = ["train.length=6 steps", *RATES, "--trials", "5", "--concurrent", "1", "--scheduler", "median", "--seeds", "2"]
    result = finish(sweep("seeds", *words))
    found = Sweep.open("seeds")
    assert result["status"] == "finished" and len(found.trials()) == 5
    for trial in found.trials():
        alone = [Run.open(name) for name in (f"seeds-{trial.number:03d}", f"seeds-{trial.number:03d}-s1")]
        assert [run.experiment.train.seed for run in alone] == [0, 1]
        losses = [[event.losses["loss"] for event in run.events() if isinstance(event, ValidationDone)][-1] for run in alone]
        assert trial.last == pytest.approx(sum(losses) / 2) and losses[0] != losses[1]


def _is_nested(result: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    found = Sweep.open("whole")
    client = MlflowClient(place_of(found))
    for trial in found.trials():
        filed = client.get_run(str(Run.open(found.run_name(trial.number)).mlflow_run_id))
        assert filed.data.tags["mlflow.parentRunId"] == result["mlflow_run_id"] and filed.info.status == "FINISHED"
        assert filed.data.metrics["objective/val/loss"] == pytest.approx(trial.last)
    version = client.get_model_version_by_alias("conmim-encoder", "champion")
    assert version.tags["sightline.sweep"] == "whole" and version.tags["sightline.trial"] == str(result["winner"]["trial"])
    page = Path(result["report"]).read_text()
    assert (
        page.startswith("<!doctype html>")
        and "Importance of each setting" not in page  # too few trials to say
        and "optim.weight_decay" in page
        and "Training loss" in page
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_trial_that_fails_or_is_stopped_ends_nothing_else(place: Path) -> None:
    """A ratio that masks nothing is allowed by the ends of its range only; a file ends trial 2. The recipe's own is among the six."""
    text = "0.05,0.5,0.6"  # of 16 cells 0.05 hides one: allowed; see the batch below
    process = sweep(
        "odd", "--space", f"pretext.mask_ratio={text}", "--space", "batch.microbatch=2,12", "--search", "grid", "--concurrent", "2"
    )
    until(Path("home/runs/odd-002").exists, 0.1)
    assert open_to_others(family(process.pid)) == []
    (Path("home/runs/odd-002") / "stop").touch()
    result = finish(process)
    states = {row["trial"]: row["status"] for row in result["trials"]}
    assert states[2] == "cancelled" and len(states) == 6 and list(states.values()).count("finished") >= 1


def test_a_dry_run_shows_the_first_trials_and_makes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "toy.yaml", "data.train=train", "data.val=val", *SPACE, "--trials", "4", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "knn.accuracy, higher is better" in shown and "trial 003" in shown and "step 2, 6, 18 of 18" in shown
    assert not (place / "home").exists()


def test_wrong_calls_are_answered_before_anything_is_made(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["data.train=train", "data.val=val"]
    for words, message in (
        (["sweep", "toy.yaml", *data, "--space", "pretext.mask_ration=0.1..0.9"], "did you mean 'pretext.mask_ratio'"),
        (["sweep", "toy.yaml", *data, "--objective", "val/loss"], "do not compare"),
        (["sweep", "toy.yaml", *data, "--search", "bayes"], "unknown searcher 'bayes'"),
        (["resume", "no-such-sweep"], "no runs under"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (place / "home" / "sweeps").exists()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_trial_of_two_workers_has_them_from_ray_train_and_the_metrics_of_one(place: Path) -> None:
    words = ["train.length=12 steps", *RATES, "--rungs", "2", "--reduction", "2", "--concurrent", "1"]
    assert finish(sweep("two", "train.workers=2", *words, "--trials", "2"))["status"] == "finished"
    assert finish(sweep("one", *words, "--trials", "1"))["status"] == "finished"
    pairs, (single,) = Sweep.open("two").trials(), Sweep.open("one").trials()
    assert len(pairs) == 2 and all(trial.results for trial in pairs)
    assert pairs[0].settings == single.settings and pairs[0].results == pytest.approx(single.results, rel=1e-3)
    starts = [event for event in Run.open("two-000").events() if isinstance(event, TrainingStarted)]
    assert [event.workers for event in starts] == [2]
