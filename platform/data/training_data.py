"""What a run learns from: a prepared data set, or a source that Ray Data reads."""

from __future__ import annotations

from typing import TypeAlias

from sightline.methods.errors import CallError
from sightline.platform.config.location import parse, refuse_unknown_reader

from .dataset import Dataset
from .ray_source import RaySource

TrainingData: TypeAlias = Dataset | RaySource


def absolute_source(text: str) -> str:
    """A source with an absolute path. Raises `CallError` for a reader that there is not."""
    location = parse(text)
    refuse_unknown_reader(location)
    return str(location.absolute())


def open_training_data(text: str, kind: str) -> TrainingData:
    """Raises `CallError` or `SightlineError` for what is not there, or of another kind."""
    location = parse(text)
    return Dataset.open(location.place, kind) if location.prepared else RaySource.open(location, kind)


def recorded_training_data(text: str, kind: str) -> TrainingData:
    """The data of a run that was checked: of a source of Ray's nothing is looked at, so that no worker needs its files or its module."""
    location = parse(text)
    return Dataset.open(location.place) if location.prepared else RaySource(location, kind, location.rows or 0)


def prepared(data: TrainingData, what: str) -> Dataset:
    """The data where they are a prepared data set. Raises `CallError` saying that `what` needs one."""
    if isinstance(data, RaySource):
        raise CallError(
            f"{what} needs a prepared data set, and {data.name} is read in Ray's own order",
            f"make one: sightline prepare {data.kind} --help",
        )
    return data
