"""What a worker demands of its node besides CPUs and GPUs: `train.accelerator_type`, `train.resources` and `train.labels`."""

from __future__ import annotations

from collections.abc import Mapping

from sightline.methods.errors import CallError
from sightline.methods.settings import nearest
from sightline.platform.config.schema import TrainConfig

from .resources import local_gpus

ACCELERATOR = "accelerator_type:"
"""Begins the resource that a node with such a GPU has once; Ray Train's workers take a thousandth of it."""
ACCELERATOR_SHARE = 0.001


def own_resources(train: TrainConfig) -> dict[str, float]:
    """What one worker takes besides CPUs and GPUs, as Ray names it."""
    kind = {f"{ACCELERATOR}{train.accelerator_type}": ACCELERATOR_SHARE} if train.accelerator_type else {}
    return {**train.resources, **kind}


def suits(train: TrainConfig, resources: Mapping[str, float], labels: Mapping[str, str]) -> bool:
    """Whether a node of these `resources` in all and `labels` can ever take a worker."""
    enough = all(resources.get(name, 0.0) >= amount for name, amount in own_resources(train).items())
    return enough and all(matches(wanted, labels.get(label)) for label, wanted in train.labels.items())


def matches(wanted: str, value: str | None) -> bool:
    """Whether a label's `value` (None: the node has no such label) is `wanted`, in Ray's words: `v`, `!v`, `in(v, w)` or `!in(v, w)`."""
    named = wanted.removeprefix("!")
    values = {part.strip() for part in named[3:-1].split(",")} if named.startswith("in(") else {named}
    return (value in values) is not wanted.startswith("!")


def describe(train: TrainConfig) -> str:
    """What a worker demands besides CPUs and GPUs, for a sentence; empty for nothing."""
    kind = [f"accelerator_type {train.accelerator_type}"] if train.accelerator_type else []
    return ", ".join([*kind, *(f"{amount:g} {name}" for name, amount in train.resources.items()), *map("=".join, train.labels.items())])


def check_here(train: TrainConfig) -> None:
    """Raise `CallError` where a run on this machine alone demands what it has not."""
    if train.accelerator_type and not local_gpus():
        raise CallError(
            f"train.accelerator_type = {train.accelerator_type}, but this machine has no GPU",
            "leave it out, or name a cluster: RAY_ADDRESS=HOST:6379, or `sightline submit`",
        )
    if train.resources or train.labels:
        raise CallError(
            f"workers demand {describe(train)}, but the Ray that runs start on one machine has no resources or labels of its own",
            "leave train.resources and train.labels out, or name a cluster: RAY_ADDRESS=HOST:6379, or `sightline submit`",
        )


def unknown_accelerator(train: TrainConfig) -> str:
    """A sentence where Ray knows no such accelerator; empty where it does. A cluster may still have it under a name of its own."""
    if not train.accelerator_type:
        return ""
    from ray.util.accelerators import accelerators

    known = [value for name, value in vars(accelerators).items() if name.isupper() and isinstance(value, str)]
    return "" if train.accelerator_type in known else f"; Ray knows no such accelerator: {nearest(train.accelerator_type, known)}"
