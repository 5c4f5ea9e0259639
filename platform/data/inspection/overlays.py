"""Pictures of what relates the two images of a pair: epipolar lines, and image 2 moved into image 1 by depth, disparity or flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from sightline.platform.data.epipolar import fundamental, has_baseline, lines
from sightline.platform.data.geometry import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, reproject, resize_nearest
from sightline.platform.data.matching import corners, grey_of
from sightline.platform.data.warp import WarpError, flow_of_disparity, sampled

HEIGHT = 200
SHOWN = 7
"""Points on a picture of epipolar lines."""
_FINE = 2
"""Lines are drawn on a picture that is as many times larger, so that they are smooth."""
COLOURS = ((230, 60, 50), (50, 120, 230), (30, 160, 80), (240, 150, 20), (170, 70, 200), (20, 170, 180), (230, 90, 160))


@dataclass(frozen=True)
class Warp:
    """Image 1, image 2, image 2 moved into image 1 (black where unknown or hidden) and the difference, side by side."""

    picture: UInt8[np.ndarray, "h w 3"]
    error: WarpError
    by: str
    """What moved it: depth, disparity or flow."""


def has_camera(sample: Mapping[str, Any]) -> bool:
    """Whether both cameras and their relative pose are known, and the cameras stand apart."""
    return all(name in sample for name in ("K1", "K2", "T_2from1")) and has_baseline(sample["T_2from1"])


def epipolar_picture(sample: Mapping[str, Any]) -> UInt8[np.ndarray, "h w 3"] | None:
    """Corners of image 1 and, in their colours, their lines in image 2; a ring where depth puts them. None without cameras."""
    if not has_camera(sample):
        return None
    least = min(sample["image1"].shape[:2])
    points = corners(grey_of(sample["image1"]), SHOWN, least // 6, min(7, least // 8)).astype(np.float64)
    left, right = (Image.fromarray(sample[name]) for name in ("image1", "image2"))
    scales = [_FINE * HEIGHT / one.height for one in (left, right)]
    left, right = (one.resize((max(1, round(one.width * scale)), _FINE * HEIGHT)) for one, scale in zip((left, right), scales, strict=True))
    draw1, draw2 = ImageDraw.Draw(left), ImageDraw.Draw(right)
    known = _by_depth(sample, points)
    for point, line, there, colour in zip(
        points, lines(fundamental(sample["K1"], sample["K2"], sample["T_2from1"]), points), known, COLOURS, strict=False
    ):
        _dot(draw1, point * scales[0], colour)
        ends = _across(line, *sample["image2"].shape[1::-1])
        if ends is not None:
            (x0, y0), (x1, y1) = ends * scales[1]
            draw2.line((x0, y0, x1, y1), colour, 2 * _FINE - 1)
        if np.isfinite(there).all():
            _dot(draw2, there * scales[1], colour)
    return np.concatenate([np.asarray(one.resize((one.width // _FINE, HEIGHT))) for one in (left, right)], axis=1)


def depth_warp(sample: Mapping[str, Any]) -> Warp | None:
    """Image 2 as camera 1 would see it, by `depth1` and the pose; what `depth2` says is hidden is left out. None without them."""
    if not has_camera(sample) or "depth1" not in sample:
        return None
    height, width = sample["image1"].shape[:2]
    depth = resize_nearest(sample["depth1"], height, width)
    index, x, y, z = reproject(depth, sample["K1"], sample["K2"], sample["T_2from1"])
    seen = z > 0.01
    if "depth2" in sample:
        h, w = sample["image2"].shape[:2]
        other = resize_nearest(sample["depth2"], h, w)
        inside = seen & (x > -0.5) & (x < w - 0.5) & (y > -0.5) & (y < h - 0.5)
        there = np.zeros_like(z)
        there[inside] = other[np.round(y[inside]).astype(int), np.round(x[inside]).astype(int)]
        seen = inside & ((there == 0) | (np.abs(there - z) <= np.maximum(ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE * z)))
    field = np.full((height * width, 2), np.inf, np.float32)
    rows, columns = np.divmod(index[seen], width)
    field[index[seen]] = np.stack([x[seen] - columns, y[seen] - rows], axis=1)
    return _warp(sample, field.reshape(height, width, 2), "depth")


def field_warp(sample: Mapping[str, Any]) -> Warp | None:
    """Image 2 moved into image 1 by disparity or flow; what is marked as occluded is left out. None without them."""
    by = next((name for name in ("disparity", "flow") if name in sample), None)
    if by is None:
        return None
    field = flow_of_disparity(sample[by]) if by == "disparity" else sample[by]
    if "occluded" in sample:
        field = np.where(sample["occluded"][..., None], np.float32(np.inf), field)
    return _warp(sample, field, by)


def _warp(sample: Mapping[str, Any], field: np.ndarray, by: str) -> Warp:
    one, two = sample["image1"], sample["image2"]
    height, width = one.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    moved, inside = sampled(two, columns + field[..., 0], rows + field[..., 1])
    difference = np.abs(one.astype(np.float32) - moved).mean(axis=-1)
    at_rest = two[: one.shape[0], : one.shape[1]] if two.shape == one.shape else np.asarray(Image.fromarray(two).resize((width, height)))
    still = np.abs(one.astype(np.float32) - at_rest).mean(axis=-1)
    before, after = (float(value[inside].mean()) if inside.any() else float("nan") for value in (still, difference))
    shown = np.where(inside[..., None], moved, 0).astype(np.uint8)
    heat = np.repeat(np.where(inside, np.clip(difference * 2, 0, 255), 0)[..., None], 3, axis=-1).astype(np.uint8)
    pictures = (one, two, shown, heat)
    return Warp(np.concatenate([_high(picture) for picture in pictures], axis=1), WarpError(before, after, int(inside.sum())), by)


def _by_depth(sample: Mapping[str, Any], points: np.ndarray) -> np.ndarray:
    """Where depth puts the points in image 2; NaN where it is unknown."""
    there = np.full((len(points), 2), np.nan)
    if "depth1" not in sample or not len(points):
        return there
    depth = resize_nearest(sample["depth1"], *sample["image1"].shape[:2])
    z = depth[points[:, 1].astype(int), points[:, 0].astype(int)]
    rays = np.linalg.inv(sample["K1"]) @ np.concatenate([points, np.ones((len(points), 1))], axis=1).T * z
    x, y, ahead = sample["K2"] @ (sample["T_2from1"][:3, :3] @ rays + sample["T_2from1"][:3, 3:])
    known = (z > 0) & (ahead > 0.01)
    there[known] = np.stack([x[known] / ahead[known], y[known] / ahead[known]], axis=1)
    return there


def _across(line: np.ndarray, width: int, height: int) -> np.ndarray | None:
    """Where a line enters and leaves an image: 2 x 2, or None."""
    a, b, c = line
    ends = []
    if abs(b) > 1e-9:
        ends += [(x, -(a * x + c) / b) for x in (0, width - 1)]
    if abs(a) > 1e-9:
        ends += [(-(b * y + c) / a, y) for y in (0, height - 1)]
    inside = [(x, y) for x, y in ends if -0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5]
    return np.array([min(inside), max(inside)]) if len(inside) > 1 else None


def _dot(draw: ImageDraw.ImageDraw, at: np.ndarray, colour: tuple[int, int, int]) -> None:
    x, y = at
    radius = 4 * _FINE
    draw.ellipse((x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1), None, (255, 255, 255), 2 * _FINE + 2)
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), None, colour, 2 * _FINE)


def _high(picture: np.ndarray) -> np.ndarray:
    shown = Image.fromarray(picture)
    return np.asarray(shown.resize((max(1, round(shown.width * HEIGHT / shown.height)), HEIGHT)))
