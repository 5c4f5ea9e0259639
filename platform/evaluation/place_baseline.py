"""What the place in an image alone tells of its classes: the baseline of segmentation that looks at no pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sightline.methods.contract import Views
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.fixed import SampleReader, spread

CELLS = 16
"""Rows and columns of the grid that is laid over each image."""
LIMIT = 1000
"""Most training images that are counted, evenly spaced."""


@dataclass(frozen=True)
class PlaceBaseline:
    """The most frequent class of training pixels, of each cell of a grid and of all of them."""

    by_cell: Int[np.ndarray, "cells cells"]
    most_frequent: int

    @classmethod
    def fit(cls, train: Sequence[Dataset], whole: Views, classes: int, ignored: int) -> PlaceBaseline | None:
        """From the masks that the views `whole` give of some of the rows. None where no pixel has a class."""
        counts = np.zeros((CELLS * CELLS, classes), np.int64)
        for dataset in train:
            reader = SampleReader(dataset, whole, 0)
            for part in reader.batches(spread(dataset.rows, LIMIT), 1):
                mask = part.columns["mask"][0].astype(np.int64)
                index = _cells(*mask.shape) * classes + mask
                counts += np.bincount(index[mask != ignored], minlength=counts.size).reshape(counts.shape)
        total = counts.sum(axis=0)
        if not total.any():
            return None
        best = np.where(counts.any(axis=1), counts.argmax(axis=1), total.argmax())
        return cls(best.reshape(CELLS, CELLS), int(total.argmax()))

    def predict(self, height: int, width: int) -> Int[np.ndarray, "h w"]:
        """The class of each pixel's cell."""
        classes: np.ndarray = self.by_cell.ravel()[_cells(height, width)]
        return classes


def _cells(height: int, width: int) -> Int[np.ndarray, "h w"]:
    """The cell of each pixel, in raster order."""
    rows, columns = np.arange(height) * CELLS // height, np.arange(width) * CELLS // width
    return rows[:, None] * CELLS + columns
