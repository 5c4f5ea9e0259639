"""The data sets of the probes, from how a person names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.core.paths import absolute
from sightline.platform.data.dataset import Dataset

TESTS = ("val", "test")
"""Names of the test data below a folder, the first that is there."""


@dataclass(frozen=True)
class DatasetPair:
    """Data that train heads and data that test them; a probe without a head needs only the second."""

    train: Dataset | None
    test: Dataset


def find_dataset_pairs(folders: Sequence[str], train: Sequence[str] = (), test: Sequence[str] = ()) -> list[DatasetPair]:
    """The data sets in the order in which probes look at them: `train` with `test`, then `folders` with train/ and val/ in them.

    Raises `CallError` for those that do not go together.
    """
    if train and len(train) != len(test):
        raise CallError(f"{len(train)} --train and {len(test)} --test: they go in pairs", "name a --test for each --train, in their order")
    pairs: list[tuple[str | None, str]] = list(zip(train, test, strict=True)) if train else [(None, place) for place in test]
    for folder in folders:
        place = absolute(folder).rstrip("/")
        if "://" not in place and not (Path(place) / "train").exists():
            one = Dataset.open(place)  # what is no data set either is told by what it is
            raise CallError(
                f"{one.uri} is one data set, and --data names a folder with train/ and val/ in it",
                f"use --test {folder}, and --train DATA for probes that fit a head",
            )
        found = next((name for name in TESTS if "://" not in place and (Path(place) / name).exists()), TESTS[0])
        pairs.append((f"{place}/train", f"{place}/{found}"))
    if not pairs:
        raise CallError("no data to evaluate on", "name --data DIR (with train/ and val/ in it), or --train DATA --test DATA")
    return [DatasetPair(Dataset.open(absolute(one)) if one else None, Dataset.open(absolute(other))) for one, other in pairs]
