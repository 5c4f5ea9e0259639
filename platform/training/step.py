"""One optimiser step over the microbatches of this rank: forward, backward, clipping, update."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from sightline.methods import collective
from sightline.methods.contract import Batch, HasSampleLosses, HasTargets, Pretext
from sightline.methods.optim import Clock, OptimConfig, Schedule
from sightline.methods.random import MicrobatchRng
from sightline.platform.data.loader.blocks import Columns
from sightline.platform.data.loader.stream import Microbatch

from .prefetch import DeviceMicrobatch


class Phases:
    """Seconds by phase of a run. On a GPU work is queued, so its time counts in the phase in which the host waits for it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """The seconds since the last call."""
        taken = dict(self.seconds)
        self.seconds.clear()
        return taken


def tensors(columns: Columns, device: torch.device) -> Batch:
    """A copy of the columns, which may be memory of Ray's that others read."""
    return {name: torch.tensor(column, device=device) for name, column in columns.items()}


def total(losses: Mapping[str, torch.Tensor], weights: Mapping[str, float]) -> torch.Tensor:
    """The weighted sum of the loss terms, with the weights of the section `loss`."""
    return torch.stack([losses[name].float() * weight for name, weight in weights.items()]).sum()


@contextlib.contextmanager
def buffers_kept(pretext: Pretext) -> Iterator[None]:
    """Restore the buffers (running statistics) afterwards."""
    before = {name: value.clone() for name, value in pretext.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in pretext.named_buffers():
                value.copy_(before[name])


@dataclass(frozen=True)
class StepResult:
    losses: dict[str, torch.Tensor]
    """By name, a tensor with one value for each microbatch of this rank; `loss` is the weighted total."""
    grad_norm: float
    lr: float
    of_samples: list[torch.Tensor] = field(default_factory=list)
    """The weighted total of each sample, by microbatch, where the method tells it."""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.grad_norm)


@dataclass
class Stepper:
    """The pretext, its optimiser and schedules; `step` does one step. Under `torch.distributed` DDP averages gradients."""

    pretext: Pretext
    optim: OptimConfig
    clock: Clock
    weights: Mapping[str, float]
    seed: int
    precision: str
    device: torch.device
    phases: Phases = field(default_factory=Phases)
    tells_samples: bool = False
    """Whether results hold the loss of each sample, where the method tells it."""

    def __post_init__(self) -> None:
        groups = self.pretext.param_groups(self.optim)
        self.optimizer = torch.optim.AdamW(
            [{"params": g.params, "lr_scale": g.lr_scale, "decays": g.decay} for g in groups],
            lr=0.0,
            betas=self.optim.betas,
            eps=self.optim.eps,
            fused=True,
        )
        self.names = {parameter: name for name, parameter in self.pretext.named_parameters()}
        self.schedules: dict[str, Schedule] = self.pretext.schedules(self.optim, self.clock)
        self.module: Any = self.pretext
        if collective.active():
            devices = [self.device] if self.device.type == "cuda" else None
            self.module = DistributedDataParallel(self.pretext, device_ids=devices, gradient_as_bucket_view=True, broadcast_buffers=False)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def warm_up_ddp(self, microbatches: Sequence[Microbatch]) -> None:
        """Run one backward and discard it. DDP rebuilds its buckets after the first backward, which changes the order of its sums. With
        three and more ranks a resumed run would otherwise add in another order than a run that never stopped."""
        if not isinstance(self.module, DistributedDataParallel):
            return
        with buffers_kept(self.pretext):
            *_, (batch, noise) = self._prepared(microbatches, step=-1)
            self._backward(batch, noise, share=1.0)
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, step: int, microbatches: Sequence[Microbatch]) -> StepResult:
        """Do step number `step` (0-based) on this rank's microbatches. Gradients that are not finite are not applied."""
        lr = self.schedules["lr"](step)
        decay = self.schedules["weight_decay"](step)
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr * settings["lr_scale"]
            settings["weight_decay"] = decay if settings["decays"] else 0.0
        results, of_samples = [], []
        for index, (batch, noise) in enumerate(self._prepared(microbatches, step)):
            last = index == len(microbatches) - 1
            quiet = contextlib.nullcontext() if last or self.module is self.pretext else self.module.no_sync()
            # Running statistics follow microbatch 0 alone, so they do not depend on the number of workers.
            keep = contextlib.nullcontext() if noise.microbatch == 0 else buffers_kept(self.pretext)
            with quiet, keep:
                results.append(self._backward(batch, noise, 1.0 / len(microbatches)))
            if self.tells_samples and isinstance(self.pretext, HasSampleLosses):
                told = self.pretext.sample_losses
                of_samples.append(torch.stack([self.weights[name] * each.float() for name, each in told.items()]).sum(dim=0))
        with self.phases("optimiser"):
            parameters = [p for p in self.names if p.grad is not None]
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            grad_norm = float(norm)
            if math.isfinite(grad_norm):
                if self.optim.clip is not None and grad_norm > self.optim.clip:  # torch's helper adds 1e-6 to the norm; this does not
                    torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], self.optim.clip / grad_norm)
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.pretext.after_step(step, self.clock.steps)
        stacked = {name: torch.stack([r[name] for r in results]) for name in results[0]}
        return StepResult(stacked, grad_norm, lr, of_samples)

    def _prepared(self, microbatches: Sequence[Microbatch], step: int) -> Iterator[tuple[Batch, MicrobatchRng]]:
        """The microbatches on the device: one by one, or all together with their targets where the method computes those."""
        noises = [MicrobatchRng(self.seed, step, microbatch.slot) for microbatch in microbatches]
        if isinstance(self.pretext, HasTargets):
            batches = [self._to_device(microbatch) for microbatch in microbatches]
            with self.phases("targets"), self.autocast(), torch.no_grad():
                batches = self.pretext.targets(batches, noises)
            yield from zip(batches, noises, strict=True)
        else:
            yield from ((self._to_device(microbatch), noise) for microbatch, noise in zip(microbatches, noises, strict=True))

    def _to_device(self, microbatch: Microbatch) -> Batch:
        with self.phases("to_device"):
            there = microbatch.batch if isinstance(microbatch, DeviceMicrobatch) else tensors(microbatch.arrays, self.device)
            batch: Batch = self.pretext.to_device(there)
            return batch

    def _backward(self, batch: Batch, noise: MicrobatchRng, share: float) -> dict[str, torch.Tensor]:
        with self.phases("forward"), self.autocast():
            losses = self.module(batch, noise)
            loss = total(losses, self.weights)
        with self.phases("backward"):
            (loss * share).backward()  # type: ignore[no-untyped-call]
        return {"loss": loss.detach(), **{name: value.detach().float() for name, value in losses.items()}}
