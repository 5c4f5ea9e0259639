"""The resource plan of a run, made before anything starts: logical CPUs for workers, for Ray Data and for probes.

Two Train workers that take both CPUs of a small machine leave none to Ray Data, which then waits for ever. So Ray Data always keeps
one logical CPU, and workers get fractions where there are few. Logical CPUs are Ray's bookkeeping; threads are planned apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from sightline.methods.errors import CallError

from .data.stream import StreamResources

MOST_WORKERS_PER_CPU = 4
"""More workers than this on one CPU spend their time on each other."""


@dataclass(frozen=True)
class ResourcePlan:
    workers: int
    worker_cpus: float
    worker_gpus: int
    data: StreamResources
    threads: int
    reserve: float
    """Logical CPUs left to probes and the driver."""

    def describe(self) -> str:
        gpus = f" + {self.worker_gpus} GPU" if self.worker_gpus else ""
        actors = f" and {self.data.actors} x {self.data.actor_cpus:g} for the teacher" if self.data.actors else ""
        return (
            f"{self.workers} worker{'s' * (self.workers > 1)} x {self.worker_cpus:g} CPU{gpus}, "
            f"{self.threads} torch thread{'s' * (self.threads > 1)} each; "
            f"Ray Data {self.workers} x {self.data.cpus:g} CPU{actors}; {self.reserve:g} CPU kept for probes"
        )


def plan_resources(
    workers: int, cpus: float, gpus: int, *, device: str = "auto", threads: int | None = None, stage: bool = False
) -> ResourcePlan:
    """Share out a cluster of `cpus` logical CPUs and `gpus` GPUs; with a `stage` half of what Ray Data gets is for its actors.

    Raises `CallError` with the arithmetic where it cannot fit.
    """
    if workers > cpus * MOST_WORKERS_PER_CPU:
        raise CallError(
            f"train.workers = {workers} cannot fit: {cpus:g} logical CPUs x {MOST_WORKERS_PER_CPU} workers a CPU "
            f"= {cpus * MOST_WORKERS_PER_CPU:g} at most",
            f"use train.workers={int(cpus * MOST_WORKERS_PER_CPU)} or fewer, or a larger cluster",
        )
    use_gpu = device == "cuda" or (device == "auto" and gpus > 0)
    if use_gpu and workers > gpus:
        raise CallError(
            f"train.workers = {workers} workers need {workers} GPUs, the cluster has {gpus}",
            f"use train.workers={max(gpus, 1)}{'' if gpus else ' train.device=cpu'}, or a larger cluster",
        )
    reserve = 1.0 if cpus >= 4 else 0.5 if cpus >= 2 else 0.25
    for_workers = min(float(workers), (cpus - reserve) / 2)
    worker_cpus = _down(for_workers / workers)
    for_data = cpus - reserve - worker_cpus * workers
    share = _down(for_data / workers)
    data = StreamResources(min(1.0, share), share)
    if stage:
        half = _down(share / 2)
        actors = max(1, int(half))
        data = StreamResources(min(1.0, half), half, actors, _down(min(1.0, half)))
    per_worker = max(1, int(cpus // workers))
    return ResourcePlan(workers, worker_cpus, int(use_gpu), data, threads or per_worker, reserve)


def stage_resources(cpus: float) -> StreamResources:
    """A cluster for a stage alone, before training: an eighth loads samples, because rendering and a teacher take far longer.

    A task of loading gets another share than an actor, or Ray Data would run both in the actor and leave the eighth idle.
    """
    load = float(max(0.5, int(cpus) // 8)) if cpus >= 2 else _down(cpus / 4)
    rest = cpus - load
    return StreamResources(min(0.5, load), load, max(1, int(rest)), _down(min(1.0, rest)))


def _down(value: float) -> float:
    """Ray counts in ten-thousandths; whole numbers where there is at least one."""
    return float(int(value)) if value >= 1 else int(value * 100) / 100
