"""Ray Tune's asynchronous successive halving (Li et al., MLSys 2020), whose rungs a resume restores from the sweep's record."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from .record import Decision, Sweep, TrialMeasured

if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial


class _Known(NamedTuple):
    """A trial for the rungs, by its number, which stays the same in a resume."""

    trial_id: str


NOBODY = cast("TuneController", None)
"""In place of Tune's controller, which the rungs do not use."""


class Recorded(ASHAScheduler):
    """Records every result with the decision about it, before the trial learns the decision."""

    def __init__(self, sweep: Sweep) -> None:
        plan = sweep.plan
        self.sweep = sweep
        super().__init__(
            time_attr="step",
            metric="objective",
            mode="max" if plan.better == "higher" else "min",
            max_t=plan.steps,
            grace_period=plan.rungs[0],
            reduction_factor=plan.reduction,
        )
        if plan.scheduler == "none":
            self._brackets[0]._rungs = []
        for event in sweep.results():
            if not math.isfinite(event.objective):
                continue
            known = _known(event.trial)
            super().on_trial_add(NOBODY, known)
            super().on_trial_result(NOBODY, known, {"step": event.step, "objective": event.objective})

    def __deepcopy__(self, memo: Any) -> Recorded:
        return self

    def __reduce__(self) -> tuple[Any, ...]:  # for Ray's private files, which nobody reads
        return (str, ("sightline rungs",))

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        super().on_trial_add(tune_controller, _known(trial.config["trial"]))

    def on_trial_result(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> str:
        if "objective" not in result:
            return str(TrialScheduler.CONTINUE)
        known = _known(trial.config["trial"])
        decision = Decision(super().on_trial_result(tune_controller, known, result))
        self.sweep.note(TrialMeasured(int(known.trial_id), decision, result["step"], result["objective"]))
        return str(decision)

    def on_trial_complete(self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]) -> None:
        self._trial_info.pop(_known(trial.config["trial"]).trial_id, None)

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        self._trial_info.pop(_known(trial.config["trial"]).trial_id, None)

    def on_trial_remove(self, tune_controller: TuneController, trial: Trial) -> None:
        self._trial_info.pop(_known(trial.config["trial"]).trial_id, None)


def _known(number: int) -> Trial:
    return cast("Trial", _Known(str(number)))
