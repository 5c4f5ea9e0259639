"""Estimates what a run will cost: parameters, FLOP, memory and a rough time (`--dry-run`)."""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.check import check_encoder
from sightline.platform import config
from sightline.platform.cluster.resources import local_plan
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.mixed_data import MixedData
from sightline.platform.data.training_data import sets_of
from sightline.platform.experiments.preflight import check
from sightline.platform.tracking.client import tracking_uri

if TYPE_CHECKING:
    import torch

    from sightline.methods.contract import Stage
    from sightline.platform.data.loader.blocks import Columns

MOST_PARAMETERS_ON_CPU = 250_000_000
"""Of a network whose FLOP are counted on the CPU where the meta device does not suffice. A ViT-B takes a few seconds."""
SMALL = 2e11
"""FLOP of a pass that the CPU makes sooner than torch imports what the meta device takes (1.2 s, 150 MB) and walks through it."""
TOKEN = 16 * 16 * 3
"""Values of the input that a guess takes for one token."""
NOT_COUNTABLE = (RuntimeError, KeyError, NotImplementedError)
"""Raised where shapes depend on values that the meta device lacks, or a column is missing."""
CLOUD = 1 << 15
"""Points of the cloud on which FLOP are counted: more than any network uses."""


@dataclass(frozen=True)
class Estimate:
    """What `--dry-run` tells besides the settings. Seconds are a guess: a transformer step at 40 % of the matmul rate measured here."""

    parameters: int
    gflops_per_sample: float | None
    """Forward and backward; None where it cannot be counted without data."""
    matmul_gflops: float
    samples: int | None
    steps: int | None
    seconds: float | None
    weights_bytes: int
    """Of weights, gradients and AdamW's two moments, on each worker. Weights that are not trained have no gradients and moments."""
    checkpoint_bytes: int
    """Of weights and moments: on disk, and once more in the first worker's host memory while they are written."""
    plan: str
    begins: str | None = None
    """What `train.init` loads."""
    teachers: str | None = None
    """The teachers and their cost."""
    stage_gflops_per_sample: float | None = None
    teacher_cache: str | None = None
    """What it costs, or where there is one already."""
    mixture: dict[str, tuple[float, float]] | None = None
    """Of several data sets, by name: (share of the samples, epochs of its own)."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        need = f"{self.parameters / 1e6:.2f} M; weights, gradients and AdamW moments {self.weights_bytes / 2**20:,.0f} MiB a worker"
        need += f"; a checkpoint and its copy in memory {self.checkpoint_bytes / 2**20:,.0f} MiB"
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
        begins += [("teachers", self.teachers)] if self.teachers else []
        kept = [("teacher cache", self.teacher_cache)] if self.teacher_cache else []
        of_sets = (f"{share:.3g} {name} ({epochs:.3g} epochs)" for name, (share, epochs) in (self.mixture or {}).items())
        mixed = [("mixture", f"of the samples {', '.join(of_sets)}")] if self.mixture else []
        return [("parameters", need), *begins, ("cost", cost), ("length", length), *mixed, *kept]


def estimate_cost(experiment: config.Experiment) -> Estimate:
    """Parameters, FLOP and a rough time, from the network itself, on the meta device where that suffices."""
    from sightline.methods.contract import BuildContext
    from sightline.platform.models.resolve import resolve_teachers

    method = find_method(experiment.method)
    dataset = None
    if experiment.data.train:
        experiment, dataset = check(experiment, look=False)
    experiment, found = resolve_teachers(experiment, tracking_uri(experiment))
    encoders = {key: weights.encoder() for key, weights in found.items()}
    pretext: Any = method.build(experiment.method_config, BuildContext(seed=0))
    parameters = list(pretext.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    del parameters
    stage = (
        method.stage(experiment.method_config, BuildContext(seed=0, teachers=encoders)) if method.stage is not None and encoders else None
    )
    flops, before = _flops(experiment, pretext, count, stage)
    check_encoder(_encoder(experiment, pretext))
    del pretext
    rate = _matmul_rate()
    steps = experiment.clock(dataset.rows).steps if dataset else None
    samples = steps * experiment.batch.size if steps else None
    seconds = samples * (flops + (before or 0)) / (0.4 * rate) if samples and flops else None
    plan = local_plan(experiment).describe()
    begins = None
    if experiment.train.init is not None:
        from sightline.platform.models.resolve import find_initial

        begins = find_initial(experiment, tracking_uri(experiment)).describe()
    mixture = None
    if isinstance(dataset, MixedData) and samples:
        rows = {name: one.rows for name, one in sets_of(dataset).items()}
        mixture = {name: (share, samples * share / rows[name]) for name, share in dataset.shares.items()}
    cache = None
    if isinstance(dataset, Dataset) and experiment.teacher_cache.variants:
        from .teacher_cache import estimate_cache

        cost = estimate_cache(experiment, dataset, tracking_uri(experiment))
        cache = (
            cost if isinstance(cost, str) else f"{cost.describe()}, made before training; about {_time(cost.seconds)} on one CPU process"
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
        checkpoint_bytes=4 * count + 8 * trained,
        plan=plan,
        begins=begins,
        teachers="; ".join(held) or None,
        stage_gflops_per_sample=before and before / 1e9,
        teacher_cache=cache,
        mixture=mixture,
    )


def _flops(experiment: config.Experiment, pretext: Any, count: int, stage: Stage | None) -> tuple[float | None, float | None]:
    """FLOP of a sample: of forward and backward, and of the stage before (None without one).

    Counted on the CPU where the network is small or shapes depend on values, else on the meta device. None where a pass needs more than an
    image or a cloud, or the network is too large for the CPU.
    """
    from sightline.methods.contract import BuildContext

    from .flops import CountFlops

    columns = _two_samples(experiment)
    before = None
    if stage is not None and columns:
        with CountFlops() as counter:
            columns |= stage(columns)
        before = counter.total / 2
    values = sum(value.size for value in columns.values())
    if 6 * count * values / TOKEN > SMALL:  # of forward and backward, where each token meets every weight
        with contextlib.suppress(*NOT_COUNTABLE):
            return _flops_on("meta", experiment, pretext.to("meta"), columns), before
        if count > MOST_PARAMETERS_ON_CPU:
            return None, before
        pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=0))
    with contextlib.suppress(*NOT_COUNTABLE):
        return _flops_on("cpu", experiment, pretext, columns), before
    return None, before


def _encoder(experiment: config.Experiment, pretext: Any) -> Any:
    """The encoder on the meta device, where a copy takes no memory; where the network cannot be there, of another on the CPU."""
    import torch

    from sightline.methods.contract import BuildContext

    with contextlib.suppress(*NOT_COUNTABLE), torch.device("meta"):
        return pretext.to("meta").encoder()
    return find_method(experiment.method).build(experiment.method_config, BuildContext(seed=0)).encoder()


def _two_samples(experiment: config.Experiment) -> Columns:
    """The views of two black images or two clouds; empty where the method needs more columns."""
    import numpy as np

    from sightline.methods.random import keyed_rng, sample_rng

    method = find_method(experiment.method)
    image = np.zeros((*method.image_shape(experiment.method_config), 3), np.uint8)
    cloud = keyed_rng("cost").normal(size=(CLOUD, 3))
    try:
        made = method.views(experiment.method_config)({"image1": image, "image2": image, "image": image, "points": cloud}, sample_rng(0, 0))
    except KeyError:  # the method needs further columns
        return {}
    return {name: np.stack([value, value]) for name, value in made.items()}


def _flops_on(device: str, experiment: config.Experiment, pretext: Any, columns: Columns) -> float:
    import torch

    from sightline.methods.random import MicrobatchRng

    from .flops import CountFlops

    batch = {name: torch.from_numpy(value).to(device) for name, value in columns.items()}
    counter = CountFlops()
    for parameter in pretext.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_forget)  # the gradients of all would take as much memory as the weights
    with counter:
        losses = pretext(pretext.to_device(batch), MicrobatchRng(0, 0, 0))
        sum(losses[name] for name in experiment.method_config.loss.model_dump()).backward()
    return counter.total / 2


def _forget(parameter: torch.Tensor) -> None:
    parameter.grad = None


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
