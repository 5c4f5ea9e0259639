"""Encoders of point clouds with their controls, as initialised and calibrated in two ways; all see the same drawn points."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import GroupsPoints
from sightline.methods.errors import BrokenSampleError
from sightline.methods.ops.clouds import coordinates, fitted
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.fixed import read_rows, spread
from sightline.platform.data.schema import decode_row
from sightline.platform.evaluation.side_by_side import is_ours, side_by_side
from sightline.platform.evaluation.units import Units

from .context import AT_ONCE, BATCH, Controls, EvalContext

CALIBRATED, PARTLY = ", calibrated", ", partly calibrated"
FIRST_BATCHES = 12
"""After so many steps running statistics are most of the way from (0, 1) to those of the clouds. Random weights can be worth far more there
than at either end (docs/notes/clouds.md), so a training must be held against that, too."""


@dataclass(frozen=True)
class Cloud:
    """Where a cloud of a data set lies. Holds no points."""

    row: int
    id: str
    digest: bytes
    """Of the stored points."""
    label: int


@dataclass(frozen=True)
class CloudBatch:
    clouds: list[Cloud]
    points: dict[int, Float[np.ndarray, "b n 3"]]
    """Number of points -> the clouds with so many."""
    parts: dict[int, Int[np.ndarray, "b n"]]
    """Of the same points; empty where the data have none."""


Fit: TypeAlias = Callable[[np.ndarray, np.ndarray | None, int], tuple[np.ndarray, np.ndarray | None]]
"""(stored points, their parts, points that a network was trained on) -> (points, parts) that it gets. Raises `BrokenSampleError`."""

Measure: TypeAlias = Callable[[Any, torch.Tensor, dict[str, Any]], torch.Tensor]
"""(network, points, what it takes besides) -> features of each cloud."""


class CloudEvalContext(EvalContext):
    @cached_property
    def controls(self) -> list[Controls]:
        """Each set as initialised, and where it has running statistics also with those of the training clouds, wholly and partly."""
        found = []
        for some in super().controls:
            found.append(some)
            if any(_norms(module) for module in some.modules):
                name = some.mean.removeprefix(f"mean of {len(some.given)} random")
                for suffix in (CALIBRATED, PARTLY):
                    found.append(Controls.of(some.given, name + suffix, tuple(copy.deepcopy(module) for module in some.modules)))
        return found

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Points that each network takes."""
        return {name: int(module.points) for name, module in self.modules.items()}

    def calibrate(self, train: Dataset, clouds: Sequence[Cloud], limit: int, fit: Fit | None = None) -> None:
        """Give the calibrated controls the BatchNorm statistics of at most `limit` of the clouds: averages over batches. The partly
        calibrated ones get what the momentum of their norms makes of the first `FIRST_BATCHES`."""
        wholly, partly = ({name: one for name, one in self.modules.items() if name.endswith(suffix)} for suffix in (CALIBRATED, PARTLY))
        if not wholly:
            return
        chosen = [clouds[i] for i in spread(len(clouds), limit)]
        for module in (*wholly.values(), *partly.values()):
            for norm in _norms(module):
                norm.reset_running_stats()
            module.train()
        for module in wholly.values():
            for norm in _norms(module):
                norm.momentum = None
        for number, batch in enumerate(self.batches(train, chosen, {}, fit=fit)):
            for name, module in (wholly | partly if number < FIRST_BATCHES else wholly).items():
                module.tokens(self._there(batch, name))
        for module in (*wholly.values(), *partly.values()):
            module.eval()

    def batches(
        self, dataset: Dataset, clouds: Sequence[Cloud], counts: dict[str, int], extra: Sequence[int] = (), fit: Fit | None = None
    ) -> Iterator[CloudBatch]:
        """The clouds (in stored order) with as many points as each network takes, and `extra`, as `fit` makes them of the stored ones
        (`fit_cloud` where it is None). Broken ones are counted."""
        fit = fit or fit_cloud
        sizes = sorted({*self.sizes.values(), *extra})
        columns = ["id", "points", *(["part"] if "part" in dataset.manifest.columns else [])]
        members: list[Cloud] = []
        made: list[dict[int, tuple[np.ndarray, np.ndarray | None]]] = []
        for cloud, (_, stored) in zip(clouds, read_rows(dataset, [cloud.row for cloud in clouds], columns), strict=True):
            try:
                sample = decode_row(stored, dataset.kind, needed=("points",))
                made.append({size: fit(sample["points"], sample.get("part"), size) for size in sizes})
            except BrokenSampleError:
                counts["broken_clouds"] = counts.get("broken_clouds", 0) + 1
                continue
            members.append(cloud)
            if len(members) == BATCH:
                yield _batch(members, made)
                members, made = [], []
        if members:
            yield _batch(members, made)

    def pooled(self, batch: CloudBatch) -> Iterator[tuple[str, Float[torch.Tensor, "b d"]]]:
        """(row name, feature of the whole cloud, float64 on the CPU) of every network."""
        yield from self._features(batch, lambda module, points, known: module.pooled(points, **known))

    def at_points(self, batch: CloudBatch) -> Iterator[tuple[str, Float[torch.Tensor, "b n d"]]]:
        """(row name, features of each point) of every network."""
        yield from self._features(batch, lambda module, points, known: module.at_points(points, **known))

    def _features(self, batch: CloudBatch, measure: Measure) -> Iterator[tuple[str, torch.Tensor]]:
        def of(part: slice) -> dict[str, torch.Tensor]:
            known: dict[Any, Any] = {}
            found = {}
            for name, module in self.modules.items():
                points = self._there(batch, name)[part]
                found[name] = measure(module, points, _groups(module, points, known))
            return found

        ours = all(is_ours(module) for module in self.modules.values())
        step = AT_ONCE if ours and torch.device(self.device).type == "cpu" else len(batch.clouds)
        found = side_by_side(of, [slice(start, start + step) for start in range(0, len(batch.clouds), step)], self.device)
        for name in self.modules:
            yield name, torch.cat([one[name] for one in found]).cpu().double()

    def _there(self, batch: CloudBatch, name: str) -> torch.Tensor:
        return torch.from_numpy(batch.points[self.sizes[name]]).to(self.device)


def _groups(module: Any, points: torch.Tensor, known: dict[Any, Any]) -> dict[str, Any]:
    """What a network that `GroupsPoints` takes besides points: made once for all that group alike."""
    if not isinstance(module, GroupsPoints):
        return {}
    key = (points.shape[1], module.grouping)
    if key not in known:
        known[key] = module.scales(points)
    return {"scales": known[key]}


def fit_cloud(points: np.ndarray, parts: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(`count` points as an encoder takes them, their parts). Raises `BrokenSampleError` for a cloud without extent."""
    columns = points if parts is None else np.concatenate([points, parts[:, None].astype(points.dtype)], axis=1)
    drawn = fitted(columns, count, least=1, width=columns.shape[1])
    return np.ascontiguousarray(drawn[:, :3]), None if parts is None else drawn[:, 3].astype(np.int64)


def first_points(count: int) -> Fit:
    """A `Fit`: the first `count` stored points for every network. Raises `BrokenSampleError` where there are fewer."""

    def fit(points: np.ndarray, parts: np.ndarray | None, size: int) -> tuple[np.ndarray, np.ndarray | None]:
        if len(points) < count:
            raise BrokenSampleError(f"{len(points)} points; the protocol takes the first {count}")
        taken = np.ascontiguousarray(coordinates(points)[:count], np.float32)
        return taken, None if parts is None else parts[:count].astype(np.int64)

    return fit


def list_clouds(dataset: Dataset, max_rows: int, copies: bool = False) -> list[Cloud]:
    """The labelled clouds of at most `max_rows` rows, evenly spaced; one stored twice is listed once, unless `copies` are wanted."""
    found: dict[bytes | int, Cloud] = {}
    for row, stored in read_rows(dataset, spread(dataset.rows, max_rows), ["id", "points", "label"]):
        if stored["points"] and stored.get("label") is not None:
            digest = hashlib.blake2b(stored["points"], digest_size=16).digest()
            found.setdefault(row if copies else digest, Cloud(row, str(stored["id"]), digest, int(stored["label"])))
    return list(found.values())


def cloud_units(clouds: Sequence[Cloud]) -> Units:
    """Each cloud stands for itself."""
    return Units([cloud.digest.hex() for cloud in clouds], "cloud")


def _norms(module: Any) -> list[torch.nn.modules.batchnorm._BatchNorm]:
    return [part for part in module.modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.track_running_stats]


def _batch(members: list[Cloud], made: list[dict[int, tuple[np.ndarray, np.ndarray | None]]]) -> CloudBatch:
    points = {size: np.stack([one[size][0] for one in made]) for size in made[0]}
    parts = {size: [part for one in made if (part := one[size][1]) is not None] for size in made[0]}
    return CloudBatch(members, points, {size: np.stack(some) for size, some in parts.items() if len(some) == len(members)})
