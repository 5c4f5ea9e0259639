"""Pairs of posed views for probes that match them, and the pixels of their patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from sightline.methods.errors import BrokenSampleError
from sightline.methods.ops.pose_metrics import rotation_angles
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.fixed import read_rows, spread
from sightline.platform.data.schema import decode_row
from sightline.platform.evaluation.image_crops import centre_box, fit_image

from .context import Grid, ImageEvalContext
from .image_frames import Frame

BATCH = 16
ALWAYS = ("id", "scene", "time", "image1", "image2")


@dataclass(frozen=True)
class Pair:
    frame: Frame
    angle: float
    """Degrees of the rotation between the two cameras."""
    sample: Mapping[str, Any]
    crops: tuple[dict[tuple[int, int], np.ndarray], dict[tuple[int, int], np.ndarray]]
    """Of each view: size -> uint8 H x W x 3."""


def read_pairs(
    context: ImageEvalContext,
    dataset: Dataset,
    max_rows: int,
    needed: Sequence[str],
    counts: dict[str, int],
    *,
    lacking: str = "pairs_without_pose_or_depth",
    optional: Sequence[str] = (),
) -> Iterator[list[Pair]]:
    """At most `max_rows` pairs, evenly spaced, cut to every size that is needed. Those that are left out are counted in `counts`: those
    without one of the columns `needed` under `lacking`, and those that are broken or too small. `optional` columns may be empty."""
    sizes = {grid.size for grid in context.grids.values()}
    patch = max(grid.patch for grid in context.grids.values())
    columns = [*ALWAYS, *needed, *(name for name in optional if name in dataset.manifest.columns)]
    batch: list[Pair] = []
    for row, stored in read_rows(dataset, spread(dataset.rows, max_rows), columns):
        if any(stored.get(name) is None for name in needed):
            counts[lacking] += 1
            continue
        try:
            sample = decode_row(stored, dataset.kind, depth=True)
        except BrokenSampleError:
            counts["broken_pairs"] += 1
            continue
        images = sample["image1"], sample["image2"]
        if min(side for image in images for side in image.shape[:2]) < patch:
            counts["images_smaller_than_a_patch"] += 1
            continue
        time = stored.get("time")
        moment = float("nan") if time is None else float(time)
        frame = Frame(row, "image1", "", str(stored["id"]), stored.get("scene") or "", moment, row.to_bytes(8, "little"))
        one, two = ({size: fit_image(image, size) for size in sizes} for image in images)
        batch.append(Pair(frame, rotation_angle(sample["T_2from1"]), sample, (one, two)))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def rotation_angle(pose: Float[np.ndarray, "4 4"]) -> float:
    """Degrees by which one camera is turned against the other, about whatever axis."""
    return float(rotation_angles(pose[:3, :3]))


def patch_centres(shape: tuple[int, ...], grid: Grid) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """x and y of the patches' centres in pixels of the stored image (pixel centres at whole numbers), raster order."""
    left, top, right, bottom = centre_box(shape[0], shape[1], grid.size)
    rows, columns = grid.shape
    y = top + (np.arange(rows) + 0.5) * grid.patch * (bottom - top) / grid.size[0] - 0.5
    x = left + (np.arange(columns) + 0.5) * grid.patch * (right - left) / grid.size[1] - 0.5
    return np.tile(x, rows), np.repeat(y, columns)


def sampled_depth(
    depth: Float[np.ndarray, "h w"], x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], shape: tuple[int, ...]
) -> np.ndarray:
    """Depth at pixels of its image, which may be stored at another size; nearest, never interpolated."""
    row = np.floor((y + 0.5) * depth.shape[0] / shape[0]).astype(int).clip(0, depth.shape[0] - 1)
    column = np.floor((x + 0.5) * depth.shape[1] / shape[1]).astype(int).clip(0, depth.shape[1] - 1)
    return np.asarray(depth[row, column], np.float64)
