"""What each data set of a mixture contributed: samples and their losses, added up on every rank between two reports."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sightline.methods import collective
from sightline.platform.data.loader.mixed_plan import MixedPlan
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.runs.events import SetDone

from .step import StepResult


class SetMeter:
    """One on each rank. Losses stay on the device until `take`, which all ranks call together."""

    def __init__(self, plan: MixedPlan, device: torch.device) -> None:
        self.plan = plan
        self._sums = torch.zeros(2, len(plan.names), dtype=torch.float64, device=device)
        self._told = True

    def add(self, result: StepResult, microbatches: Sequence[Microbatch]) -> None:
        self._told = self._told and len(result.of_samples) == len(microbatches)
        for number, microbatch in enumerate(microbatches):
            assert microbatch.sources is not None
            sources = torch.tensor(microbatch.sources, dtype=torch.int64, device=self._sums.device)
            self._sums[0].index_add_(0, sources, torch.ones_like(sources, dtype=torch.float64))
            if self._told:
                self._sums[1].index_add_(0, sources, result.of_samples[number].double())

    def take(self, steps: int) -> dict[str, SetDone]:
        """Of the steps since the last call, by name. `steps`: those that the run has done."""
        counts, losses = torch.stack(collective.gather(self._sums)).sum(dim=0).tolist()
        self._sums.zero_()
        done = {}
        for number, (name, seen) in enumerate(zip(self.plan.names, self.plan.seen(steps), strict=True)):
            loss = losses[number] / counts[number] if self._told and counts[number] else None
            epochs = seen / self.plan.plans[number].rows
            done[name] = SetDone(samples=int(counts[number]), loss=loss, seen=seen, epochs=epochs)
        return done
