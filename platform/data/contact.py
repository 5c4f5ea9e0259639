"""A contact sheet: what a person looks at before training on a data set."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import keyed_rng

from .dataset import Dataset
from .images import decode_image
from .rows import IMAGE_COLUMNS

_CAPTION, _MARGIN = 14, 6


def contact_sheet(dataset: Dataset, rows: int = 24, height: int = 128, width: int = 1400, seed: int = 0) -> bytes:
    """PNG of `rows` drawn samples, the images of a sample side by side, with its overlap and id below. A broken image shows as text."""
    tiles = [_tile(sample, IMAGE_COLUMNS[dataset.kind], height) for sample in _draw(dataset, rows, seed)]
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


def _draw(dataset: Dataset, rows: int, seed: int) -> list[dict[str, object]]:
    """A drawn row of each of some drawn row groups: few reads, also of a large data set."""
    rng = keyed_rng("contact", seed)
    groups = [dataset.row_groups[i] for i in sorted(rng.permutation(len(dataset.row_groups))[:rows])]
    each = -(-rows // len(groups))
    names = ["id", "overlap", *IMAGE_COLUMNS[dataset.kind]]
    found: list[dict[str, object]] = []
    for shard, group, count in groups:
        picked = sorted(int(i) for i in rng.permutation(count)[:each])
        found += dataset.read(shard, group, picked, [name for name in names if name in dataset.manifest.columns]).to_pylist()
    return found[:rows]


def _tile(sample: dict[str, object], images: tuple[str, ...], height: int) -> Image.Image:
    views = []
    for name in images:
        try:
            image = Image.fromarray(decode_image(sample[name]))  # type: ignore[arg-type]
            views.append(np.asarray(image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)))
        except BrokenSampleError as error:
            broken = Image.new("RGB", (height, height), "firebrick")
            ImageDraw.Draw(broken).text((4, 4), str(error)[:24], fill="white")
            views.append(np.asarray(broken))
    picture = Image.fromarray(np.concatenate(views, 1))
    tile = Image.new("RGB", (picture.width, height + _CAPTION), "white")
    tile.paste(picture, (0, 0))
    overlap = sample.get("overlap")
    caption = f"{overlap:.2f}  {sample['id']}" if overlap is not None else str(sample["id"])
    ImageDraw.Draw(tile).text((0, height + 1), caption[: picture.width // 6], fill="black")
    return tile
