"""What a worker draws for one image: crops, the reference patch under each query patch, colour parameters. NumPy only."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..contract import Sample
from ..errors import BrokenSampleError
from .config import LocaConfig

ATTEMPTS = 100
COLOURS = 12
"""Numbers of one crop's colours: brightness (added), contrast, saturation (factors), hue (turns); the order in which these four
(0 .. 3) act; then jitter, grey, solarise (1 = yes) and the blur's sigma in pixels (0 = none)."""
BAND = 1 << 15
"""Values that are blended at a time: 128 kB."""
Grid = tuple[int, int]


class Box(NamedTuple):
    """Integer pixels of the original image."""

    y: int
    x: int
    h: int
    w: int


class LocaViews:
    """From a decoded image to fixed-shape arrays, for F focal queries, a grid of N patches and focal grids of n.

    `reference`, `query`: uint8 H x W x 3; `focal`: uint8 F x h x w x 3. `query_target` (N), `focal_target` (F x n): int16, the
    reference patch in raster order under the centre of each query patch, -1 outside. `query_box` (5), `focal_box` (F x 5): float32,
    see `relative_box`. `colours`: float32 (2 + F) x `COLOURS`, for reference, query and focal queries in this order.
    """

    def __init__(self, config: LocaConfig) -> None:
        model, self.augment, self.focal_queries = config.model, config.augment, config.pretext.focal_queries
        self.size, self.grid = model.image_size, model.grid
        self.smallest = self.grid
        self.focal_size, self.focal_grid = self.augment.focal_size, config.focal_grid
        crops = 2 + self.focal_queries
        self.solarise, self.blur = np.zeros(crops), np.zeros(crops)
        self.solarise[1] = self.augment.solarise
        if self.augment.blur == "intended":
            self.blur[:] = (1.0, 0.1, *[0.5] * self.focal_queries)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image = sample["image"]
        height, width = image.shape[:2]
        if height < self.grid[0] or width < self.grid[1]:
            raise BrokenSampleError(
                f"image is {height} x {width} pixels (height x width), fewer than the reference's {self.grid[0]} x {self.grid[1]} patches"
            )
        a, f = self.augment, self.focal_queries
        colours = self._colours(rng)
        flips = rng.random(1 + f) < 0.5
        boxes = [draw_box((height, width), a.reference_area if i < 2 else a.focal_area, a.ratio, rng) for i in range(2 + f)]
        resize = Resizer(image)
        reference, query = np.empty((*self.size, 3), np.uint8), np.empty((*self.size, 3), np.uint8)
        focal = np.empty((f, *self.focal_size, 3), np.uint8)
        resize(boxes[0], False, reference)
        resize(boxes[1], bool(flips[0]), query)
        for i, crop in enumerate(focal):
            resize(boxes[2 + i], bool(flips[1 + i]), crop)
        queries = np.array(boxes[1:])
        relative = np.array([relative_box(boxes[0], box) for box in boxes[1:]], dtype=np.float32)
        return {
            "reference": reference,
            "query": query,
            "focal": focal,
            "query_target": patch_targets(boxes[0], queries[:1], flips[:1], self.grid, self.grid, self.size)[0].astype(np.int16),
            "focal_target": patch_targets(boxes[0], queries[1:], flips[1:], self.grid, self.focal_grid, self.focal_size).astype(np.int16),
            "query_box": relative[0],
            "focal_box": relative[1:],
            "colours": colours,
        }

    def _colours(self, rng: np.random.Generator) -> np.ndarray:
        a = self.augment
        draws = rng.random((len(self.blur), 13))
        out = np.empty((len(draws), COLOURS), np.float32)
        out[:, :4] = (2 * draws[:, :4] - 1) * (a.brightness, a.contrast, a.saturation, a.hue) + (0, 1, 1, 0)
        out[:, 4:8] = draws[:, 4:8].argsort(axis=1)
        out[:, 8] = draws[:, 8] < a.jitter
        out[:, 9] = draws[:, 9] < a.grey
        out[:, 10] = draws[:, 10] < self.solarise
        out[:, 11] = np.where(draws[:, 11] < self.blur, 0.1 + 1.9 * draws[:, 12], 0)
        return out


def draw_box(size: Grid, area: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator) -> Box:
    """A crop of an image of `size` (height, width), as TensorFlow's sampler of distorted boxes draws it.

    The ratio width / height is uniform, then the *height* is uniform between what the two areas allow. The last possible offset is
    never drawn (the sampler's own habit). The whole image where 100 attempts fail.
    """
    height, width = size
    least, most = area[0] * height * width, area[1] * height * width
    for _ in range(ATTEMPTS):
        u = rng.random(4).tolist()
        r = ratio[0] + (ratio[1] - ratio[0]) * u[0]
        low, high = round(math.sqrt(least / r)), round(math.sqrt(most / r))
        if round(high * r) > width:
            high = int((width + 0.5 - 1e-7) / r)
            high -= round(high * r) > width
        high = min(high, height)
        low = min(low, high)
        h = low + int(u[1] * (high - low + 1))
        w = round(h * r)
        if w * h < least:
            h += 1
            w = round(h * r)
        if w * h > most:
            h -= 1
            w = round(h * r)
        if least <= w * h <= most and 0 < w <= width and 0 < h <= height:
            return Box(int(u[2] * (height - h)), int(u[3] * (width - w)), h, w)
    return Box(0, 0, height, width)


def nearest(index: np.ndarray, out: int, into: np.ndarray | int) -> np.ndarray:
    """Which of `into` cells lies under the centre of each of `out` cells. All in float32, the scale too: ties fall as in TensorFlow."""
    scale = np.float32(into) / np.float32(out)
    cells: np.ndarray = np.minimum(np.floor((index.astype(np.float32) + np.float32(0.5)) * scale), np.float32(into) - 1).astype(np.int32)
    return cells


def reference_cells(rows: np.ndarray, columns: np.ndarray, reference: Box, grid: Grid, flip: bool = False) -> np.ndarray:
    """The reference patch, in raster order, under each pixel of `rows` x `columns` of the original image; -1 outside the reference.

    `rows` (... x h) and `columns` (... x w) give ... x h x w.
    """
    y, x = rows - reference.y, columns - reference.x
    m, n = nearest(y, reference.h, grid[0]), nearest(x, reference.w, grid[1])
    if flip:
        n = grid[1] - 1 - n
    inside = ((y >= 0) & (y < reference.h))[..., None] & ((x >= 0) & (x < reference.w))[..., None, :]
    return np.where(inside, (m * grid[1])[..., None] + n[..., None, :], -1)


def patch_targets(
    reference: Box, queries: np.ndarray, flips: np.ndarray, grid: Grid, query_grid: Grid, query_size: Grid, reference_flip: bool = False
) -> np.ndarray:
    """The reference patch (of `grid`) under the centre of each patch of each query, raster order; -1 where it lies outside the reference.

    `queries` (F x 4: y, x, height, width) are crops that are resized to `query_size` pixels, with `query_grid` patches, and then
    mirrored where `flips` (F). Gives F x patches.
    """
    boxes = queries[:, :, None]
    rows, columns = (
        boxes[:, axis] + nearest(nearest(np.arange(cells), cells, pixels), pixels, boxes[:, axis + 2])
        for axis, (cells, pixels) in enumerate(zip(query_grid, query_size, strict=True))
    )
    cells = reference_cells(rows, columns, reference, grid, reference_flip)
    return np.where(flips[:, None, None], cells[:, :, ::-1], cells).reshape(len(queries), query_grid[0] * query_grid[1])


def relative_box(reference: Box, query: Box) -> tuple[float, float, float, float, float]:
    """(valid, y, x, height, width) of the part of a query inside the reference, in sides of the reference; flips are not seen.

    Valid (1) where both sides are above a tenth of the reference's. No loss uses it; visualisations do.
    """
    starts = [max((query[i] - reference[i]) / reference[i + 2], 0.0) for i in (0, 1)]
    ends = [min((query[i] + query[i + 2] - reference[i]) / reference[i + 2], 1.0) for i in (0, 1)]
    h, w = (max(end - start, 0.0) for start, end in zip(starts, ends, strict=True))
    return float(h > 0.1 and w > 0.1), *starts, h, w  # type: ignore[return-value]


class Resizer:
    """Crops of one image, resized: bilinear, half-pixel centres, *no antialias*, rounded to uint8.

    Whole lines of memory are gathered and blended, first columns of the transposed image, then rows of what comes of them: gathering
    single pixels takes several times as long. Band by band, so that all of it stays in the cache and the system need not give new pages.
    """

    def __init__(self, image: np.ndarray) -> None:
        self.transposed = _transpose(np.ascontiguousarray(image))

    def __call__(self, box: Box, flip: bool, out: np.ndarray) -> None:
        """Writes the crop at `box` to `out` (h x w x 3), mirrored with `flip`."""
        crop = self.transposed[box.x : box.x + box.w, box.y : box.y + box.h]
        height, width = out.shape[:2]
        columns, rows = _between(box.w, width), _between(box.h, height)
        if flip:
            columns = tuple(part[::-1] for part in columns)
        band = max(1, BAND // (3 * max(box.h, height)))
        for start in range(0, width, band):
            stop = start + band
            across = _transpose(_blend(crop, *(part[start:stop] for part in columns)))
            blended = _blend(across, *rows)
            blended += np.float32(0.5)
            np.copyto(out[:, start:stop], blended, casting="unsafe")


def _transpose(image: np.ndarray) -> np.ndarray:
    """A contiguous a x b x 3 array as b x a x 3: items of three channels move faster than an axis of three."""
    pixels = image.view(f"V{3 * image.itemsize}")[..., 0]
    return np.ascontiguousarray(pixels.T).view(image.dtype).reshape(image.shape[1], image.shape[0], 3)


def _between(size: int, out: int) -> tuple[np.ndarray, ...]:
    """The two neighbours of each of `out` samples of `size` lines, and the share of the second. Beyond the ends the outermost counts."""
    at = (np.arange(out, dtype=np.float32) + np.float32(0.5)) * np.float32(size / out) - np.float32(0.5)
    low = np.floor(at)
    first = low.astype(np.intp)
    return np.maximum(first, 0), np.minimum(first + 1, size - 1), at - low


def _blend(lines: np.ndarray, first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Lines of the first axis between two neighbours each; float32."""
    a: np.ndarray = lines[first].astype(np.float32, copy=False)
    b: np.ndarray = lines[second].astype(np.float32, copy=False)
    b -= a
    b *= share[:, None, None]
    b += a
    return b
