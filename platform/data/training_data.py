"""What a run learns from: a prepared data set, several, or a source that Ray Data reads."""

from __future__ import annotations

from typing import TypeAlias

from sightline.platform.config.location import Mixture, parse, parse_one, refuse_unknown_reader
from sightline.platform.config.schema import DataConfig

from .dataset import Dataset
from .kinds import find_kind, kind_names
from .mixed_data import MixedData
from .ray_source import RaySource
from .share import Share

TrainingData: TypeAlias = Dataset | MixedData | RaySource


def sets_of(data: TrainingData) -> dict[str, Dataset]:
    """The prepared data sets by their names in a mixture, '' for a single one; none of what Ray Data reads."""
    if isinstance(data, MixedData):
        return dict(zip(data.names, data.sets, strict=True))
    return {"": data} if isinstance(data, Dataset) else {}


def absolute_source(text: str) -> str:
    """A source with an absolute path. Raises `CallError` for a reader that there is not."""
    location = parse(text)
    refuse_unknown_reader(location)
    return str(location.absolute())


def open_training_data(data: DataConfig, kind: str) -> TrainingData:
    """What `data.train` names, of prepared data sets the share `data.fraction`.

    Raises `CallError` or `SightlineError` for what is not there, or of another kind.
    """
    location = parse(data.train)
    if isinstance(location, Mixture):
        return MixedData.open(location, kind, _share(data))
    opened = open_one(str(location), kind)
    return opened.part(_share(data)) if isinstance(opened, Dataset) else opened


def open_one(text: str, kind: str) -> Dataset | RaySource:
    """The same for a setting that takes no mixture."""
    location = parse_one(text)
    return Dataset.open(location.place, kind) if location.prepared else RaySource.open(location, kind)


def open_measured(place: str, kind: str) -> Dataset | RaySource:
    """Data of a probe, of the kind that they are: of a source that Ray Data reads as its columns say, else what an encoder of `kind` sees.

    Raises `CallError` or `SightlineError` for what is not there.
    """
    location = parse_one(place)
    if location.prepared:
        return Dataset.open(location.place)
    named = [name for name in kind_names() if set(find_kind(name).samples) <= set(location.columns)]
    return RaySource.open(location, named[0] if named else find_kind(kind).modality)


def recorded_training_data(data: DataConfig, kind: str) -> TrainingData:
    """The data of a run that was checked: of a source of Ray's nothing is looked at, so that no worker needs its files or its module."""
    location = parse(data.train)
    if isinstance(location, Mixture):
        return MixedData.open(location, share=_share(data))
    return Dataset.open(location.place).part(_share(data)) if location.prepared else RaySource(location, kind, location.rows or 0)


def _share(data: DataConfig) -> Share | None:
    return None if data.fraction == 1 else Share(data.fraction, data.fraction_seed)
