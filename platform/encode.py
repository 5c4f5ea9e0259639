"""Frozen features of images as a Parquet file: read, decoded, encoded and written as a stream, so that memory does not grow."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError

from .data.dataset import Dataset
from .data.images import decode_image
from .data.prepare.items import images_below, read_file
from .data.rows import IMAGE_COLUMNS
from .encoders import OpenedEncoder
from .probes.features import fit_image

Pool = Literal["mean", "none"]
ROW_GROUP_BYTES = 16 << 20
NAMED = 20
"""Broken images that the result names."""
PREPARED = "largest centre crop of the encoder's shape, resized to image_size (bicubic, antialiased); RGB, EXIF rotation applied"
ABOUT = {"scene": pa.string(), "label": pa.int64()}
"""Columns that go along where the data have them."""


@dataclass(frozen=True)
class Item:
    """One image to encode. `id` of a pair's images: the pair's with `-1` and `-2`."""

    id: str
    about: dict[str, Any]
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Source:
    """Images of a data set or of a folder."""

    place: str
    fingerprint: str | None
    count: int
    columns: tuple[str, ...]
    items: Callable[[], Iterator[Item]]


def open_source(place: str) -> Source:
    """`place`: a data set (folder or URI), or a folder of images. Raises `CallError` where it is neither."""
    if "://" in place or (Path(place).expanduser() / "manifest.json").is_file():
        dataset = Dataset.open(place)
        if dataset.kind not in IMAGE_COLUMNS:
            raise CallError(f"{place} holds {dataset.kind}, no images", "name a data set of kind images or pairs")
        columns = tuple(name for name in ABOUT if name in dataset.manifest.columns)
        count = dataset.rows * len(IMAGE_COLUMNS[dataset.kind])
        return Source(dataset.uri, dataset.fingerprint, count, columns, partial(_of_dataset, dataset, columns))
    folder = Path(place).expanduser().absolute()
    if not folder.is_dir():
        raise CallError(f"there is no data set and no folder of images at {place}", "name a folder, or see `sightline prepare --help`")
    names = images_below(folder)
    if not names:
        raise CallError(f"{place} holds no images (.jpg, .jpeg, .png, .webp) and no manifest.json", "name a data set or a folder of images")
    return Source(str(folder), None, len(names), (), lambda: (Item(name, {}, partial(read_file, str(folder / name))) for name in names))


def _of_dataset(dataset: Dataset, columns: tuple[str, ...]) -> Iterator[Item]:
    images = IMAGE_COLUMNS[dataset.kind]
    for table in dataset.scan(["id", *columns, *images]):
        for row in table.to_pylist():
            for number, column in enumerate(images, 1):
                name = row["id"] if len(images) == 1 else f"{row['id']}-{number}"
                yield Item(name, {key: row.get(key) for key in columns}, partial(_stored, row[column]))


def _stored(value: bytes | None) -> bytes:
    if not value:
        raise BrokenSampleError("the image is empty")
    return value


def encode(
    opened: OpenedEncoder,
    source: Source,
    out: Path,
    pool: Pool = "mean",
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write one row for each image to `out`: `id`, what the data say of it (`scene`, `label`), and `feature`, a fixed-size list of float32.

    `pool`: `mean` over the patch tokens (dim values), or `none` for all of them (patches x dim values, raster order). The file's metadata
    (key `sightline`) says which weights and which preparation made it. A broken image is left out, counted and named. Calls
    `progress(images done, images in all)`. Raises `SightlineError` where no image could be used or the file cannot be written.
    """
    encoder = opened.encoder
    height, width = encoder.image_size
    grid = (height // encoder.patch_size, width // encoder.patch_size)
    size = encoder.dim if pool == "mean" else grid[0] * grid[1] * encoder.dim
    says = {
        **{"model": opened.weights.place, "source": opened.source, "method": opened.method, "sha256": opened.sha256},
        **{"data": source.place, "fingerprint": source.fingerprint, "preparation": PREPARED, "image_size": [height, width]},
        **{"layer": "last block after the final norm", "pool": pool, "grid": list(grid), "dim": encoder.dim},
    }
    fields = [
        pa.field("id", pa.string()),
        *(pa.field(name, ABOUT[name]) for name in source.columns),
        pa.field("feature", pa.list_(pa.float32(), size)),
    ]
    writer = _Writer(out, pa.schema(fields, metadata={"sightline": json.dumps(says)}), max(1, ROW_GROUP_BYTES // (4 * size)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    broken: list[str] = []
    done = 0
    encoder.to(device).eval()
    try:
        with writer, torch.inference_mode():
            for members, images in _batches(source.items(), (height, width), batch, broken):
                if members:
                    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div_(255)
                    tokens = encoder.tokens(pixels).float()
                    features = tokens.mean(dim=1) if pool == "mean" else tokens.flatten(1)
                    writer.add(members, features.cpu().numpy())
                done += len(members)
                if progress:
                    progress(done + len(broken), source.count)
            if not done:
                raise SightlineError(
                    f"no image of {source.place} can be used; first: {broken[0] if broken else 'there is none'}", "look at the images"
                )
            writer.note({"rows": str(done), "broken": str(len(broken))})
    finally:
        encoder.cpu()
    return {"file": str(out), "rows": done, "values": size, **says, "broken": len(broken), "broken_images": broken[:NAMED]}


def _batches(items: Iterator[Item], size: tuple[int, int], batch: int, broken: list[str]) -> Iterator[tuple[list[Item], np.ndarray]]:
    """Full batches of decoded images (uint8 b x h x w x 3), the next one being decoded in threads meanwhile. Names what is broken."""
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as executor:
        waiting: deque[tuple[Item, Future[np.ndarray | str]]] = deque()
        members: list[Item] = []
        images: list[np.ndarray] = []
        ended = False
        while not ended or waiting:
            while not ended and len(waiting) < batch + threads:
                item = next(items, None)
                if item is None:
                    ended = True
                else:
                    waiting.append((item, executor.submit(_prepared, item, size)))
            if waiting:
                item, future = waiting.popleft()
                result = future.result()
                if isinstance(result, str):
                    broken.append(result)
                else:
                    members.append(item)
                    images.append(result)
            if len(members) == batch or (ended and not waiting):
                yield members, np.stack(images) if images else np.empty((0, *size, 3), np.uint8)
                members, images = [], []


def _prepared(item: Item, size: tuple[int, int]) -> np.ndarray | str:
    """The image as the encoder takes it, or why it cannot be used."""
    try:
        return fit_image(decode_image(item.read()), size)
    except BrokenSampleError as error:
        return f"{item.id}: {error}"


class _Writer:
    """Row groups to a hidden file beside `out`, which gets its name when all went well."""

    def __init__(self, out: Path, schema: pa.Schema, rows: int) -> None:
        self.out, self.part, self.schema, self.rows = out, out.with_name(f".{out.name}.part"), schema, rows
        self.items: list[Item] = []
        self.features: list[np.ndarray] = []

    def __enter__(self) -> _Writer:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.file = pq.ParquetWriter(self.part, self.schema, compression="zstd")
        except OSError as error:
            raise CallError(f"cannot write {self.out}: {error.strerror or error}", "name a file in a folder you may write to") from None
        return self

    def add(self, items: list[Item], features: np.ndarray) -> None:
        self.items += items
        self.features.append(features)
        if len(self.items) >= self.rows:
            self._flush()

    def note(self, words: dict[str, str]) -> None:
        self.file.add_key_value_metadata({f"sightline.{key}": value for key, value in words.items()})

    def _flush(self) -> None:
        if not self.items:
            return
        values = pa.array(np.concatenate(self.features).reshape(-1))
        columns: list[Any] = [[item.id for item in self.items]]
        columns += [[item.about[name] for item in self.items] for name in self.schema.names[1:-1]]
        arrays = [pa.array(column, self.schema.field(index).type) for index, column in enumerate(columns)]
        feature = pa.FixedSizeListArray.from_arrays(values, type=self.schema.field("feature").type)
        try:
            self.file.write_table(pa.Table.from_arrays([*arrays, feature], schema=self.schema))
        except OSError as error:
            raise SightlineError(f"cannot write {self.out}: {error.strerror or error}", "free some space, then run it again") from None
        self.items, self.features = [], []

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._flush()
                self.file.close()
                self.part.replace(self.out)
        finally:
            with suppress(OSError):
                self.file.close()
            self.part.unlink(missing_ok=True)
