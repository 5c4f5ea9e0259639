"""The resource plan of a run, made before anything starts: logical CPUs for workers, for the tasks that make samples and for probes.

Two Train workers that take both CPUs of a small machine leave none to these tasks, which then wait for ever. So they always get a share,
and workers get fractions of CPUs where there are few. Logical CPUs are only counted by Ray; threads are planned separately.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.config import Experiment
from sightline.platform.config.location import parse
from sightline.platform.config.schema import TrainConfig
from sightline.platform.data.loader.stream import StreamResources

MOST_WORKERS_PER_CPU = 4
"""More workers on one CPU would mostly wait for each other."""

CPUS_OF_USERS_TASK = 1.0
"""What Ray asks for a task of a user's own dataset (`ray:MODULE:FUNCTION`) where its code names no `num_cpus`."""

TEACHERS_GPU = 0.25
"""Share of a worker's GPU for the actors of its stage, where they have no GPU of their own."""


@dataclass(frozen=True)
class ResourcePlan:
    workers: int
    worker_cpus: float
    worker_gpus: float
    data: StreamResources
    threads: int
    reserve: float
    """Logical CPUs that are kept for probes and the driver."""
    probe_gpus: float = 0.0
    """For probes during training: 1 where workers have GPUs and one is left that neither they nor a stage's actors take."""

    def describe(self) -> str:
        gpus = f" + {self.worker_gpus:g} GPU" if self.worker_gpus else ""
        theirs = f" + {self.data.actor_gpus:g} GPU" if self.data.actor_gpus else ""
        actors = f" and {self.data.actors} x {self.data.actor_cpus:g} CPU{theirs} for the teacher" if self.data.actors else ""
        probes = f" + {self.probe_gpus:g} GPU" if self.probe_gpus else ""
        return (
            f"{self.workers} worker{'s' * (self.workers > 1)} x {self.worker_cpus:g} CPU{gpus}, "
            f"{self.threads} torch thread{'s' * (self.threads > 1)} each; "
            f"data tasks {self.workers} x {self.data.cpus:g} CPU{actors}; {self.reserve:g} CPU{probes} kept for probes"
        )


def plan_resources(
    workers: int,
    cpus: float,
    gpus: int,
    *,
    device: str = "auto",
    threads: int | None = None,
    stage: bool = False,
    actors: int | None = None,
    probes: bool = False,
    gpus_per_worker: float = 1.0,
    users_tasks: bool = False,
) -> ResourcePlan:
    """Divide a cluster of `cpus` logical CPUs and `gpus` GPUs. With a `stage` its actors get half of these CPUs, and with `probes`
    during training these get a GPU that is left.

    `actors`: of the stage for each worker; by default one for each of their CPUs. Where workers have GPUs, the actors have some, too:
    those that no worker takes or, where there are none, a quarter of each worker's. With `users_tasks` workers and actors leave a whole
    CPU for the tasks of a dataset that the user's own code builds. Raises `CallError` with the arithmetic where the run cannot fit.
    """
    if workers > cpus * MOST_WORKERS_PER_CPU:
        raise CallError(
            f"train.workers = {workers} cannot fit: {cpus:g} logical CPUs x {MOST_WORKERS_PER_CPU} workers a CPU "
            f"= {cpus * MOST_WORKERS_PER_CPU:g} at most",
            f"use train.workers={int(cpus * MOST_WORKERS_PER_CPU)} or fewer, or a larger cluster",
        )
    use_gpu = device == "cuda" or (device == "auto" and gpus > 0)
    if use_gpu and workers > gpus * per_gpu(gpus_per_worker):
        shared = f" x {gpus_per_worker:g} GPU = {per_gpu(gpus_per_worker)} a GPU" if gpus_per_worker < 1 else ""
        raise CallError(
            f"train.workers = {workers} workers{shared} need {math.ceil(workers / per_gpu(gpus_per_worker))} GPUs, the cluster has {gpus}",
            f"use train.workers={max(gpus, 1)}{'' if gpus else ' train.device=cpu'}, or a larger cluster",
        )
    reserve = 1.0 if cpus >= 4 else 0.5 if cpus >= 2 else 0.25
    for_workers = min(float(workers), (cpus - reserve) / 2)
    worker_cpus = _down(for_workers / workers)
    for_data = cpus - reserve - worker_cpus * workers
    share = _down(for_data / workers)
    data, worker_gpus = StreamResources(min(1.0, share), share), gpus_per_worker if use_gpu else 0.0
    spare = 0
    if stage:
        half = _down(share / 2)
        spare = int(gpus - workers) // workers if use_gpu else 0
        count = actors or max(1, spare if use_gpu else int(half))
        actor_gpus = min(1.0, _down((spare or TEACHERS_GPU) / count)) if use_gpu else 0.0
        worker_gpus = min(worker_gpus, 1.0 if spare else 1 - TEACHERS_GPU)
        data = StreamResources(min(1.0, half), half, count, _down(min(1.0, half / count)), actor_gpus)
    if users_tasks:
        room = _room_beside(workers, worker_cpus + data.actors * data.actor_cpus, cpus)
        worker_cpus, data = _down(worker_cpus * room), replace(data, actor_cpus=_down(data.actor_cpus * room))
    per_worker = max(1, int(cpus // workers))
    taken = workers * (1 + (math.ceil(data.actor_gpus * data.actors) if spare else 0))
    probe_gpus = float(probes and use_gpu and gpus > taken)
    return ResourcePlan(workers, worker_cpus, worker_gpus, data, threads or per_worker, reserve, probe_gpus)


def _room_beside(workers: int, held: float, cpus: float) -> float:
    """By how much the CPUs that each worker and its actors hold must shrink, so that a task of the user's fits beside them."""
    free = cpus - CPUS_OF_USERS_TASK
    if free < 0.01 * workers:
        raise CallError(
            f"the tasks of your own Ray dataset ask for {CPUS_OF_USERS_TASK:g} CPU each, "
            f"and beside {workers} workers {cpus:g} CPUs have no room for one",
            "prepare the data (`sightline prepare`), read it as parquet:PLACE or images:PLACE, or use a machine with more CPUs",
        )
    return min(1.0, free / (workers * held))


def per_gpu(share: float) -> int:
    """How many processes that take `share` of a GPU Ray places on one."""
    return int(1 / share + 1e-6)


def runs_at_once(train: TrainConfig, nodes: Iterable[Mapping[str, float]]) -> int:
    """How many runs with these settings the nodes, of so many `CPU` and `GPU`, carry at the same time; 1 at least.

    A run of one worker takes its threads (one where they are not set) and its share of a GPU, both on one node. One of several takes a GPU
    for each or, without GPUs, two CPUs for each: one trains, one prepares the data.
    """
    nodes = list(nodes)
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    use_gpu = (train.device == "cuda" or bool(train.accelerator_type) or train.device == "auto") and gpus > 0
    if train.workers > 1:
        return max(1, (gpus if use_gpu else int(sum(node["CPU"] for node in nodes) / 2)) // train.workers)
    on_cpus = [int(node["CPU"] / (train.threads or 1)) for node in nodes]
    on_gpus = [int(node.get("GPU", 0)) * per_gpu(train.gpus_per_worker) for node in nodes]
    return max(1, sum(map(min, on_cpus, on_gpus) if use_gpu else on_cpus))


def stage_resources(cpus: float, gpus: int = 0) -> StreamResources:
    """Divide a cluster for a stage without training: an eighth loads samples, because rendering and a teacher take far longer."""
    load = float(max(0.5, int(cpus) // 8)) if cpus >= 2 else _down(cpus / 4)
    rest = cpus - load
    actors = gpus or max(1, int(rest))
    return StreamResources(min(0.5, load), load, actors, _down(min(1.0, rest / actors)), float(bool(gpus)))


def _down(value: float) -> float:
    """Rounded down to hundredths, from 1 on to whole numbers: Ray counts in ten-thousandths."""
    return float(int(value)) if value >= 1 else int(value * 100) / 100


def local_plan(experiment: Experiment) -> ResourcePlan:
    """The run's resource plan on this machine."""
    gpus = local_gpus() if experiment.train.device != "cpu" else 0
    return plan_on(experiment, len(os.sched_getaffinity(0)), gpus)


def plan_on(experiment: Experiment, cpus: float, gpus: int) -> ResourcePlan:
    """The run's resource plan on `cpus` logical CPUs and `gpus` GPUs."""
    train = experiment.train
    stage = experiment.has_stage and not experiment.teacher_cache.variants  # a cache holds what the stage gave
    device = "cuda" if train.accelerator_type else train.device
    probes = experiment.probe.every is not None and train.least_workers is None  # an elastic run takes every GPU itself
    return plan_resources(
        train.workers,
        cpus,
        gpus,
        device=device,
        threads=train.threads,
        stage=stage,
        actors=train.actors,
        probes=probes,
        gpus_per_worker=train.gpus_per_worker,
        users_tasks=experiment.data.train is not None and parse(experiment.data.train).reader == "ray",
    )


def local_gpus() -> int:
    """GPUs that Ray would find here, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip()])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])
