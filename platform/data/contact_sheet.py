"""Draws a contact sheet: a picture of some samples, to look at before training on a data set."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from sightline.methods.errors import BrokenSampleError
from sightline.methods.ops.clouds import draw_cloud, normalised
from sightline.methods.random import keyed_rng

from .clouds import NO_PART, decode_parts, decode_points
from .dataset import Dataset
from .displacement import MAPS, decode_disparity, decode_flow, decode_occluded
from .images import decode_image, decode_segmentation
from .kinds import Row, find_kind
from .manifest import Manifest
from .map_colours import disparity_colours, flow_colours

_CAPTION, _MARGIN = 14, 6


def contact_sheet(dataset: Dataset, rows: int = 24, height: int = 128, width: int = 1400, seed: int = 0) -> bytes:
    """PNG of `rows` random samples. The images of a sample stand side by side, with its overlap or class and its id below.

    A mask is drawn over its image in colours, except where it is ignored; the parts of a cloud have colours. Disparity and flow stand
    beside their images (near is red, far blue; a hue for a direction), darker where image 2 does not see the pixel, black where unknown.
    A broken sample shows its error.
    """
    tiles = [_tile(sample, dataset, height) for sample in drawn_rows(dataset, rows, seed)]
    width = max(width, *(tile.width + 2 * _MARGIN for tile in tiles))
    places: list[tuple[int, int]] = []
    x, y = _MARGIN, _MARGIN
    for tile in tiles:  # like words on a page
        if x + tile.width + _MARGIN > width:
            x, y = _MARGIN, y + tile.height + _MARGIN
        places.append((x, y))
        x += tile.width + _MARGIN
    sheet = Image.new("RGB", (width, y + tiles[0].height + _MARGIN), "white")
    for tile, place in zip(tiles, places, strict=True):
        sheet.paste(tile, place)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def drawn_rows(dataset: Dataset, rows: int, seed: int = 0) -> list[Row]:
    """Random rows from a few random row groups, so that a large data set needs few reads."""
    rng = keyed_rng("contact", seed)
    groups = [dataset.row_groups[i] for i in sorted(rng.permutation(len(dataset.row_groups))[:rows])]
    each = -(-rows // len(groups))
    taken = [min(each, count) for _, _, count in groups]
    names, found = shown_columns(dataset), list[Row]()
    for number, (shard, group, count) in enumerate(groups):
        taken[number] += max(0, min(count - taken[number], rows - sum(taken)))  # for groups that hold fewer
        picked = sorted(int(i) for i in rng.permutation(count)[: taken[number]])
        found += dataset.read(shard, group, picked, names).to_pylist()
    return found[:rows]


def shown_columns(dataset: Dataset) -> list[str]:
    """What `picture` and `caption` look at."""
    kind = find_kind(dataset.kind)
    names = ("id", "overlap", "label", *kind.holding("mask"), *kind.holding("parts"), *MAPS, *kind.samples)
    return [name for name in names if name in dataset.manifest.columns]


def _tile(sample: Row, dataset: Dataset, height: int) -> Image.Image:
    shown = Image.fromarray(picture(sample, dataset, height))
    tile = Image.new("RGB", (shown.width, height + _CAPTION), "white")
    tile.paste(shown, (0, 0))
    told, room = caption(sample, dataset.manifest.classes), shown.width // 6
    said = "  ".join(filter(None, (told, _ending(str(sample["id"]), room - len(told) - 2))))
    ImageDraw.Draw(tile).text((0, height + 1), said[:room], fill="black")
    return tile


def _ending(name: str, letters: int) -> str:
    """The end of an id, which tells it from the others: whole parts of its path, else its last letters."""
    parts = name.split("/")
    fitting = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((one for one in fitting if len(one) <= letters), f"..{name[-max(letters - 2, 1) :]}")


def picture(sample: Row, dataset: Dataset, height: int) -> np.ndarray:
    """uint8 `height` x W x 3: the images of a row side by side, then its maps."""
    kind, views = find_kind(dataset.kind), []
    for name in kind.samples:
        try:
            if name in kind.holding("image"):
                view = _image(sample, name, height, dataset.manifest)
            elif name in kind.holding("cloud"):
                view = _cloud(sample, name, height)
            else:
                view = _text(f"{name}: no picture", height, "slategrey")
        except BrokenSampleError as error:
            view = _text(str(error), height, "firebrick")
        views.append(view)
    return np.concatenate([*views, *_maps(sample, height)], 1)


def _image(sample: Row, name: str, height: int, manifest: Manifest) -> np.ndarray:
    image = decode_image(sample[name])
    if sample.get("segmentation") is not None:
        image = _overlaid(image, decode_segmentation(sample["segmentation"]), manifest)
    return _high(image, height, Image.Resampling.BICUBIC)


def _maps(sample: Row, height: int) -> list[np.ndarray]:
    """The pictures of disparity and flow."""
    try:
        pictures = []
        if sample.get("disparity") is not None:
            pictures.append(disparity_colours(decode_disparity(sample["disparity"])))
        if sample.get("flow") is not None:
            pictures.append(flow_colours(decode_flow(sample["flow"])))
        occluded = None if sample.get("occluded") is None else decode_occluded(sample["occluded"])
        if occluded is not None:
            pictures = [np.where(occluded[..., None], one // 3, one) for one in pictures] or [
                np.repeat(occluded[..., None] * np.uint8(255), 3, axis=-1)
            ]
        return [_high(picture, height, Image.Resampling.NEAREST) for picture in pictures]
    except BrokenSampleError as error:
        return [_text(str(error), height, "firebrick")]


def _high(picture: np.ndarray, height: int, by: Image.Resampling) -> np.ndarray:
    """Scaled to this height."""
    shown = Image.fromarray(picture)
    return np.asarray(shown.resize((max(1, round(shown.width * height / shown.height)), height), by))


def _text(text: str, side: int, colour: str) -> np.ndarray:
    tile = Image.new("RGB", (side, side), colour)
    ImageDraw.Draw(tile).text((4, 4), text[:24], fill="white")
    return np.asarray(tile)


def _cloud(sample: Row, name: str, side: int) -> np.ndarray:
    """The cloud, its parts in colours; points of no part are grey."""
    points = decode_points(sample[name])
    colours = None
    if sample.get("part") is not None:
        part = decode_parts(sample["part"])
        if len(part) != len(points):
            raise BrokenSampleError("parts do not fit the points")
        table = class_colours(int(part.max(initial=0)) + 1) / 255
        colours = np.where((part == NO_PART)[:, None], 0.5, table[part])
    return draw_cloud(normalised(points), side, colours)


def caption(sample: Row, classes: tuple[str, ...]) -> str:
    """Its class or overlap, empty where it has none."""
    overlap, label = sample.get("overlap"), sample.get("label")
    if label is not None:
        return str(classes[label] if classes else label)
    return f"{overlap:.2f}" if overlap is not None else ""


def _overlaid(image: np.ndarray, indices: np.ndarray, manifest: Manifest) -> np.ndarray:
    """The image with its mask over it, half transparent. Raises `BrokenSampleError` where their sizes differ."""
    if indices.shape != image.shape[:2]:
        raise BrokenSampleError("mask and image differ in size")
    colours = class_colours(int(indices.max()) + 1, manifest.palette)
    coloured = (image // 2 + colours[indices] // 2).astype(np.uint8)
    return np.where((indices == manifest.ignore_index)[..., None], image, coloured)


def class_colours(classes: int, palette: Sequence[tuple[int, int, int]] = ()) -> np.ndarray:
    """uint8 classes x 3: the data set's own `palette`; beyond it colours that differ from their neighbours in the list."""
    if palette:
        own = np.array(palette, np.uint8)[:classes]
        return np.concatenate([own, class_colours(classes)[len(own) :]])
    hues = (np.arange(classes) * 0.618034) % 1  # the golden ratio: every next hue falls into the largest gap
    rgb = [colorsys.hsv_to_rgb(hue, 0.9, 0.7 + 0.3 * (index % 2)) for index, hue in enumerate(hues)]
    return (np.array(rgb) * 255).round().astype(np.uint8)
