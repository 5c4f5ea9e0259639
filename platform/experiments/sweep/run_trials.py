"""Carries a sweep out on Ray Tune, from wherever its record stands. The driver alone writes the sweep's record, the runs' state and MLflow.

Ray keeps private files of its own below the sweep's folder; none of them is read again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback
from ray.tune.search import Searcher

from sightline.methods.errors import CallError
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.cluster.shared_fs import identity, mark
from sightline.platform.core.paths import runs_folder
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import Event
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.tracking.client import undelivered
from sightline.platform.tracking.mlflow_run import Tracking, is_behind
from sightline.platform.training.loop import Job

from .record import Sweep, Trial
from .schedule import Recorded
from .search import propose
from .trial import STOP, trainable

Say = Callable[[str], None]
RESTARTS = 2
"""Of a trial whose process died."""
RUN_STATUS = {
    "finished": RunStatus.TRAINED,
    "failed": RunStatus.FAILED,
    "pruned": RunStatus.STOPPED,
    "cancelled": RunStatus.STOPPED,
}
SAID = {"finished": "FINISHED", "failed": "FAILED", "pruned": "FINISHED", "cancelled": "KILLED"}
"""To MLflow, of a trial's end."""
PROGRESS = 30.0
"""Seconds between two lines that say how far the trials are."""


class Trials(Searcher):
    """Hands out trials: first those that are open, then new ones. A trial whose settings do not go together has failed at once."""

    def __init__(self, sweep: Sweep, say: Say) -> None:
        super().__init__(metric="objective", mode="max" if sweep.plan.better == "higher" else "min")
        self.sweep, self.say = sweep, say
        self.live: dict[int, _Live] = {}
        open_ones = [trial.number for trial in sweep.trials() if trial.status == "open"]
        self.waiting = [*open_ones, *(n for n in range(sweep.plan.trials) if n not in {t.number for t in sweep.trials()})]

    def suggest(self, trial_id: str) -> Any:
        while self.waiting:
            number = self.waiting.pop(0)
            if settings := self._begin(number):
                return settings
        return Searcher.FINISHED

    def _begin(self, number: int) -> dict[str, Any] | None:
        sweep, trials = self.sweep, self.sweep.trials()
        trial = next((one for one in trials if one.number == number), None)
        if trial is None:
            trial = Trial(number, propose(sweep.plan, number, trials))
            sweep.note([{"kind": "proposed", "trial": number, "settings": trial.settings}])
        if trial.stopped:  # the decision was made, and the driver died before it said so
            self.end(trial, "finished" if sweep.plan.steps in trial.results else "pruned")
            return None
        try:
            run = run_of(sweep, trial)
        except CallError as error:
            self.end(trial, "failed", str(error))
            return None
        if storage := Storage.of(run.experiment, run.folder):
            storage.claim(identity(run.folder))
        run.attempts += 1
        run.status = RunStatus.RUNNING
        run.save()
        self.live[number] = _Live(run, Tracking(run))
        self.live[number].tracking.start()
        shown = ", ".join(f"{key}={value}" for key, value in trial.settings.items()) or "the recipe's own settings"
        self.say(f"trial {number:03d} {'goes on' if run.attempts > 1 else 'begins'}: {shown}")
        job = Job(run.recipe, run.settings, str(run.folder), run.fingerprint, None, sweep.plan.threads, token=mark(run.folder))
        plan = sweep.plan
        return {
            "trial": number,
            "job": asdict(job),
            "objective": plan.objective,
            "rungs": list(plan.rungs),
            "known": list(trial.results),
            "share": 1 / plan.concurrent,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The callback below knows more."""

    def end(self, trial: Trial, status: str, error: str = "", seconds: dict[str, float] | None = None) -> None:
        self.sweep.note([{"kind": "end", "trial": trial.number, "status": status, "error": error, "seconds": seconds or {}}])
        score = f", {self.sweep.plan.objective} {trial.last:.4g}" if trial.last is not None else ""
        self.say(f"trial {trial.number:03d} {status}{score}{f': {error}' if error else ''}")

    def break_off(self, live: _Live, failed: Event) -> None:
        """The machine failed, so the next trials would, too: this one stays open, and no other begins."""
        self.waiting.clear()
        live.run.status = RunStatus.STOPPED
        live.run.save()
        live.tracking.close("KILLED")
        self.say(f"{live.run.name}: {failed['what']}; no other trial begins. {failed['hint'].replace('RUN', self.sweep.name)}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def __deepcopy__(self, memo: Any) -> Trials:  # Tune works on a copy; the record is one
        return self

    def __reduce__(self) -> Any:  # of Ray's private files, which nobody reads
        return (str, ("sightline trials",))


class _Live:
    """A trial under way."""

    def __init__(self, run: Run, tracking: Tracking) -> None:
        self.run, self.tracking, self.began = run, tracking, time.monotonic()
        self.failures = len(_failures(run))
        """Of attempts before."""


class Ends(TrialProgressCallback):
    """Writes down how each trial ended, and says now and then how far the others are. Stands in for Tune's own lines."""

    def __init__(self, trials: Trials) -> None:
        super().__init__()
        self.trials = trials
        self.said = time.monotonic()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.trials.live and time.monotonic() - self.said >= PROGRESS:
            self.said = time.monotonic()
            sweep = self.trials.sweep
            ended = sum(trial.status != "open" for trial in sweep.trials())
            steps = (f"{number:03d} at step {_step(live.run)} of {sweep.plan.steps}" for number, live in sorted(self.trials.live.items()))
            self.trials.say(f"{ended} of {sweep.plan.trials} trials ended, {', '.join(steps)}")

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Said by the scheduler, which decides on it."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, None)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended(trial, "its process died" if not trial.error_file else _last_line(trial.error_file))

    def _ended(self, tuned: Any, error: str | None) -> None:
        number = tuned.config["trial"]
        live, sweep = self.trials.live.pop(number), self.trials.sweep
        trial = next(one for one in sweep.trials() if one.number == number)
        failed = _failures(live.run)[live.failures :]
        if sweep.plan.steps in trial.results:
            status = "finished"
        elif failed and failed[-1].get("machine"):
            self.trials.break_off(live, failed[-1])
            return
        elif error or failed:
            status, error = "failed", failed[-1]["what"] if failed else error
        else:
            status = "pruned" if trial.stopped else "cancelled"
        live.run.status = RUN_STATUS[status]
        live.run.save()
        live.tracking.close(SAID[status], metrics=_metrics(sweep, trial))
        if live.tracking.problem:
            self.trials.say(undelivered(live.tracking.problem, sweep.name))
        measured = {int(step): spent for step, spent in (tuned.last_result or {}).get("seconds", {}).items()}
        whole, training = time.monotonic() - live.began, _training(live.run, measured)
        seconds = {"whole": whole, "training": training, "measuring": sum(measured.values())}
        self.trials.end(trial, status, "" if status != "failed" else str(error), seconds if live.run.attempts == 1 else {})

    def __deepcopy__(self, memo: Any) -> Ends:
        return self

    def __reduce__(self) -> Any:
        return (str, ("sightline ends",))


def run_of(sweep: Sweep, trial: Trial) -> Run:
    """The trial's run, made where there is none. Raises `CallError` where its settings do not go together."""
    name = sweep.run_name(trial.number)
    try:
        return Run.open(name)
    except CallError:
        experiment = sweep.experiment_of(trial)
        command = f"{sweep.command}  # trial {trial.number}"
        return create_run(name, experiment, sweep.fingerprint, command, sweep.tracking_uri, parent=sweep.mlflow_run_id)


def carry_out(sweep: Sweep, say: Say) -> None:
    """Runs all trials that are not at their end. Returns where they are, or where the person stopped it; raises `SightlineError`."""
    plan = sweep.plan
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a trial that failed has no objective
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    _deliver_missed(sweep)
    trials = Trials(sweep, say)
    if not trials.waiting:
        return
    sweep.status = "running"
    sweep.save()
    tuner = tune.Tuner(
        tune.with_resources(trainable, _resources(sweep)),
        tune_config=tune.TuneConfig(
            num_samples=len(trials.waiting),
            search_alg=trials,
            scheduler=Recorded(sweep),
            max_concurrent_trials=plan.concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=f"{sweep.name}-{int(time.time())}",
            storage_path=str(sweep.folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=RESTARTS),
            callbacks=[Ends(trials)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        for number, live in list(trials.live.items()):
            live.run.status = RunStatus.STOPPED
            live.run.save()
            live.tracking.close("KILLED")
            say(f"trial {number:03d} stopped under way")
    sweep.status = "stopped" if any(trial.status == "open" for trial in sweep.trials()) or trials.waiting else "trained"
    sweep.save()


def _deliver_missed(sweep: Sweep) -> None:
    """What MLflow, while it was away, missed of trials that have ended."""
    for trial in sweep.trials():
        folder = runs_folder() / sweep.run_name(trial.number)
        if trial.status in SAID and folder.is_dir() and is_behind(run := Run.open(str(folder))):
            tracking = Tracking(run)
            tracking.close(SAID[trial.status], metrics=_metrics(sweep, trial))
            if tracking.problem:  # away still
                return


def ask_stop(run: Run) -> None:
    """An early end of the trial that is this run."""
    (run.folder / STOP).touch()


def _resources(sweep: Sweep) -> dict[str, float]:
    """Of a trial's process: all that it trains with or, where its workers are others, little."""
    import ray

    train = sweep.settings["train"]
    if train["workers"] > 1:
        return {"CPU": 0.1}
    total = ray.cluster_resources()  # type: ignore[no-untyped-call]
    # A GPU that was asked for is waited for: nodes that an autoscaler starts are not up yet.
    gpu = train["device"] == "cuda" or (train["device"] == "auto" and total.get("GPU", 0))
    return {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": 1.0}


def _failures(run: Run) -> list[Event]:
    return [event for event in run.events() if event["kind"] == "failed"]


def _metrics(sweep: Sweep, trial: Trial) -> dict[str, float]:
    return {} if trial.last is None else {f"objective/{sweep.plan.objective.replace('.', '/')}": trial.last}


def _training(run: Run, measured: dict[int, float]) -> float:
    """Seconds from the first batch to the last thing on record, without those of rungs that were measured between steps."""
    times = [event["time"] for event in run.events() if event["kind"] != "worker"]
    last = _step(run)
    return max(times) - min(times) - sum(spent for step, spent in measured.items() if step < last) if times else 0.0


def _step(run: Run) -> int:
    return max((event["first"] + len(event["lr"]) for event in run.events() if event["kind"] == "steps"), default=0)


def _last_line(path: str) -> str:
    lines = [line.strip() for line in Path(path).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its process died"
