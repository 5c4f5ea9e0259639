"""Runs the trials of a sweep that have not ended on Ray Tune. Only the driver writes the sweep's record, the runs' status and MLflow.

Ray keeps private files of its own below the sweep's folder; none of them is read again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.cluster.demand import describe, own_resources
from sightline.platform.cluster.placement import up
from sightline.platform.core.paths import runs_folder
from sightline.platform.data.training_data import open_training_data
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import StepsDone, TrainingFailed, WorkerStarted
from sightline.platform.runs.identity import identity, mark
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.tracking.client import place_of, undelivered
from sightline.platform.tracking.mlflow_run import Tracking, is_behind
from sightline.platform.tracking.models import Results
from sightline.platform.tracking.problems import TrackingProblem
from sightline.platform.training.job import TrainJob

from .record import Sweep, SweepStatus, Trial, TrialEnded, TrialProposed, TrialStatus
from .schedule import Recorded
from .search import propose
from .trial import STOP, TrialTask, trainable

if TYPE_CHECKING:
    from ray.tune.experiment import Trial as TuneTrial

Say = Callable[[str], None]
RESTARTS = 2
"""Of a trial whose process died."""
PROGRESS_SECONDS = 30.0
"""Between two lines of progress."""
DIED = "its process died"


@dataclass(frozen=True)
class _End:
    """What the end of a trial means for its run and for the run in MLflow."""

    run: RunStatus
    mlflow: str


ENDS = {
    TrialStatus.FINISHED: _End(RunStatus.TRAINED, "FINISHED"),
    TrialStatus.FAILED: _End(RunStatus.FAILED, "FAILED"),
    TrialStatus.PRUNED: _End(RunStatus.STOPPED, "FINISHED"),
    TrialStatus.CANCELLED: _End(RunStatus.STOPPED, "KILLED"),
}


@dataclass
class LiveTrial:
    """A trial that is running, with a run for each training seed."""

    runs: list[Run]
    tracking: list[Tracking]
    began: float = field(default_factory=time.monotonic)
    earlier_failures: list[int] = field(default_factory=list)
    """Failures that each run recorded in earlier attempts."""

    @classmethod
    def start(cls, runs: list[Run]) -> LiveTrial:
        for run in runs:
            if storage := Storage.of(run.experiment, run.folder):
                storage.claim(identity(run.folder))
            run.attempts += 1
            run.status = RunStatus.RUNNING
            run.save()
        live = cls(runs, [Tracking(run) for run in runs], earlier_failures=[len(_failures(run)) for run in runs])
        for tracking in live.tracking:
            tracking.start()
        return live

    def failure(self) -> TrainingFailed | None:
        """The last failure of this attempt."""
        new = [failed for run, earlier in zip(self.runs, self.earlier_failures, strict=True) for failed in _failures(run)[earlier:]]
        return new[-1] if new else None

    def close(self, status: RunStatus, mlflow: str, results: list[Results] | None = None) -> None:
        for index, (run, tracking) in enumerate(zip(self.runs, self.tracking, strict=True)):
            run.status = status
            run.save()
            tracking.close(mlflow, results=results[index] if results else None)

    @property
    def problem(self) -> TrackingProblem | None:
        """Why MLflow did not get all of it."""
        return next((tracking.problem for tracking in self.tracking if tracking.problem), None)


class Trials(Searcher):
    """Gives trials to Ray Tune: first the open ones, then new ones. A trial whose settings do not go together fails at once."""

    def __init__(self, sweep: Sweep, say: Say) -> None:
        super().__init__(metric="objective", mode="max" if sweep.plan.better == "higher" else "min")
        self.sweep, self.say = sweep, say
        self.live: dict[int, LiveTrial] = {}
        recorded = sweep.trials()
        unfinished = [trial.number for trial in recorded if trial.status is TrialStatus.OPEN]
        self.waiting = [*unfinished, *(n for n in range(sweep.plan.trials) if n not in {t.number for t in recorded})]

    def suggest(self, trial_id: str) -> Any:
        while self.waiting:
            if task := self._begin(self.waiting.pop(0)):
                return task.to_values()
        return Searcher.FINISHED

    def _begin(self, number: int) -> TrialTask | None:
        sweep, trial = self.sweep, self._proposed(number)
        if trial.stopped or sweep.plan.steps in trial.results:  # the driver died between the decision and its record of the end
            self.end(trial, TrialStatus.FINISHED if sweep.plan.steps in trial.results else TrialStatus.PRUNED)
            return None
        try:
            runs = runs_of(sweep, trial)
        except CallError as error:
            self.end(trial, TrialStatus.FAILED, str(error))
            return None
        self.live[number] = LiveTrial.start(runs)
        shown = ", ".join(f"{key}={value}" for key, value in trial.settings.items()) or "the recipe's own settings"
        self.say(f"trial {number:03d} {'goes on' if runs[0].attempts > 1 else 'begins'}: {shown}")
        plan = sweep.plan
        jobs = [TrainJob(run.experiment, run.folder, run.fingerprint, threads=plan.threads, token=mark(run.folder)) for run in runs]
        names = tuple(one.name for one in plan.objectives)
        return TrialTask(number, tuple(jobs), names, plan.rungs, tuple(trial.results), 1 / plan.concurrent)

    def _proposed(self, number: int) -> Trial:
        """The trial as it is recorded, or a new one."""
        trials = self.sweep.trials()
        trial = next((one for one in trials if one.number == number), None)
        if trial is None:
            trial = Trial(number, propose(self.sweep.plan, number, trials))
            self.sweep.note(TrialProposed(number, trial.settings))
        return trial

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: `Ends` records the end."""

    def end(self, trial: Trial, status: TrialStatus, error: str = "", seconds: dict[str, float] | None = None) -> None:
        self.sweep.note(TrialEnded(trial.number, status, error, seconds or {}))
        values = zip(self.sweep.plan.objectives, trial.values(self.sweep.plan) or (), strict=False)
        score = "".join(f", {one.name} {value:.4g}" for one, value in values)
        self.say(f"trial {trial.number:03d} {status}{score}{f': {error}' if error else ''}")

    def stop_all(self, live: LiveTrial, failed: TrainingFailed) -> None:
        """Leave this trial open and start no other: the machine failed, so others would fail as well."""
        self.waiting.clear()
        live.close(RunStatus.STOPPED, "KILLED")
        self.say(f"{live.runs[0].name}: {failed.what}; no other trial begins. {failed.hint.replace('RUN', self.sweep.name)}")

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the sweep's record has everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: see `save`."""

    def __deepcopy__(self, memo: Any) -> Trials:  # Tune works on a copy, and there is one record
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # for Ray's private files, which nobody reads
        return (str, ("sightline trials",))


class Ends(TrialProgressCallback):
    """Records how each trial ended, and prints now and then how far the others are, in place of Tune's own lines."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self.trials = trials
        self.said = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if self.trials.live and time.monotonic() - self.said >= PROGRESS_SECONDS:
            self.said = time.monotonic()
            sweep = self.trials.sweep
            ended = sum(trial.status is not TrialStatus.OPEN for trial in sweep.trials())
            waiting = {trial.config["trial"] for trial in trials if trial.status == "PENDING"}
            states = (
                f"{number:03d} " + ("waits to start" if number in waiting else f"at step {_reached(live)} of {sweep.plan.steps}")
                for number, live in sorted(self.trials.live.items())
            )
            need = f"; a trial needs {_needed(sweep)} of one node" if waiting else ""
            self.trials.say(f"{ended} of {sweep.plan.trials} trials ended, {', '.join(states)}{need}")

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any) -> None:
        """Does nothing: the scheduler records the result."""

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, None)

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        self._ended(trial, DIED if not trial.error_file else _last_line(trial.error_file))

    def _ended(self, tuned: TuneTrial, error: str | None) -> None:
        number, sweep = tuned.config["trial"], self.trials.sweep
        live = self.trials.live.pop(number)
        trial = next(one for one in sweep.trials() if one.number == number)
        failed = live.failure()
        status = _status(sweep, trial, bool(error or failed))
        if failed and failed.machine and status is not TrialStatus.FINISHED:
            self.trials.stop_all(live, failed)
            return
        end = ENDS[status]
        live.close(end.run, end.mlflow, [_results(sweep, trial, seed) for seed in range(len(live.runs))])
        if live.problem:
            self.trials.say(undelivered(live.problem, sweep.name))
        why = "" if status is not TrialStatus.FAILED else failed.what if failed else str(error)
        self.trials.end(trial, status, why, _seconds(live, tuned) if live.runs[0].attempts == 1 else {})

    def __deepcopy__(self, memo: Any) -> Ends:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, ("sightline ends",))


def _status(sweep: Sweep, trial: Trial, failed: bool) -> TrialStatus:
    """How a trial ended."""
    if sweep.plan.steps in trial.results:
        return TrialStatus.FINISHED
    if failed:
        return TrialStatus.FAILED
    return TrialStatus.PRUNED if trial.stopped else TrialStatus.CANCELLED


def _seconds(live: LiveTrial, tuned: TuneTrial) -> dict[str, float]:
    measured = {int(step): seconds for step, seconds in (tuned.last_result or {}).get("seconds", {}).items()}
    whole = time.monotonic() - live.began
    training = _training(live.runs[0], measured) if len(live.runs) == 1 else sum(map(_stepping, live.runs))
    return {"whole": whole, "training": training, "measuring": sum(measured.values())}


def runs_of(sweep: Sweep, trial: Trial) -> list[Run]:
    """The trial's runs, one for each training seed, created where there are none. Raises `CallError` where its settings do not fit."""

    def made(seed: int) -> Run:
        name = sweep.run_name(trial.number, seed)
        try:
            return Run.open(name)
        except CallError:
            experiment = sweep.experiment_of(trial, seed)
            command = f"{sweep.command}  # trial {trial.number}"
            return create_run(name, experiment, _fingerprint(sweep, experiment), command, place_of(sweep), parent=sweep.mlflow_run_id)

    return [made(seed) for seed in range(sweep.plan.seeds)]


def _fingerprint(sweep: Sweep, experiment: config.Experiment) -> str:
    """Of the training data: the sweep's own, unless a trial learns from others, or from another share of it."""
    own, data = sweep.settings["data"], experiment.data
    if (own["train"], own.get("fraction", 1.0), own.get("fraction_seed", 0)) == (data.train, data.fraction, data.fraction_seed):
        return sweep.fingerprint
    return open_training_data(data, find_method(experiment.method).kind).fingerprint


def run_trials(sweep: Sweep, say: Say) -> None:
    """Run all trials that have not ended. Returns when they have, or when a person stopped it; raises `SightlineError`."""
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial that failed has no objective
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    _deliver_missed(sweep)
    trials = Trials(sweep, say)
    if not trials.waiting:
        return
    sweep.status = SweepStatus.RUNNING
    sweep.save()
    try:
        _tuner(sweep, trials).fit()
    finally:
        for number, live in list(trials.live.items()):
            live.close(RunStatus.STOPPED, "KILLED")
            say(f"trial {number:03d} stopped under way")
    unfinished = trials.waiting or any(trial.status is TrialStatus.OPEN for trial in sweep.trials())
    sweep.status = SweepStatus.STOPPED if unfinished else SweepStatus.TRAINED
    sweep.save()


def _tuner(sweep: Sweep, trials: Trials) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(trainable, _resources(sweep)),
        tune_config=tune.TuneConfig(
            num_samples=len(trials.waiting),
            search_alg=trials,
            scheduler=Recorded(sweep),
            max_concurrent_trials=sweep.plan.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"{sweep.name}-{uuid.uuid4().hex[:8]}",  # Ray would continue one of the same name
            storage_path=str(sweep.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[Ends(trials)],
            verbose=0,
        ),
    )


def _deliver_missed(sweep: Sweep) -> None:
    """Send to MLflow what it missed of ended trials while it was unreachable."""
    for trial in sweep.trials():
        for seed, name in enumerate(sweep.run_names(trial.number)):
            folder = runs_folder() / name
            if trial.status in ENDS and folder.is_dir() and is_behind(run := Run.open(str(folder))):
                tracking = Tracking(run)
                tracking.close(ENDS[trial.status].mlflow, results=_results(sweep, trial, seed))
                if tracking.problem:  # still unreachable
                    return


def ask_stop(run: Run) -> None:
    """Ask the trial that is this run to end early."""
    (run.folder / STOP).touch()


def _resources(sweep: Sweep) -> tune.PlacementGroupFactory:
    """Of a trial's process: all that it trains with or, where its workers are processes of their own, little."""
    train = config.load(sweep.recipe, settings=sweep.settings).train
    if train.workers > 1:
        return tune.PlacementGroupFactory([{"CPU": 0.1}])
    nodes = up().values()
    # A GPU that the settings demand is waited for: nodes that an autoscaler starts are not up yet.
    gpu = train.device == "cuda" or train.accelerator_type or (train.device == "auto" and any(node["GPU"] for node in nodes))
    cpus = min(float(sweep.plan.threads), max((node["CPU"] for node in nodes), default=1.0))  # a smaller machine goes on, too
    bundle = {"CPU": max(1.0, cpus), **({"GPU": train.gpus_per_worker} if gpu else {}), **own_resources(train)}
    labels: dict[str, Any] = {"bundle_label_selector": [dict(train.labels)]} if train.labels else {}
    return tune.PlacementGroupFactory([bundle], **labels)


def _needed(sweep: Sweep) -> str:
    """What a trial's process asks of a node, for a sentence."""
    (bundle,), own = _resources(sweep).bundles, describe(config.load(sweep.recipe, settings=sweep.settings).train)
    return " + ".join(f"{bundle[name]:g} {name}" for name in ("CPU", "GPU") if bundle.get(name)) + (f" ({own})" if own else "")


def _failures(run: Run) -> list[TrainingFailed]:
    return [event for event in run.events() if isinstance(event, TrainingFailed)]


def _results(sweep: Sweep, trial: Trial, seed: int = 0) -> Results:
    """The newest objectives of one of the trial's runs, for MLflow."""
    values = trial.values(sweep.plan) or []
    own = trial.seeds.get(max(trial.results, default=-1), {})
    named = {one.name: value for one, value in zip(sweep.plan.objectives, values, strict=False)}
    metrics = {metric_name(name): own[name][seed] if name in own else value for name, value in named.items()}
    return Results(metrics, step=max(trial.results, default=0))


def metric_name(objective: str) -> str:
    """In MLflow."""
    return f"objective/{objective.replace('.', '/')}"


def _stepping(run: Run) -> float:
    """Seconds of its steps, for a run that takes turns with others."""
    return sum(event.seconds for event in run.events() if isinstance(event, StepsDone))


def _training(run: Run, measured: dict[int, float]) -> float:
    """Seconds from the first batch to the last event, without the measuring of rungs between steps."""
    times = [event.time for event in run.events() if not isinstance(event, WorkerStarted) and event.time is not None]
    last = _step(run)
    return max(times) - min(times) - sum(seconds for step, seconds in measured.items() if step < last) if times else 0.0


def _reached(live: LiveTrial) -> str:
    """Steps of each of its runs."""
    return "/".join(str(_step(run)) for run in live.runs)


def _step(run: Run) -> int:
    return max((event.end for event in run.events() if isinstance(event, StepsDone)), default=0)


def _last_line(path: str) -> str:
    lines = [line.strip() for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else DIED
