"""The correspondence probe: is the nearest feature in the other view that of the same surface point? Nothing is trained."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.image_crops import centre_box
from sightline.platform.evaluation.result_table import Measurement

from .context import PIXELS, POSITION, Grid, ImageEvalContext, ProbeSkippedError
from .image_frames import Frame
from .protocol import PIXELS_OF_A_PATCH, ImageProtocol
from .spec import ProbeSpec, share
from .train_test_split import units_of
from .view_pairs import Pair, patch_centres, read_pairs, sampled_depth

COLUMNS = ("depth1", "depth2", "K1", "K2", "T_2from1")


class CorrespondenceProtocol(ImageProtocol):
    """Zero-shot matching of two views: is the nearest feature in the other view that of the same surface point?"""

    name: Literal["correspondence"] = "correspondence"
    images: str = "both images of a pair; largest centre crop of the encoder's shape, then resized to its size (bicubic, antialiased)"
    max_rows: tuple[int, int] = (0, 400)
    pooling: str = "none: one match a patch"
    features: str = "minus the mean over the patches of their image, divided by their length"
    head: str = "none: the patch of image 2 with the largest cosine, among all patches of image 2"
    truth: str = (
        "the depth at the centre of a patch of image 1 is projected into image 2; the patch counts if the point falls in the crop, where "
        "the depths agree"
    )
    relative: float = 0.05
    absolute: float = 0.05
    """Depths agree within 5 % or 5 cm, whichever is more."""
    within: int = 1
    """A match is right if it lies at most one cell of the encoder's own grid from the true one, diagonals included."""
    angles: tuple[float, ...] = (15.0, 30.0, 60.0)
    """Borders of the bins, degrees of the rotation between the two cameras."""
    metrics: tuple[str, ...] = ("recall", "recall_0_15", "recall_15_30", "recall_30_60", "recall_60_180")
    pooled: str = "all visible patches of all pairs weigh the same"
    position: str = "the same cell of the grid in image 2"
    pixels: str = PIXELS_OF_A_PATCH


def measure(context: ImageEvalContext, train: Dataset | None, test: Dataset, protocol: CorrespondenceProtocol) -> Measurement:
    """Shares of visible patches, in cells of the encoder's own grid: encoders of different grids get no difference.

    `train` is not used. Raises `ProbeSkippedError`.
    """
    counts = {"pairs": 0, "pairs_without_pose_or_depth": 0, "broken_pairs": 0, "images_smaller_than_a_patch": 0}
    frames: list[Frame] = []
    angles: list[float] = []
    sums: dict[str, list[Float[np.ndarray, "b 2"]]] = {}
    with eval_mode(list(context.modules.values()), context.device):
        for batch in read_pairs(context, test, protocol.max_rows[1], COLUMNS, counts):
            true = {grid: [true_cells(pair, grid, protocol) for pair in batch] for grid in set(context.grids.values())}
            one, two = ({size: np.stack([pair.crops[side][size] for pair in batch]) for size in batch[0].crops[side]} for side in (0, 1))
            for (name, grid, first), (_, _, second) in zip(context.tokens(one), context.tokens(two), strict=True):
                nearest = nearest_cells(first, second).numpy()
                sums.setdefault(name, []).append(hits(nearest, true[grid], grid, protocol.within))
            for grid, cells in true.items():
                same = np.broadcast_to(np.arange(grid.cells), (len(batch), grid.cells))
                sums.setdefault(context.baseline(POSITION, grid), []).append(hits(same, cells, grid, protocol.within))
            frames += [pair.frame for pair in batch]
            angles += [pair.angle for pair in batch]
            context.progress("correspondence probe", min(1.0, len(frames) / min(test.rows, protocol.max_rows[1])))
    counts["pairs"] = len(frames)
    if len(frames) < 2:
        raise ProbeSkippedError(
            f"{len(frames)} of the pairs of {test.uri} have both depths, both intrinsics and a pose; at least 2 are needed"
        )
    bins = np.digitize(angles, protocol.angles)
    bounds = [0, *(round(angle) for angle in protocol.angles), 180]
    names = ["recall", *(f"recall_{low}_{high}" for low, high in pairwise(bounds))]
    spread_out = {name: _by_bin(np.concatenate(parts), bins, len(bounds) - 1) for name, parts in sums.items()}
    visible = spread_out[next(iter(spread_out))].sum(axis=0)[1::2]
    if not visible[0]:
        raise ProbeSkippedError("no patch of any pair is seen in both views")
    counts["visible_patches"] = int(visible[0])
    for index, (low, high) in enumerate(pairwise(bounds)):
        counts[f"pairs_{low}_to_{high}_degrees"] = int((bins == index).sum())

    def metrics_of(values: Float[np.ndarray, "*shape k"]) -> dict[str, np.ndarray]:
        return {name: values[..., 2 * place] / values[..., 2 * place + 1] for place, name in enumerate(names)}

    table = context.table({"pixels": PIXELS, "position": POSITION}, lambda grid: grid)
    return Measurement(table, spread_out, units_of(frames, protocol.resampling), metrics_of, counts)


RECALL = "share of visible patches whose nearest feature lies within one patch of the true match"
probe = ProbeSpec(
    rank=50,
    title="Zero-shot correspondence between two views",
    protocol=CorrespondenceProtocol(),
    columns={"pairs": COLUMNS},
    metrics={
        "recall": share("recall", RECALL),
        "recall_0_15": share("0 to 15°", f"{RECALL}, in pairs of cameras turned by less than 15 degrees"),
        "recall_15_30": share("15 to 30°", f"{RECALL}, 15 to 30 degrees"),
        "recall_30_60": share("30 to 60°", f"{RECALL}, 30 to 60 degrees"),
        "recall_60_180": share("over 60°", f"{RECALL}, 60 degrees and more"),
    },
    sentence="Of the patches that both views see, {value} find their match within one patch",
    measure=measure,
    fits_head=False,
)


def true_cells(pair: Pair, grid: Grid, protocol: CorrespondenceProtocol) -> Int[np.ndarray, " n"]:
    """For each patch of view 1 the cell of view 2 that shows the point at its centre; -1 where none does or none is known.

    Everything is computed in the pixels of the stored images; only the crops of the two views enter as boxes.
    """
    sample = pair.sample
    depth1, depth2 = sample["depth1"], sample["depth2"]
    x, y = patch_centres(sample["image1"].shape, grid)
    z = sampled_depth(depth1, x, y, sample["image1"].shape)
    points = np.linalg.inv(sample["K1"]) @ np.stack([x, y, np.ones_like(x)]) * z
    pose = sample["T_2from1"]
    u, v, far = sample["K2"] @ (pose[:3, :3] @ points + pose[:3, 3:])
    ahead = (z > 0) & (far > 0.01)
    u, v = (np.divide(w, far, out=np.full_like(w, -1e9), where=ahead) for w in (u, v))
    height, width = sample["image2"].shape[:2]
    left, top, right, bottom = centre_box(height, width, grid.size)
    column = np.floor((u + 0.5 - left) / (right - left) * grid.size[1] / grid.patch)
    row = np.floor((v + 0.5 - top) / (bottom - top) * grid.size[0] / grid.patch)
    rows, columns = grid.shape
    inside = ahead & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    seen = np.zeros_like(z)
    seen[inside] = sampled_depth(depth2, u[inside], v[inside], (height, width))
    agree = (seen > 0) & (np.abs(seen - far) <= np.maximum(protocol.absolute, protocol.relative * far))
    return np.where(inside & agree, row * columns + column, -1).astype(np.int64)


def nearest_cells(first: Float[torch.Tensor, "b n d"], second: Float[torch.Tensor, "b n d"]) -> Int[torch.Tensor, "b n"]:
    """For each patch of view 1 the patch of view 2 with the largest cosine, the mean of each view's patches taken off."""
    one, two = (torch.nn.functional.normalize(x - x.mean(dim=1, keepdim=True), dim=2) for x in (first, second))
    return (one @ two.transpose(1, 2)).argmax(dim=2)


def hits(nearest: Int[np.ndarray, "b n"], true: list[Int[np.ndarray, " n"]], grid: Grid, within: int) -> Float[np.ndarray, "b 2"]:
    """For each pair: visible patches whose match lies within `within` cells of the true one, visible patches."""
    target = np.stack(true)
    columns = grid.shape[1]
    visible: Bool[np.ndarray, "b n"] = target >= 0
    away = np.maximum(np.abs(nearest // columns - target // columns), np.abs(nearest % columns - target % columns))
    return np.stack([(visible & (away <= within)).sum(axis=1), visible.sum(axis=1)], axis=1).astype(np.float64)


def _by_bin(values: Float[np.ndarray, "n 2"], bins: Int[np.ndarray, " n"], count: int) -> Float[np.ndarray, "n k"]:
    """Hits and visible patches of all pairs, then of each bin of angles: 2 x (1 + count) columns."""
    parts = [values, *(np.where((bins == index)[:, None], values, 0) for index in range(count))]
    return np.concatenate(parts, axis=1)
