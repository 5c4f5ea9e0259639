"""What `encode` reads: the images or clouds of a data set or of a folder, one after the other, decoded and brought to an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from sightline.methods.contract import PointEncoder
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.ops.clouds import fitted
from sightline.platform.data.clouds import decode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import IMAGE_SUFFIXES, decode_image, remark_on
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.prepare.clouds import CloudFile, Drawn
from sightline.platform.data.prepare.companions import take_photos
from sightline.platform.data.prepare.files import Tree, read_file
from sightline.platform.data.prepare.meshes import SUFFIXES, clouds_in
from sightline.platform.data.remarks import remark
from sightline.platform.evaluation.image_crops import fit_image
from sightline.platform.models.encoders import OpenedEncoder

EXTRA_COLUMNS = {"scene": pa.string(), "label": pa.int64()}
"""Columns that go along where the data have them."""
OF_A_MESH = Drawn(8192, 0)
"""Points that a mesh, or a longer list of points, gives before the encoder's own are drawn: as `prepare points` has it."""


@dataclass(frozen=True)
class Item:
    """One sample to encode. `id` of a pair's images: the pair's with `-1` and `-2`."""

    id: str
    extra: dict[str, Any]
    read: Callable[[], np.ndarray]
    """Raises `BrokenSampleError`."""


@dataclass(frozen=True)
class Source:
    """Images or clouds of a data set or of a folder."""

    place: str
    fingerprint: str | None
    count: int
    columns: tuple[str, ...]
    items: Callable[[], Iterator[Item]]
    skips: tuple[tuple[str, str], ...] = ()
    """(what, why) of files that cannot be read."""
    notes: tuple[str, ...] = ()
    """What else lies in a folder, counted."""


@dataclass(frozen=True)
class InputSpec:
    """How an encoder takes its samples."""

    kinds: tuple[str, ...]
    """Of data sets that hold them."""
    what: str
    described: dict[str, Any]
    """For the file of features."""
    fit: Callable[[np.ndarray], np.ndarray]
    """A decoded sample as fixed-shape array. Raises `BrokenSampleError`."""
    tensor: Callable[[torch.Tensor], torch.Tensor]
    """Stacked, as the encoder takes them."""
    tokens: int


def input_spec_of(encoder: Any) -> InputSpec:
    """Of an `ImageEncoder` or a `PointEncoder`."""
    if isinstance(encoder, PointEncoder):
        words = (
            f"{encoder.points} points drawn without replacement, the same ones every time; centred on the mean, the farthest at distance 1"
        )
        fit = partial(fitted, count=encoder.points, least=encoder.least)
        return InputSpec(("points",), "clouds", {"preparation": words, "points": encoder.points}, fit, torch.Tensor.float, encoder.groups)
    height, width = encoder.image_size
    words = "largest centre crop of the encoder's shape, resized to image_size (bicubic, antialiased); RGB, EXIF rotation applied"
    grid = [height // encoder.patch_size, width // encoder.patch_size]
    described = {"preparation": words, "image_size": [height, width], "grid": grid}
    return InputSpec(("images", "pairs"), "images", described, lambda image: fit_image(image, (height, width)), _pixels, grid[0] * grid[1])


def _pixels(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float().div_(255)


def open_source(place: str, opened: OpenedEncoder, all_images: bool = False) -> Source:
    """`place`: a data set (folder or URI), or a folder of images or clouds. Raises `CallError` where it holds nothing for this encoder.

    Of a folder of images what looks like a depth map, a mask or a smaller copy is left out, unless `all_images`.
    """
    input_spec = input_spec_of(opened.encoder)
    of_clouds = input_spec.what == "clouds"
    if "://" in place or (Path(place).expanduser() / "manifest.json").is_file():
        dataset = Dataset.open(place)
        if dataset.kind not in input_spec.kinds:
            raise CallError(
                f"{place} holds {dataset.kind}, but the {opened.method} encoder of {opened.source} takes {input_spec.what}",
                f"name a data set of kind {' or '.join(input_spec.kinds)}, or another encoder",
            )
        columns = tuple(name for name in EXTRA_COLUMNS if name in dataset.manifest.columns)
        count = dataset.rows * len(find_kind(dataset.kind).samples)
        return Source(dataset.uri, dataset.fingerprint, count, columns, partial(_of_dataset, dataset, columns))
    folder = Path(place).expanduser().absolute()
    if not folder.is_dir():
        raise CallError(
            f"there is no data set and no folder of {input_spec.what} at {place}", "name a folder, or see `sightline prepare --help`"
        )
    tree = Tree.of(folder)
    names = clouds_in(tree) if of_clouds else take_photos(tree, all_images=all_images)
    skips, notes = tuple(tree.skips), tuple(tree.notes)
    others = [] if names else tree.take(IMAGE_SUFFIXES if of_clouds else SUFFIXES)
    if not names:
        instead = f" (of {'images' if of_clouds else 'clouds'} it holds {len(others):,})" if others else ""
        raise CallError(
            f"{place} holds no {input_spec.what} and no manifest.json{instead}{''.join(f'; {told}' for told in notes)}",
            f"name a data set or a folder of {input_spec.what}",
        )
    return Source(
        str(folder), None, len(names), (), lambda: (Item(n, {}, partial(_file, folder, n, of_clouds)) for n in names), skips, notes
    )


def _file(folder: Path, name: str, cloud: bool) -> np.ndarray:
    path = str(folder / name)
    if cloud:
        read = CloudFile(name, OF_A_MESH, file=path).cloud()
        for what in read.left_out:
            remark(f"cloud(s), not used: {what}")
        return read.points
    data = read_file(path)
    array = decode_image(data)
    remark_on(data, array)
    return array


def _of_dataset(dataset: Dataset, columns: tuple[str, ...]) -> Iterator[Item]:
    stored = find_kind(dataset.kind).samples
    decode = decode_image if find_kind(dataset.kind).modality == "images" else decode_points
    for table in dataset.scan(["id", *columns, *stored]):
        for row in table.to_pylist():
            for number, column in enumerate(stored, 1):
                name = row["id"] if len(stored) == 1 else f"{row['id']}-{number}"
                yield Item(name, {key: row.get(key) for key in columns}, partial(_stored, row[column], decode))


def _stored(value: bytes | None, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    if not value:
        raise BrokenSampleError("it is empty")
    return decode(value)
