"""Frozen features of images or clouds as a Parquet file: read, decoded, encoded and written as a stream, so that memory does not grow."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sightline.methods.contract import HasPooled
from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.platform.core.device import choose_device
from sightline.platform.data.remarks import collected
from sightline.platform.data.shard_stats import reasons, skipped_table
from sightline.platform.models.encoders import OpenedEncoder

from .encode_source import EXTRA_COLUMNS, Item, Source, input_spec_of

Pool = Literal["own", "mean", "none"]
ROW_GROUP_BYTES = 16 << 20
NAMED = 20
"""Broken samples that the result names."""


def encode(
    opened: OpenedEncoder,
    source: Source,
    out: Path,
    pool: Pool = "own",
    batch: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write one row for each image or cloud to `out`: `id`, the data's `scene` and `label` where there are any, and `feature`, a fixed-size
    list of float32.

    `pool`: `own` is what the encoder pools itself (`PointEncoder.pooled`), where it does; else, and with `mean`, the mean over its tokens
    (dim values); `none` gives all of them (tokens x dim values; of images in raster order). The file's metadata (key `sightline`) says
    which weights and which preparation made it. A broken sample is left out, counted and named. Calls
    `progress(samples done, samples in all)`. Raises `SightlineError` where no sample could be used or the file cannot be written.
    """
    encoder = opened.encoder
    input_spec = input_spec_of(encoder)
    if pool == "own" and not isinstance(encoder, HasPooled):
        pool = "mean"
    size = input_spec.tokens * encoder.dim if pool == "none" else encoder.dim
    described = {
        **{"model": opened.weights.place, "source": opened.source, "method": opened.method, "sha256": opened.sha256},
        **{"data": source.place, "fingerprint": source.fingerprint, **input_spec.described},
        **{"layer": "last block after the final norm", "pool": pool, "dim": encoder.dim},
    }
    fields = [
        pa.field("id", pa.string()),
        *(pa.field(name, EXTRA_COLUMNS[name]) for name in source.columns),
        pa.field("feature", pa.list_(pa.float32(), size)),
    ]
    writer = _Writer(out, pa.schema(fields, metadata={"sightline": json.dumps(described)}), max(1, ROW_GROUP_BYTES // (4 * size)))
    device = choose_device()
    broken = list(source.skips)
    remarks: Counter[str] = Counter()
    done = 0
    encoder.to(device).eval()
    try:
        with writer, torch.inference_mode():
            for members, arrays in _batches(source.items(), input_spec.fit, batch, broken, remarks):
                if members:
                    features = _features(encoder, input_spec.tensor(torch.from_numpy(np.stack(arrays)).to(device)), pool)
                    writer.add(members, features.float().cpu().numpy())
                done += len(members)
                if progress:
                    progress(done + len(broken) - len(source.skips), source.count)
            if not done:
                why = reasons(skipped_table((what, why.partition(": ")[0]) for what, why in broken)) or "there are none"
                raise SightlineError(
                    f"none of the {input_spec.what} of {source.place} can be used: {why}",
                    f"look at the {input_spec.what}",
                )
            writer.note({"rows": str(done), "broken": str(len(broken))})
    finally:
        encoder.cpu()
    named = {"broken": len(broken), f"broken_{input_spec.what}": [f"{what}: {why}" for what, why in broken[:NAMED]]}
    notes = [*source.notes, *(f"{count:,} {text}" for text, count in remarks.items())]
    return {"file": str(out), "rows": done, "values": size, **described, **named, "notes": notes}


def _features(encoder: Any, samples: torch.Tensor, pool: Pool) -> torch.Tensor:
    if pool == "own":
        pooled: torch.Tensor = encoder.pooled(samples)
        return pooled
    tokens: torch.Tensor = encoder.tokens(samples)
    return tokens.float().mean(dim=1) if pool == "mean" else tokens.flatten(1)


Fit = Callable[[np.ndarray], np.ndarray]


def _batches(
    items: Iterator[Item], fit: Fit, batch: int, broken: list[tuple[str, str]], remarks: Counter[str]
) -> Iterator[tuple[list[Item], list[np.ndarray]]]:
    """Full batches of fitted samples, the next one being decoded in threads meanwhile. Names what is broken, counts remarks."""
    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as executor:
        waiting: deque[tuple[Item, Future[tuple[np.ndarray | BrokenSampleError, Counter[str]]]]] = deque()
        members: list[Item] = []
        arrays: list[np.ndarray] = []
        ended = False
        while not ended or waiting:
            while not ended and len(waiting) < batch + threads:
                item = next(items, None)
                if item is None:
                    ended = True
                else:
                    waiting.append((item, executor.submit(_prepared, item, fit)))
            if waiting:
                item, future = waiting.popleft()
                result, told = future.result()
                remarks.update(told)
                if isinstance(result, BrokenSampleError):
                    broken.append((item.id, str(result)))
                else:
                    members.append(item)
                    arrays.append(result)
            if len(members) == batch or (ended and not waiting):
                yield members, arrays
                members, arrays = [], []


def _prepared(item: Item, fit: Fit) -> tuple[np.ndarray | BrokenSampleError, Counter[str]]:
    """The sample as the encoder takes it, or why it cannot be used; and what was remarked on it."""
    with collected() as remarks:
        try:
            return fit(item.read()), remarks
        except BrokenSampleError as error:
            return error, remarks


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
        columns += [[item.extra[name] for item in self.items] for name in self.schema.names[1:-1]]
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
