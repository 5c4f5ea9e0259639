"""Depth images of a cloud from three sides, and the way back: the value of a map at the pixel of a point.

A view is a permutation of the axes: of view 0 the plane is (x, y) and the depth z, of view 1 (z, x) and y, of view 2 (y, z) and x.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate

AXES = ((0, 1, 2), (2, 0, 1), (1, 2, 0))
"""Of each view: the axes of image rows, image columns and depth."""
SIZE = 224
SPAN = 221
"""Pixels across the longer side of a cloud."""
SPLAT = 5
"""Side of the square on which a point is drawn, in pixels."""


class Frame(NamedTuple):
    """How a cloud lies in an image of one view."""

    low: Float[Tensor, "b 2"]
    size: Float[Tensor, " b"]
    """Of a pixel, in the cloud's units."""
    offset: Float[Tensor, "b 2"]


def seen_from(points: Float[Tensor, "b n 3"], view: int) -> Float[Tensor, "b n 3"]:
    """(row coordinate, column coordinate, depth)."""
    return points[..., list(AXES[view])]


def frame_of(plane: Float[Tensor, "b n 2"]) -> Frame:
    """The frame in which a whole cloud fits, centred. A cloud without extent has pixels of size 1."""
    low = plane.amin(dim=1)
    size = (plane.amax(dim=1) - low).amax(dim=1) / SPAN
    size = torch.where(size > 0, size, torch.ones_like(size))
    cells = _cells(plane, low, size)
    middle = torch.floor((cells.amax(dim=1) + cells.amin(dim=1) + 2) / 2)
    return Frame(low, size, SIZE // 2 - 1 - middle)


def _cells(plane: Tensor, low: Tensor, size: Tensor) -> Tensor:
    # A true division in float32: a reciprocal would put points that lie on the border of two pixels on the other side.
    return torch.floor((plane - low[:, None]) / size[:, None, None])


def pixels(plane: Float[Tensor, "b n 2"], frame: Frame) -> Int[Tensor, "b n 2"]:
    """(row, column) of each point."""
    return (_cells(plane, frame.low, frame.size) + 1 + frame.offset[:, None]).long()


def depth_map(view: Float[Tensor, "b n 3"], frame: Frame, splat: int = SPLAT, value: str = "sum") -> Float[Tensor, "b 224 224"]:
    """Depths of all points over the square of each: their `sum`, or the largest (`nearest`). Pixels outside the image count for the nearest
    on its edge; 0 where nothing is."""
    at = pixels(view[..., :2], frame)
    step = torch.arange(-(splat // 2), splat // 2 + 1, device=view.device)
    rows, columns = ((at[..., axis, None] + step).clamp(0, SIZE - 1) for axis in (0, 1))
    index = (rows[..., :, None] * SIZE + columns[..., None, :]).flatten(1)
    depth = view[..., 2, None].expand(-1, -1, len(step) ** 2).flatten(1)
    image = torch.zeros(len(view), SIZE * SIZE, dtype=view.dtype, device=view.device)
    if value == "nearest":
        image.scatter_reduce_(1, index, depth, "amax", include_self=False)
    else:
        image.scatter_add_(1, index, depth)
    return image.view(-1, SIZE, SIZE)


def depth_images(points: Float[Tensor, "b n 3"], views: int = 3, splat: int = SPLAT, value: str = "sum") -> Float[Tensor, "vb 224 224"]:
    """Sigmoid of `depth_map`, view by view (all samples of view 0 first): 0.5 where nothing is."""
    images = []
    for number in range(views):
        view = seen_from(points, number)
        images.append(torch.sigmoid(depth_map(view, frame_of(view[..., :2]), splat, value)))
    return torch.cat(images)


def at_points(
    maps: Float[Tensor, "b c h w"], cloud: Float[Tensor, "b n 3"], points: Float[Tensor, "b m 3"], view: int
) -> Float[Tensor, "b m c"]:
    """A map of one view at the pixels of points of the cloud: what a bicubic resize of the map to 224 pixels has there.

    Only the pixels asked for are made: each is a weighted sum of 4 x 4 cells, as in `interpolate(..., mode="bicubic")`.
    """
    at = pixels(seen_from(points, view)[..., :2], frame_of(seen_from(cloud, view)[..., :2])).clamp(0, SIZE - 1)
    h, w = maps.shape[2:]
    rows, columns = bicubic_matrix(h, maps).to(maps)[at[..., 0]], bicubic_matrix(w, maps).to(maps)[at[..., 1]]  # b x m x h, b x m x w
    weights = (rows[..., :, None] * columns[..., None, :]).flatten(2)
    return weights @ maps.flatten(2).transpose(1, 2)


def bicubic_matrix(cells: int, like: Tensor) -> Float[Tensor, "224 cells"]:
    """The weights of `cells` values in each of 224 pixels: half-pixel centres, a = -0.75, edges repeated."""
    eye = torch.eye(cells, device=like.device)[None, None]  # resized along one axis: column j is the response to cell j
    return interpolate(eye, size=(SIZE, cells), mode="bicubic", align_corners=False)[0, 0]
