"""Prediction of images of any size in overlapping tiles of the size that the network was trained with (CroCo v2, section 3.4).

Each tile is cut at the same place of both images. Where tiles overlap, their predictions are averaged, weighted by their confidence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate, pad

Predict = Callable[..., Tensor]
"""Images (one or two of b x 3 x h x w) -> b x channels x h x w, the raw confidence last where there is one."""
Axis = Literal["x", "y", ""]
"""Along which axis of the image a channel is measured in pixels; empty for none, as with depth."""
Place = tuple[slice, slice]
"""Rows and columns of a tile."""
TINY = 1e-16
BATCH_PIXELS = 16 * 128 * 128
"""Most pixels of the tiles that go through the network at once."""


@dataclass(frozen=True)
class TileWeight:
    """How much a tile counts at a pixel, by its raw confidence c: `expsigmoid` exp(-2 rate (sigmoid(c / scale) - 0.5)), or `expbeta`
    exp(-rate c). A higher c means a larger expected error. `even`: by its place alone, less towards the tile's border."""

    form: Literal["expsigmoid", "expbeta", "even"]
    rate: float = 0.0
    scale: float = 1.0

    @classmethod
    def parse(cls, text: str) -> TileWeight:
        """Of `tile_conf_mode` in the authors' files: `conf_expsigmoid_15_3`, `conf_expbeta3`. Raises `ValueError`."""
        number = r"(\d+(?:\.\d+)?)"
        if match := re.fullmatch(rf"conf_expsigmoid_{number}_{number}", text):
            return cls("expsigmoid", float(match[1]), float(match[2]))
        if match := re.fullmatch(rf"conf_expbeta{number}", text):
            return cls("expbeta", float(match[1]))
        if text == "even":
            return cls("even")
        raise ValueError(f"{text!r} is no weighting of tiles; known: conf_expsigmoid_RATE_SCALE, conf_expbetaRATE, even")

    def __str__(self) -> str:
        match self.form:
            case "expsigmoid":
                return f"conf_expsigmoid_{self.rate:g}_{self.scale:g}"
            case "expbeta":
                return f"conf_expbeta{self.rate:g}"
        return "even"

    def log(self, confidence: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        """Logarithm of the weight."""
        if self.form == "expsigmoid":
            return -2 * self.rate * (torch.sigmoid(confidence / self.scale) - 0.5)
        return -self.rate * confidence


STEREO_TILES = TileWeight("expsigmoid", 15.0, 3.0)
FLOW_TILES = TileWeight("expsigmoid", 10.0, 5.0)
EVEN_TILES = TileWeight("even")


class TiledPrediction(NamedTuple):
    """Maps of the image's size. `confidence`: the raw one, weighted like the values; None where there is none."""

    values: Float[Tensor, "b c h w"]
    confidence: Float[Tensor, "b h w"] | None


@dataclass(frozen=True)
class Passes:
    """How often an image goes through the network, in tiles: at each of `scales` (1: a tile just fits), and mirrored, too, with `flip`."""

    overlap: float = 0.5
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap {self.overlap:g} is not in [0, 1)")
        if not self.scales or not all(0.1 <= scale <= 10 for scale in self.scales):
            raise ValueError(f"scales {', '.join(f'{scale:g}' for scale in self.scales)}: give numbers from 0.1 to 10, such as 0.5, 1, 1.5")

    @property
    def count(self) -> int:
        return len(self.scales) * (2 if self.flip else 1)

    def __str__(self) -> str:
        mirrored = ", each also mirrored" if self.flip else ""
        return f"overlap {self.overlap:.3g}, scale {', '.join(f'{scale:g}' for scale in self.scales)}{mirrored}"


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """First pixels of the tiles along an axis: evenly spread, neighbours share at least `overlap` of a tile.

    The number is counted in floating point, as the authors do it (704, 320, 0.9 gives 14). Raises `ValueError` for a tile larger than the
    image, or an overlap outside [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap:g} is not in [0, 1): 0 for tiles side by side, 0.7 for validation, 0.9 for the best result")
    if not 0 < tile <= length:
        raise ValueError(f"a tile of {tile} pixels does not fit in {length}")
    count = 1 + math.ceil((length - tile) / ((1 - overlap) * tile))
    return [int(start) for start in np.round(np.linspace(0, length - tile, count))]


def predict_in_tiles(
    predict: Predict,
    images: Sequence[Float[Tensor, "b 3 h w"]],
    tile: tuple[int, int],
    axes: Sequence[Axis],
    overlap: float = 0.7,
    weight: TileWeight = EVEN_TILES,
    small: Literal["upscale", "pad"] = "upscale",
    official: bool = False,
    soft: bool = False,
) -> TiledPrediction:
    """One or two images of one size, cut in tiles of (height, width) at the same places.

    `axes`: for each predicted channel the axis that it is measured along: ("x",) for disparity, ("x", "y") for flow, ("",) for depth.
    With a confidence the network gives one channel more. An image smaller than the tile is enlarged until the tile fits, predicted, and
    its prediction scaled back, lengths with it (`upscale`); or its border is repeated to the right and below (`pad`). With `soft` a tile
    counts less towards its border, whatever its confidence, so that a seam has no step.

    With `official` as the authors have it: the factor of the enlargement divides the tile's height by the image's width, the confidence
    stays at the enlarged size, weights are summed as they are, and a network without confidence is refused. Raises `ValueError`.
    """
    first = images[0]
    if any(image.shape != first.shape for image in images):
        raise ValueError(f"the two images differ in shape: {' and '.join(str(tuple(image.shape)) for image in images)}")
    height, width = first.shape[2:]
    if 0 in first.shape:
        raise ValueError(f"no pixel to predict in images of shape {tuple(first.shape)}")
    fits = height >= tile[0] and width >= tile[1]
    if fits:
        return _aggregate(predict, images, tile, len(axes), overlap, weight, official, soft)
    if small == "pad":
        below, right = max(0, tile[0] - height), max(0, tile[1] - width)
        padded = [pad(image, (0, right, 0, below), mode="replicate") for image in images]
        found = _aggregate(predict, padded, tile, len(axes), overlap, weight, official, soft)
        confidence = None if found.confidence is None else found.confidence[:, :height, :width]
        return TiledPrediction(found.values[:, :, :height, :width], confidence)
    size = enlarged_size((height, width), tile, official)
    larger = [interpolate(image, size=size, mode="bicubic", align_corners=False) for image in images]
    found = _aggregate(predict, larger, tile, len(axes), overlap, weight, official, soft)
    ratios = {"x": width / size[1], "y": height / size[0], "": 1.0}
    values = interpolate(found.values, size=(height, width), mode="bicubic", align_corners=False)
    values = values * torch.tensor([ratios[axis] for axis in axes], dtype=values.dtype, device=values.device).view(1, -1, 1, 1)
    confidence = found.confidence
    if confidence is not None and not official:
        confidence = interpolate(confidence[:, None], size=(height, width), mode="bilinear", align_corners=False)[:, 0]
    return TiledPrediction(values, confidence)


def predict_fitted(
    predict: Predict, images: Float[Tensor, "b 3 h w"], tile: tuple[int, int], axes: Sequence[Axis], overlap: float
) -> TiledPrediction:
    """As `predict_in_tiles`, of images that are resized first so that a tile just fits in them: for networks that are trained on such
    crops. Values are scaled back to the images' size (bilinear)."""
    size = (int(images.shape[2]), int(images.shape[3]))
    values, confidence = predict_in_tiles(predict, (_resized(images, fitted_size(size, tile)),), tile, axes, overlap)
    return TiledPrediction(interpolate(values, size=size, mode="bilinear", align_corners=False), confidence)


def fitted_size(size: tuple[int, int], tile: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
    """(height, width) at which a tile just fits into an image of `size`, times `scale`; at least one pixel."""
    factor = scale * max(tile[0] / size[0], tile[1] / size[1])
    height, width = (max(1, round(side * factor)) for side in size)
    return (max(tile[0], height), max(tile[1], width)) if scale >= 1 else (height, width)


def _resized(images: Float[Tensor, "b 3 _h _w"], size: tuple[int, int]) -> Float[Tensor, "b 3 _height _width"]:
    return interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


def class_scores(
    predict: Predict, images: Float[Tensor, "b 3 _h _w"], tile: tuple[int, int], classes: int, passes: Passes, fill: float
) -> Float[Tensor, "b c _height _width"]:
    """Of images that are resized so that a tile just fits, and at that size: logits of one pass, else the mean of the passes'
    probabilities. Where an image at a scale below 1 is smaller than a tile, the rest has the grey `fill`."""
    size = fitted_size((int(images.shape[2]), int(images.shape[3])), tile)
    axes: list[Axis] = [""] * classes
    total: Tensor | None = None
    for scale in passes.scales:
        height, width = fitted_size((int(images.shape[2]), int(images.shape[3])), tile, scale)
        resized = _resized(images, (height, width))
        padded = pad(resized, (0, max(0, tile[1] - width), 0, max(0, tile[0] - height)), value=fill)
        for flipped in (False, True) if passes.flip else (False,):
            given = padded.flip(3) if flipped else padded
            found = predict_in_tiles(predict, (given,), tile, axes, passes.overlap).values
            found = (found.flip(3) if flipped else found)[:, :, :height, :width]
            found = interpolate(found, size=size, mode="bilinear", align_corners=False) if found.shape[2:] != size else found
            if passes.count == 1:
                return found
            found = found.softmax(dim=1) / passes.count
            total = found if total is None else total.add_(found)
    assert total is not None
    return total


def largest_class(scores: Float[Tensor, "b c _h _w"], size: tuple[int, int], at_once: int = 8) -> Int[Tensor, "b height width"]:
    """The class of the largest score after enlarging to `size` (bilinear). A few classes at a time: 150 maps of a photo of 12 megapixels
    would take 7 GiB."""
    best: Tensor | None = None
    index: Tensor | None = None
    for first in range(0, scores.shape[1], at_once):
        value, place = interpolate(scores[:, first : first + at_once], size=size, mode="bilinear", align_corners=False).max(dim=1)
        place = place + first
        if best is None or index is None:
            best, index = value, place
        else:
            index = torch.where(value > best, place, index)
            best = torch.maximum(best, value)
    assert index is not None
    return index


def enlarged_size(size: tuple[int, int], tile: tuple[int, int], official: bool = False) -> tuple[int, int]:
    """(height, width) of the smallest image of the same shape that holds a tile. Raises `ValueError` where the authors' rule gives none."""
    height, width = size
    factor = max(tile[0] / (width if official else height), tile[1] / width)
    new = round(height * factor), round(width * factor)
    if not official:
        return max(new[0], tile[0]), max(new[1], tile[1])
    if new[0] < tile[0] or new[1] < tile[1]:
        raise ValueError(f"the authors' rule makes {new[0]} x {new[1]} of {height} x {width}, smaller than a tile of {tile[0]} x {tile[1]}")
    return new


def _aggregate(
    predict: Predict,
    images: Sequence[Tensor],
    tile: tuple[int, int],
    channels: int,
    overlap: float,
    weight: TileWeight,
    official: bool,
    soft: bool,
) -> TiledPrediction:
    """Weights are kept relative to the largest so far at each pixel, so that none of them vanishes in float32."""
    first = images[0]
    b, _, height, width = first.shape
    h, w = tile
    total = torch.zeros(b, channels + 1, height, width, device=first.device)
    weights = torch.zeros(b, 1, height, width, device=first.device)
    largest = torch.full_like(weights, -torch.inf)
    border = _border_weight(tile).to(first.device).log()
    confident = False
    tops, lefts = tile_starts(height, h, overlap), tile_starts(width, w, overlap)
    if not official:  # an overlap of nearly a tile gives some of them twice
        tops, lefts = sorted(set(tops)), sorted(set(lefts))
    places = [(slice(top, top + h), slice(left, left + w)) for top in tops for left in lefts]
    for (rows, columns), found in _predicted(predict, images, places):
        confident = _confident(found, channels, tile, weight, official)
        if not confident:
            found = torch.cat([found, torch.zeros_like(found[:, :1])], dim=1)
        log = border.expand(b, 1, h, w) if weight.form == "even" else weight.log(found[:, channels:]) + (border if soft else 0.0)
        if official:
            shift, old = torch.zeros(()), torch.ones(())
        else:
            before = largest[:, :, rows, columns]
            shift = torch.maximum(before, log)
            old = torch.exp(before - shift)
            largest[:, :, rows, columns] = shift
        new = torch.exp(log - shift)
        total[:, :, rows, columns] = total[:, :, rows, columns] * old + found * new
        weights[:, :, rows, columns] = weights[:, :, rows, columns] * old + new
    mean = total / (weights + TINY if official else weights)
    return TiledPrediction(mean[:, :channels], mean[:, channels] if confident else None)


def _predicted(predict: Predict, images: Sequence[Tensor], places: Sequence[Place]) -> Iterator[tuple[Place, Tensor]]:
    """Each place with its prediction; small tiles go through the network several at a time."""
    b, (rows, columns) = len(images[0]), places[0]
    many = max(1, BATCH_PIXELS // (b * (rows.stop - rows.start) * (columns.stop - columns.start)))
    for first in range(0, len(places), many):
        chosen = places[first : first + many]
        tiles = [torch.cat([image[:, :, rows, columns] for rows, columns in chosen]) for image in images]
        yield from zip(chosen, torch.split(predict(*tiles).float(), b), strict=True)


def _confident(found: Tensor, channels: int, tile: tuple[int, int], weight: TileWeight, official: bool) -> bool:
    if found.shape[2:] != tile or found.shape[1] not in (channels, channels + 1):
        raise ValueError(
            f"the network gives {tuple(found.shape[1:])} for a tile of {tile[0]} x {tile[1]}; {channels} channels of its size are needed, "
            "and one of confidence where it has any"
        )
    confident = found.shape[1] == channels + 1
    if not confident and (official or weight.form != "even"):
        raise ValueError(f"the network gives no confidence, which the weighting {weight} needs: use 'even'")
    return confident


def _border_weight(tile: tuple[int, int]) -> Float[Tensor, "h w"]:
    """1 in the middle, falling linearly to almost 0 at the border: a seam has no step."""
    h, w = (1 - (torch.arange(side) - (side - 1) / 2).abs() / (side / 2) for side in tile)
    return h[:, None] * w[None]
