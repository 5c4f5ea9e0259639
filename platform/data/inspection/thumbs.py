"""Small pictures of single images and clouds of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sightline.methods.errors import BrokenSampleError
from sightline.methods.ops.clouds import draw_cloud, normalised
from sightline.platform.data.clouds import NO_PART, decode_parts, decode_points
from sightline.platform.data.contact_sheet import class_colours
from sightline.platform.data.images import decode_image
from sightline.platform.data.kinds import Row, find_kind

from .rows import Rows

VIEWS = (("as it is", None), ("turned by 90 degrees", (0, math.pi / 2)), ("from above", (math.pi / 2, 0)))
"""Of a cloud: turns about x and about y."""


def thumbnails(rows: Rows, places: Sequence[tuple[int, int]], height: int) -> list[tuple[str, np.ndarray]]:
    """(id of the row, picture) of each (row, view), where a view is an image of the row, or 0 for its cloud."""
    kind = find_kind(rows.dataset.kind)
    images = kind.holding("image")
    found = rows.read([row for row, _ in places], ("id", *images, *kind.samples))
    return [(str(row["id"]), _picture(row, images, view, height)) for row, (_, view) in zip(found, places, strict=True)]


def _picture(row: Row, images: Sequence[str], view: int, height: int) -> np.ndarray:
    if images:
        return scaled(decode_image(row[images[view]]), height)
    try:
        return draw_cloud(normalised(decode_points(row["points"])), height)
    except BrokenSampleError:
        return np.full((height, height, 3), 128, np.uint8)


def scaled(picture: np.ndarray, height: int) -> np.ndarray:
    """To this height, at most twice as wide."""
    shown = Image.fromarray(picture)
    if shown.width > 2 * shown.height:
        shown = shown.crop(((shown.width - 2 * shown.height) // 2, 0, (shown.width + 2 * shown.height) // 2, shown.height))
    return np.asarray(shown.resize((max(1, round(shown.width * height / shown.height)), height), Image.Resampling.BICUBIC))


def cloud_views(row: Row, side: int) -> np.ndarray:
    """Three views of a cloud side by side, its parts in colours, and one with its normals as colours where it has them."""
    points = normalised(decode_points(row["points"]))
    colours = None
    if row.get("part") is not None:
        part = decode_parts(row["part"])
        table = class_colours(int(part.max(initial=0)) + 1) / 255
        colours = np.where((part == NO_PART)[:, None], 0.5, table[part])
    views = [draw_cloud(points if turn is None else points @ _turn(*turn).T, side, colours) for _, turn in VIEWS]
    if row.get("normals") is not None:
        views.append(draw_cloud(points, side, (decode_points(row["normals"]).clip(-1, 1) + 1) / 2))
    return np.concatenate(views, axis=1)


def _turn(about_x: float, about_y: float) -> np.ndarray:
    (cx, sx), (cy, sy) = ((math.cos(angle), math.sin(angle)) for angle in (about_x, about_y))
    turned: np.ndarray = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]]) @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    return turned
