"""Asynchronous successive halving (Li et al., MLSys 2020) of Ray Tune, whose rungs are filled again from the sweep's record."""

from __future__ import annotations

from typing import Any, NamedTuple

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from .record import Sweep


class _Known(NamedTuple):
    """A trial as the rungs know it: by its number, which outlives a kill."""

    trial_id: str


NOBODY: Any = None
"""The controller, which the rungs do not ask."""


class Recorded(ASHAScheduler):
    """Every result goes to the record together with the decision about it, before the trial hears of that."""

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
        for number, step, objective in sweep.results():
            known: Any = _Known(str(number))
            super().on_trial_add(NOBODY, known)
            super().on_trial_result(NOBODY, known, {"step": step, "objective": objective})

    def __deepcopy__(self, memo: Any) -> Recorded:
        return self

    def __reduce__(self) -> Any:  # of Ray's private files, which nobody reads
        return (str, ("sightline rungs",))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _known(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "objective" not in result:
            return str(TrialScheduler.CONTINUE)
        known = _known(trial)
        decision = str(super().on_trial_result(tune_controller, known, result))
        event = {"kind": "result", "trial": int(known.trial_id), "decision": decision}
        self.sweep.note([{**event, "step": result["step"], "objective": result["objective"]}])
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._trial_info.pop(_known(trial).trial_id, None)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(_known(trial).trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._trial_info.pop(_known(trial).trial_id, None)


def _known(trial: Any) -> Any:
    return _Known(str(trial.config["trial"]))
