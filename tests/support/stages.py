"""Stages for the tests of the stream."""

from __future__ import annotations

import os

import numpy as np

from sightline.methods.contract import Sample, Views
from sightline.methods.errors import SightlineError

LARGE = 5 << 20


def told(column: np.ndarray) -> np.ndarray:
    """What `Telling` makes of the first view."""
    return column.reshape(len(column), -1).astype(np.float64).sum(axis=1)


class Signed:
    """Views with the process that makes them."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**self.views(sample, rng), "loader": np.asarray(os.getpid())}


class Located:
    """Views with the Ray node on which they are made, as a number."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        import ray

        return {**self.views(sample, rng), "node": np.asarray(node_number(ray.get_runtime_context().get_node_id()))}


class Large:
    """Views with `LARGE` bytes more for each sample."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {**self.views(sample, rng), "large": rng.integers(0, 256, LARGE, np.uint8)}


def node_number(node: str) -> int:
    return int(node[:15], 16)


class Telling:
    """One figure of each sample, and the process that made it."""

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        first = next(iter(columns.values()))
        return {"told": told(first), "process": np.full(len(first), os.getpid())}


class Failing:
    """Fails at its second block, in words of its own."""

    calls = 0

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.calls > 1:
            raise SightlineError("the teacher sees nothing", "put a light on")
        return {}


def unmade() -> Telling:
    raise SightlineError("the teacher is gone", "find it")
