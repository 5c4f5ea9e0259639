"""`sweep_driver.py NAME [TRIAL]`: the driver of a sweep with a made-up objective. Dies by SIGKILL at the first result of TRIAL."""

from __future__ import annotations

import math
import os
import signal
import sys
from types import SimpleNamespace
from typing import Any

from sightline.platform.experiments.sweep.record import Sweep, Trial, TrialEnded, TrialProposed, TrialStatus
from sightline.platform.experiments.sweep.schedule import Recorded
from sightline.platform.experiments.sweep.search import propose


def drive(name: str, die_at: int | None) -> None:
    sweep = Sweep.open(name)
    plan, rule = sweep.plan, Recorded(sweep)
    for number in range(plan.trials):
        known = {trial.number: trial for trial in sweep.trials()}
        if number not in known:
            known[number] = Trial(number, propose(plan, number, list(known.values())))
            sweep.note(TrialProposed(number, known[number].settings))
        if known[number].status is not TrialStatus.OPEN:
            continue
        settings, tuned = {**plan.own, **known[number].settings}, _tuned(number)
        rule.on_trial_add(None, tuned)  # type: ignore[arg-type]
        stopped, reached = known[number].stopped, max(known[number].results, default=0)
        for step in plan.rungs:
            if stopped or step in known[number].results:
                continue
            worth = step / 100 - abs(settings["a.x"] - 0.2) - abs(math.log(settings["a.y"] / 0.1)) / 5
            stopped = rule.on_trial_result(None, tuned, {"step": step, "objective": worth}) == "STOP"  # type: ignore[arg-type]
            reached = step
            if number == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        sweep.note(TrialEnded(number, TrialStatus.FINISHED if reached == plan.steps else TrialStatus.PRUNED))


def _tuned(number: int) -> Any:
    return SimpleNamespace(config={"trial": number})


if __name__ == "__main__":
    drive(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
