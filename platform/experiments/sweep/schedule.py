"""Schedulers of Ray Tune, which stop trials early. A resume makes one anew and gives it the results of the sweep's record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sightline.methods.errors import SightlineError
from sightline.methods.random import keyed_rng

from .catalog import SchedulerSpec, find_scheduler
from .record import Decision, Sweep, SweepPlan, TrialMeasured

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


class _Known(NamedTuple):
    """A trial for the scheduler, by its number, which stays the same in a resume."""

    trial_id: str


class _Controller:
    """In place of Tune's: a decision must not depend on what runs at the moment."""

    def get_live_trials(self) -> list[Trial]:
        return []

    def get_trials(self) -> list[Trial]:
        return []


CONTROLLER = cast("TuneController", _Controller())


class Recorded(FIFOScheduler):
    """Asks the plan's scheduler about every result, and records the answer before the trial learns it."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sweep, plan = sweep, sweep.plan
        self.inner = find_scheduler(plan.scheduler).make(plan)
        for event in sweep.results():
            if math.isfinite(event.objective):
                self.inner.on_trial_add(CONTROLLER, _known(event.trial))
                self.inner.on_trial_result(CONTROLLER, _known(event.trial), {"step": event.step, "objective": event.objective})

    def __deepcopy__(self, memo: Any) -> Recorded:
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # for Ray's private files, which nobody reads
        return (str, ("sightline rungs",))

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        self.inner.on_trial_add(CONTROLLER, _known(trial.config["trial"]))

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        if "objective" not in result:
            return str(TrialScheduler.CONTINUE)
        number, values = trial.config["trial"], {"step": result["step"], "objective": result["objective"]}
        decision = self.inner.on_trial_result(CONTROLLER, _known(number), values)
        if decision not in (TrialScheduler.CONTINUE, TrialScheduler.STOP):
            raise SightlineError(
                f"scheduler {self.sweep.plan.scheduler} answers {decision} to a result of trial {number}",
                "a sweep takes schedulers that continue or stop a trial; use another --scheduler",
            )
        names = [one.name for one in self.sweep.plan.objectives]
        others = dict(zip(names[1:], result.get("others", ()), strict=False)) or None
        seeds = dict(zip(names, result.get("seeds", ()), strict=False)) or None
        self.sweep.note(TrialMeasured(number, Decision(decision), result["step"], result["objective"], others, seeds))
        return str(decision)


def _known(number: int) -> Trial:
    return cast("Trial", _Known(str(number)))


class _HyperBand(AsyncHyperBandScheduler):
    """Deals trials to its brackets by their numbers, as often as Ray does by chance, so that a resume deals them alike."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.seed = seed

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        weights = [math.exp(len(bracket._rungs)) for bracket in self._brackets]
        draw = keyed_rng("bracket", self.seed, trial.trial_id).random() * sum(weights)
        index = next(index for index in range(len(weights)) if draw <= sum(weights[: index + 1]) or index == len(weights) - 1)
        self._trial_info[trial.trial_id] = self._brackets[index]


def _halving(plan: SweepPlan, brackets: int) -> TrialScheduler:
    return _HyperBand(
        plan.seed,
        time_attr="step",
        metric="objective",
        mode=plan.mode,
        max_t=plan.steps,
        grace_period=plan.rungs[0],
        reduction_factor=plan.reduction,
        brackets=brackets,
    )


def _median(plan: SweepPlan) -> TrialScheduler:
    return MedianStoppingRule(time_attr="step", metric="objective", mode=plan.mode, grace_period=plan.rungs[0], min_samples_required=3)


asha = SchedulerSpec(lambda plan: _halving(plan, 1), "one of {reduction} goes on from a rung (ASHA)")
hyperband = SchedulerSpec(
    lambda plan: _halving(plan, len(plan.rungs)),
    "one of {reduction} goes on from a rung, and each trial's first rung is drawn by its number (asynchronous HyperBand)",
)
median = SchedulerSpec(_median, "a trial stops at a rung where its best is below the median of the others' means, once three are there")
none = SchedulerSpec(lambda plan: FIFOScheduler(), "no trial is stopped early", rungs=False)  # type: ignore[no-untyped-call]
