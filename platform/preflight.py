"""Checks everything that can be checked before anything starts, and says what a run will need."""

from __future__ import annotations

import copy
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError

from . import config
from .data.dataset import Dataset
from .data.plan import Plan
from .home import absolute, local_tracking_uri
from .resources import ResourcePlan, plan_resources
from .runs import redact

CPU_PASS = 250_000_000
"""Most parameters of a network whose pass is counted on the CPU, where it cannot be counted on no device: a few seconds for a ViT-B."""
CLOUD = 1 << 15
"""Points of the cloud whose cost is counted: more than any network looks at."""


def check(experiment: config.Experiment) -> tuple[config.Experiment, Dataset]:
    """The experiment with absolute data paths, and its training data. Raises `CallError` or `SightlineError` before anything starts."""
    data = {name: absolute(value) for name, value in (("train", experiment.data.train), ("val", experiment.data.val)) if value}
    probe = {name: tuple(absolute(place) for place in getattr(experiment.probe, name)) for name in ("train", "test")}
    sections: dict[str, Any] = {"data": experiment.data.model_copy(update=data), "probe": experiment.probe.model_copy(update=probe)}
    if experiment.train.storage is not None:
        from .storage import check as check_storage

        check_storage(experiment.train.storage)
        sections["train"] = experiment.train.model_copy(update={"storage": absolute(experiment.train.storage)})
    experiment = experiment.model_copy(update=sections)
    if experiment.data.train is None:
        raise CallError("data.train is not set", "give a data set made by `sightline prepare`: data.train=FOLDER")
    method = find_method(experiment.method)
    dataset = Dataset.open(experiment.data.train, method.kind)
    _check_data(experiment, dataset, "data.train")
    Plan(tuple(dataset.row_groups), experiment.train.seed, experiment.batch.size, experiment.batch.group, experiment.data.block)
    if experiment.data.val is not None:
        _check_data(experiment, Dataset.open(experiment.data.val, method.kind), "data.val")
    for uri in (*experiment.probe.train, *experiment.probe.test):
        Dataset.open(uri)
    if not os.environ.get("RAY_ADDRESS"):
        local_plan(experiment)
    tracking_uri(experiment)
    return experiment, dataset


def local_plan(experiment: config.Experiment) -> ResourcePlan:
    """The resource plan on this machine."""
    gpus = local_gpus() if experiment.train.device != "cpu" else 0
    return plan_on(experiment, len(os.sched_getaffinity(0)), gpus)


def plan_on(experiment: config.Experiment, cpus: float, gpus: int) -> ResourcePlan:
    """The resource plan of the run on so many logical CPUs and GPUs."""
    train = experiment.train
    stage = experiment.has_stage and not experiment.teacher_cache.variants  # which a cache has run before
    return plan_resources(train.workers, cpus, gpus, device=train.device, threads=train.threads, stage=stage, actors=train.actors)


def tracking_uri(experiment: config.Experiment) -> str:
    """Where MLflow records the run; local SQLite unless the settings or `MLFLOW_TRACKING_URI` say otherwise."""
    uri = experiment.log.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return local_tracking_uri()
    if not uri.startswith(("sqlite:///", "http://", "https://", "file:", "databricks", "postgresql", "mysql")):
        raise CallError(
            f"log.tracking_uri = {redact(uri)!r} is no MLflow address",
            "use for example http://127.0.0.1:5000 or sqlite:////folder/mlflow.db",
        )
    return uri


def _check_data(experiment: config.Experiment, dataset: Dataset, name: str) -> None:
    """That the data set has the columns and the sizes that the method's views use."""
    method = find_method(experiment.method)
    views = method.views(experiment.settings)
    lacking = [column for column in getattr(views, "columns", ()) if column not in dataset.manifest.columns]
    if lacking:
        raise CallError(
            f"{name} has no column {lacking[0]!r}, which {method.id} needs; it has {', '.join(dataset.manifest.columns)}",
            f"prepare the data with it: see `sightline prepare {method.kind} --help`",
        )
    distinct = dataset.manifest.distinct or dataset.manifest.points
    least = getattr(views, "least", 0)
    if distinct and distinct[1] < least:
        raise CallError(
            f"no cloud of {name} has enough points: at most {distinct[1]:,} in different places; {method.id} needs {least:,} here",
            f"prepare the data with --points {least} or more, or lower the setting (its groups are taken from the points)",
        )
    smallest = dataset.manifest.image_min
    height, width = getattr(views, "smallest", method.image_shape(experiment.settings))
    if smallest is None or (smallest[0] >= height and smallest[1] >= width):
        return
    largest = dataset.manifest.image_max or smallest
    if largest[0] < height or largest[1] < width:
        raise CallError(
            f"no image of {name} can give a crop of {height} x {width} pixels: "
            f"the largest stored size is {largest[0]} x {largest[1]} (height x width)",
            f"prepare the data with --size {max(height, width)} or more, or set model.image_size to {min(largest)} or less "
            "(a multiple of the patch)",
        )


def local_gpus() -> int:
    """GPUs that Ray would find here, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([d for d in visible.split(",") if d.strip()])
    return len([path for path in Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])


@dataclass(frozen=True)
class Estimate:
    """What `--dry-run` says. Seconds are a rough guess: a transformer step at 40 % of the matmul rate measured here."""

    parameters: int
    gflops_per_sample: float | None
    """Forward and backward; None where the method's pass cannot be counted without data."""
    matmul_gflops: float
    samples: int | None
    steps: int | None
    seconds: float | None
    weights_bytes: int
    """Weights, and for those that are trained gradients and AdamW's two moments, on each worker."""
    plan: str
    begins: str | None = None
    """What `train.init` gives."""
    frozen: str | None = None
    """What runs between views and training, and its cost."""
    stage_gflops_per_sample: float | None = None
    teacher_cache: str | None = None
    """What it takes, or where it lies already."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        need = f"{self.parameters / 1e6:.2f} M; weights, gradients and AdamW moments {self.weights_bytes / 2**20:,.0f} MiB a worker"
        cost = (
            f"{self.gflops_per_sample:.2f} GFLOP a sample, forward and backward" if self.gflops_per_sample else "not countable without data"
        )
        if self.steps is None:
            length = "unknown until data.train is given"
        elif self.seconds is None:
            length = f"{self.steps:,} steps over {self.samples:,} samples"
        else:
            rate = f"this machine's {self.matmul_gflops:.0f} GFLOP/s"
            length = f"{self.steps:,} steps over {self.samples:,} samples; about {_time(self.seconds)} on {rate}"
        begins = [("begins with", self.begins)] if self.begins else []
        begins += [("frozen", self.frozen)] if self.frozen else []
        kept = [("teacher cache", self.teacher_cache)] if self.teacher_cache else []
        return [("parameters", need), *begins, ("cost", cost), ("length", length), *kept, ("resources", self.plan)]


def estimate(experiment: config.Experiment) -> Estimate:
    """Parameters, arithmetic and a rough time, from the network itself on no device."""
    from sightline.methods.contract import Live

    from . import frozen

    method = find_method(experiment.method)
    dataset = Dataset.open(absolute(experiment.data.train), method.kind) if experiment.data.train else None
    if dataset:
        check(experiment)
    experiment, found = frozen.resolve(experiment, tracking_uri(experiment))
    encoders = {key: weights.encoder() for key, weights in found.items()}
    pretext = method.build(experiment.settings, Live(seed=0))
    parameters = list(pretext.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    stage = method.stage(experiment.settings, Live(seed=0, frozen=encoders)) if method.stage is not None and encoders else None
    flops, before = _flops(experiment, pretext, count, stage)
    rate = _matmul_rate()
    steps = experiment.clock(dataset.rows).steps if dataset else None
    samples = steps * experiment.batch.size if steps else None
    seconds = samples * (flops + (before or 0)) / (0.4 * rate) if samples and flops else None
    plan = local_plan(experiment).describe()
    begins = None
    if experiment.train.init is not None:
        from .initial import find_initial

        begins = find_initial(experiment, tracking_uri(experiment)).describe()
    cache = None
    if dataset and experiment.teacher_cache.variants:
        from .teacher_cache import foretell

        told = foretell(experiment, dataset, tracking_uri(experiment))
        cache = (
            told if isinstance(told, str) else f"{told.describe()}, made before training; about {_time(told.seconds)} on one CPU process"
        )
    memory = 16 * trained + 4 * (count - trained)
    held = [f"{key}: {found[key].source}, {sum(p.numel() for p in e.parameters()) / 1e6:.2f} M parameters" for key, e in encoders.items()]
    held += [f"{before / 1e9:.2f} GFLOP a sample, in the data workers"] if before else []
    return Estimate(
        parameters=count,
        gflops_per_sample=flops and flops / 1e9,
        matmul_gflops=rate / 1e9,
        samples=samples,
        steps=steps,
        seconds=seconds,
        weights_bytes=memory,
        plan=plan,
        begins=begins,
        frozen="; ".join(held) or None,
        stage_gflops_per_sample=before and before / 1e9,
        teacher_cache=cache,
    )


def _flops(experiment: config.Experiment, pretext: Any, count: int, stage: Any) -> tuple[float | None, float | None]:
    """FLOP of a sample: forward and backward, and in the stage before (None without one). The first from a pass on no device or, where its
    shapes depend on values, on the CPU; None where the pass needs more than an image or a cloud, or the network is too large for the CPU
    to answer at once."""
    from torch.utils.flop_counter import FlopCounterMode

    columns = _two_samples(experiment)
    before = None
    if stage is not None and columns:
        with FlopCounterMode(display=False) as counter:
            columns |= stage(columns)
        before = float(counter.get_total_flops()) / 2
    small = count <= CPU_PASS
    for device in ("meta", "cpu") if small else ("meta",):
        try:
            return _flops_on(device, experiment, (copy.deepcopy(pretext) if small else pretext).to(device), columns), before
        except (RuntimeError, KeyError, NotImplementedError):
            continue
    return None, before


def _two_samples(experiment: config.Experiment) -> dict[str, Any]:
    """What the views make of a black image or of a cloud."""
    import numpy as np

    from sightline.methods.random import keyed_rng, sample_rng

    method = find_method(experiment.method)
    image = np.zeros((*method.image_shape(experiment.settings), 3), np.uint8)
    cloud = keyed_rng("cost").normal(size=(CLOUD, 3))
    try:
        made = method.views(experiment.settings)({"image1": image, "image2": image, "image": image, "points": cloud}, sample_rng(0, 0))
    except KeyError:  # further columns, which nobody can guess
        return {}
    return {name: np.stack([value, value]) for name, value in made.items()}


def _flops_on(device: str, experiment: config.Experiment, pretext: Any, columns: dict[str, Any]) -> float:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from sightline.methods.random import Noise

    batch = {name: torch.from_numpy(value).to(device) for name, value in columns.items()}
    with FlopCounterMode(display=False) as counter:
        losses = pretext(pretext.to_device(batch), Noise(0, 0, 0))
        sum(losses[name] for name in experiment.settings.loss.model_dump()).backward()
    return float(counter.get_total_flops()) / 2


def _matmul_rate() -> float:
    """FLOP/s of an fp32 matrix product on this machine's CPU."""
    import torch

    a = torch.ones(1024, 1024)
    times = []
    for _ in range(4):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return 2 * 1024**3 / statistics.median(times[1:])


def _time(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"
