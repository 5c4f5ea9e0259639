"""Reports of steps: losses of all ranks, gathered every `log.every` steps, so that most steps need no communication."""

from __future__ import annotations

import hashlib
import struct
import time
from collections.abc import Sequence

import torch

from sightline.methods import collective
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.runs.events import NonFiniteLoss, Post, StepsDone

from .meters import SystemMeter
from .mixture import SetMeter
from .step import Phases, StepResult

NOT_REPEATABLE = "not-repeatable:"
"""Begins the history of a run whose samples Ray Data orders: it says what went in, and no other attempt comes to the same."""


class StepReporter:
    """Collects the results of steps until `report`, which all ranks call together. Rank 0 posts the event."""

    def __init__(
        self,
        post: Post,
        first: int,
        history: str,
        batch: int,
        phases: Phases,
        device: torch.device,
        system: SystemMeter | None,
        repeatable: bool = True,
        sets: SetMeter | None = None,
    ) -> None:
        self.post, self.first, self.history = post, first, history
        self.batch, self.phases, self.device, self.system = batch, phases, device, system
        self.latest: dict[str, float] = {}
        """The losses of the last step that was reported, under their names in MLflow."""
        self.sets = sets
        self.mark = "" if repeatable else NOT_REPEATABLE
        self._results: list[StepResult] = []
        self._digests: list[list[int]] = []
        self._start = time.perf_counter()

    def add(self, result: StepResult, microbatches: Sequence[Microbatch]) -> None:
        self._results.append(result)
        self._digests.append([microbatch.digest for microbatch in microbatches])
        if self.sets is not None:
            self.sets.add(result, microbatches)

    def report(self) -> None:
        """Post the steps since the last report and extend the history. Does nothing where there are none."""
        if not self._results:
            return
        steps, losses = len(self._results), self._gather_losses()
        self._extend_history()
        sets = self.sets.take(self.first + steps) if self.sets else None
        self.latest = {f"train/{name}": values[-1] for name, values in losses.items()}
        if collective.rank() == 0:
            self.post(
                StepsDone(
                    first=self.first,
                    losses=losses,
                    lr=[result.lr for result in self._results],
                    grad_norm=[result.grad_norm for result in self._results],
                    seconds=time.perf_counter() - self._start,
                    phases=self.phases.take(),
                    samples=steps * self.batch,
                    system=self.system.read() if self.system else None,
                    sets=sets,
                )
            )
        else:
            self.phases.take()
        self.first += steps
        self._results, self._digests, self._start = [], [], time.perf_counter()

    def _gather_losses(self) -> dict[str, list[float]]:
        """By name, the mean over all microbatches of each step."""
        names = list(self._results[0].losses)
        mine = torch.stack([torch.stack([r.losses[name] for r in self._results]) for name in names])  # names x steps x microbatches
        means = torch.cat(collective.gather(mine), dim=2).double().mean(dim=2).cpu()
        return {name: means[i].tolist() for i, name in enumerate(names)}

    def _extend_history(self) -> None:
        digests = torch.tensor(self._digests, dtype=torch.int64, device=self.device)
        for row in torch.cat(collective.gather(digests), dim=1).tolist():
            self.history = self.mark + hashlib.sha256(self.history.encode() + struct.pack(f"<{len(row)}q", *row)).hexdigest()


def report_nonfinite(post: Post, step: int, microbatches: Sequence[Microbatch], result: StepResult) -> None:
    """Every rank names the samples of its microbatches whose loss is not finite; rank 0 posts in any case."""
    bad = (~torch.isfinite(result.losses["loss"])).tolist()
    ids = [name for microbatch, wrong in zip(microbatches, bad, strict=True) if wrong for name in microbatch.ids]
    if ids or collective.rank() == 0:
        post(NonFiniteLoss(step, ids))
