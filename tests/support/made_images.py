"""Images, masks and their data sets as tests of `prepare images` make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import Resize, encode_segmentation
from sightline.platform.data.prepare.found import Found, joined
from sightline.platform.data.prepare.images import ImageFile
from sightline.platform.data.prepare.job import Output, item_shards, run_job

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not (DATA / name).is_dir(), reason=f"../shared/data/{name} is not here")


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)


def write_mask(path: Path, indices: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_segmentation(indices))


def prepare(found: Found[ImageFile], out: Path, resize: Resize | None = None, **options: Any) -> dict[str, Dataset]:
    """The data sets of a source by the names of its parts."""
    found = joined([found], "images", "images")
    source, classes, notes = (found.source,), found.classes, tuple(found.notes)
    outputs = [
        Output(
            str(out / part),
            item_shards(images, resize or Resize(), 0),
            source,
            (),
            classes.names,
            classes.ignore_index,
            notes,
            (),
            classes.palette,
        )
        for part, images in found.parts.items()
    ]
    run_job(outputs, "images", local=True, **options)
    return {part: Dataset.open(out / part, "images") for part in found.parts}


def rows_of(dataset: Dataset) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for table in dataset.scan() for row in table.to_pylist()}
