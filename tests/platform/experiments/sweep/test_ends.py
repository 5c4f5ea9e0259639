"""How trials end in the record: a fault of the machine ends none; names that would mix runs are refused; MLflow gets what it missed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.core.files import append_lines
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.compare import execute
from sightline.platform.experiments.compare.record import Comparison
from sightline.platform.experiments.sweep import run_trials
from sightline.platform.experiments.sweep.plan import Asked, make_plan
from sightline.platform.experiments.sweep.record import TRIALS, Decision, Sweep, TrialMeasured, TrialStatus
from sightline.platform.experiments.sweep.trial import RecordedError, TrialRun, TrialTask
from sightline.platform.runs.events import EVENTS, ClusterNote, TrainingFailed
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import Tracking, is_behind
from sightline.platform.tracking.models import Results
from sightline.platform.training.job import TrainJob

ToyRun = Callable[..., Run]


class Silent:
    """In the place of `Tracking`."""

    def __init__(self, run: Run) -> None:
        self.problem, self.said = None, list[str]()

    def start(self) -> None: ...

    def close(self, said: str, results: Results | None = None) -> None:
        self.said.append(said)


@pytest.fixture
def sweep(toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(run_trials, "Tracking", Silent)
    experiment = toy_run("pattern", **{"train.length": "18 steps"}).experiment
    dataset = Dataset.open(str(experiment.data.train))
    plan = make_plan(experiment, dataset, Asked(space=("optim.lr=log:1e-4..1e-2",), trials=4, objective=["val/loss"]))
    return Sweep.create("masks", experiment, dataset.fingerprint, plan, "a test", "sqlite:///none")


def end(sweep: Sweep, failed: dict[str, Any]) -> tuple[run_trials.Trials, list[str]]:
    """The first trial begins, fails so and ends; what was said."""
    said: list[str] = []
    trials = run_trials.Trials(sweep, said.append)
    assert trials.suggest("ray-0")["trial"] == 0
    trials.live[0].runs[0].append([TrainingFailed(**failed)])
    run_trials.Ends(trials)._ended(SimpleNamespace(config={"trial": 0}, last_result=None), None)
    return trials, said


def test_a_full_disk_ends_no_trial_and_lets_none_begin(sweep: Sweep) -> None:
    trials, said = end(sweep, {"what": "the disk is full", "hint": "continue with `sightline resume RUN`", "machine": True})
    assert [trial.status for trial in sweep.trials()] == ["open"] and trials.suggest("ray-1") == run_trials.Searcher.FINISHED
    assert Run.open("masks-000").status == "stopped"
    assert "the disk is full" in said[-1] and "`sightline resume masks`" in said[-1]
    again = run_trials.Trials(sweep, said.append)
    assert again.waiting == [0, 1, 2, 3], "a resume goes on with it"


def test_any_other_error_ends_its_trial_alone(sweep: Sweep) -> None:
    trials, said = end(sweep, {"what": "the loss of step 3 is not finite", "hint": ""})
    assert [(trial.status, trial.error) for trial in sweep.trials()] == [("failed", "the loss of step 3 is not finite")]
    assert trials.waiting == [1, 2, 3] and said[-1].startswith("trial 000 failed")


def test_an_error_of_an_attempt_before_does_not_count_again(sweep: Sweep) -> None:
    end(sweep, {"what": "the disk is full", "hint": "", "machine": True})
    again = run_trials.Trials(sweep, lambda text: None)
    assert again.suggest("ray-0")["trial"] == 0
    sweep.note(TrialMeasured(0, Decision.STOP, 2, 0.5))
    run_trials.Ends(again)._ended(SimpleNamespace(config={"trial": 0}, last_result=None), None)
    assert [trial.status for trial in sweep.trials()] == ["pruned"]


def test_a_trial_that_no_node_has_room_for_is_told_as_waiting(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    trials = run_trials.Trials(sweep, said.append)
    assert trials.suggest("ray-0")["trial"] == 0
    sweep.settings["train"] |= {"accelerator_type": "A100", "device": "auto"}
    monkeypatch.setattr(run_trials, "up", lambda: {"a": {"CPU": 4.0, "GPU": 0.0}})
    ends = run_trials.Ends(trials)
    ends.said -= run_trials.PROGRESS_SECONDS
    tuned: Any = SimpleNamespace(config={"trial": 0}, status="PENDING")
    ends.on_step_end(1, [tuned])
    assert said[-1].startswith("0 of 4 trials ended, 000 waits to start; a trial needs ") and "1 GPU (accelerator_type A100)" in said[-1]


def test_what_training_has_recorded_is_not_recorded_again(toy_run: ToyRun) -> None:
    run = toy_run("failed")
    job = TrainJob(run.experiment, run.folder, run.fingerprint)
    trial = TrialRun(TrialTask(0, (job,), ("val/loss",), (18,)), job, print)
    with pytest.raises(RecordedError, match="the disk is full"):
        trial._post(TrainingFailed("the disk is full", machine=True))
    assert [type(event) for event in run.events()] == [TrainingFailed]
    trial.validation = {18: {"loss": 1.0, "reconstruction": 1.0}}
    with pytest.raises(CallError, match="did you mean 'reconstruction'"):
        trial._loss("reconstuction", 18)


def test_a_name_belongs_to_one_run_sweep_or_comparison_and_their_runs(sweep: Sweep, toy_run: ToyRun) -> None:
    values = (sweep.recipe, sweep.settings, sweep.fingerprint)
    experiment = config.load(sweep.recipe, settings=sweep.settings)
    nothing: dict[str, Any] = {"budget": "1 sample", "seeds": (0,), "entries": [], "probes": None, "data": {}, "controls": 1, "command": ""}
    with pytest.raises(CallError, match="a sweep named 'masks' exists"):
        toy_run("masks")
    with pytest.raises(CallError, match="a sweep named 'masks' exists"):
        Comparison.create("masks", **nothing)
    with pytest.raises(CallError, match="a run named 'pattern' exists"):
        Sweep.create("pattern", experiment, values[2], sweep.plan, "", "")
    for name in ("old-002", "old-loca-s1"):
        toy_run(name)
    with pytest.raises(CallError, match="a run named 'old-002' exists, as one of this sweep would be"):
        Sweep.create("old", experiment, values[2], sweep.plan, "", "")
    with pytest.raises(CallError, match="a run named 'old-loca-s1' exists, as one of this comparison would be"):
        Comparison.create("old", **nothing)
    Comparison.create("new", **nothing)


@pytest.mark.parametrize(
    ("space", "length", "says"),
    [
        ("batch.size=12,24", "2 epochs", "different numbers of steps"),
        ("batch.size=12,24", "18 steps", ""),
        ("train.keep=1,2", "18 steps", "is the same in all trials"),
    ],
)
def test_trials_have_the_same_steps(space: str, length: str, says: str, toy_run: ToyRun) -> None:
    experiment = toy_run("pattern", **{"train.length": length, "batch.microbatch": 6}).experiment
    dataset = Dataset.open(str(experiment.data.train))
    asked = Asked(space=(space,), objective=["val/loss"], search="grid")
    if not says:
        assert make_plan(experiment, dataset, asked).steps == 18
        return
    with pytest.raises(CallError, match=says):
        make_plan(experiment, dataset, asked)


def test_a_run_is_behind_until_mlflow_has_all_of_its_record(toy_run: ToyRun) -> None:
    run = toy_run("late")
    assert is_behind(run), "there is no MLflow run"
    run.mlflow_run_id = "a1"
    assert not is_behind(run)
    run.append([ClusterNote("waiting")])
    assert is_behind(run)
    size = (run.folder / EVENTS).stat().st_size
    (run.folder / "tracking.json").write_text(f'{{"offset": {size}, "delivered": {{}}}}')
    assert not is_behind(run) and Tracking(run).offset == size


def test_what_mlflow_missed_of_ended_trials_goes_out_with_the_next_resume(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    end(sweep, {"what": "the loss of step 3 is not finite", "hint": ""})
    closed: list[tuple[str, str]] = []

    class Noting(Silent):
        def __init__(self, run: Run) -> None:
            super().__init__(run)
            self.run = run

        def close(self, said: str, results: Results | None = None) -> None:
            closed.append((self.run.name, said))

    monkeypatch.setattr(run_trials, "Tracking", Noting)
    run_trials._deliver_missed(sweep)
    assert closed == [("masks-000", "FAILED")]
    run = Run.open("masks-000")
    run.mlflow_run_id = "a1"
    run.save()
    (run.folder / "tracking.json").write_text(f'{{"offset": {Path(run.folder / EVENTS).stat().st_size}, "delivered": {{}}}}')
    run_trials._deliver_missed(sweep)
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("status", "behind", "then", "closed"),
    [
        ("running", False, "trained", 1),
        ("trained", True, "trained", 1),
        ("trained", False, "trained", 0),
        ("finished", True, "finished", 1),
    ],
)
def test_the_end_of_a_compared_run_is_made_up_for_once(
    status: str, behind: bool, then: str, closed: int, toy_run: ToyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that somebody has finished alone stays finished."""
    said: list[str] = []
    monkeypatch.setattr(execute, "is_behind", lambda run: behind)
    monkeypatch.setattr(execute, "Tracking", lambda run: SimpleNamespace(close=said.append))
    run = toy_run("one")
    run.status = status
    run.save()
    execute._close_missed(run)
    assert Run.open("one").status == then and said == ["FINISHED"] * closed


def test_trials_of_an_older_version_are_read_and_written_with_the_same_keys(sweep: Sweep) -> None:
    older = [
        {"kind": "proposed", "trial": 0, "settings": {"optim.lr": 0.1}},
        {"kind": "result", "trial": 0, "decision": "STOP", "step": 2, "objective": 0.5},
        {"kind": "end", "trial": 0, "status": "pruned", "error": "", "seconds": {"whole": 3.0}},
    ]
    append_lines(sweep.folder / TRIALS, older)
    (trial,) = sweep.trials()
    assert (trial.settings, trial.results, trial.stopped) == ({"optim.lr": 0.1}, {2: 0.5}, True)
    assert (trial.status, trial.seconds) == (TrialStatus.PRUNED, {"whole": 3.0})
    events = list(sweep.events())
    (sweep.folder / TRIALS).unlink()
    for event in events:
        sweep.note(event)
    written = [json.loads(line) for line in (sweep.folder / TRIALS).read_text().splitlines()]
    assert [{key: value for key, value in record.items() if key != "time"} for record in written] == older
    assert [list(record) for record in written] == [["time", *record] for record in older]
