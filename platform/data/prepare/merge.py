"""Merges data sets of one kind. Row groups are copied in a random order; nothing is decoded or encoded again."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import key, keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import Row
from sightline.platform.data.shard_stats import OFFSET
from sightline.platform.data.writer import SHARD_BYTES

from .found import ClassList, require_same_classes
from .items import Skip
from .job import Output
from .source import Request


@dataclass(frozen=True)
class CopiedRows:
    """The rows of one shard: these (data set, shard, row group)s. A fingerprint stands for the content of each data set."""

    uris: tuple[str, ...]
    fingerprints: tuple[str, ...]
    groups: tuple[tuple[int, int, int], ...]
    count: int

    def rows(self, skip: Skip) -> Iterator[Row]:
        datasets = [Dataset.open(uri) for uri in self.uris]
        for dataset, fingerprint in zip(datasets, self.fingerprints, strict=True):
            if dataset.fingerprint != fingerprint:
                raise CallError(f"{dataset.uri} changed while it was merged", "run the same command again with --overwrite")
        for which, shard, group in self.groups:
            offsets = datasets[which].manifest.offsets
            for row in datasets[which].read(shard, group).to_pylist():
                yield {**row, OFFSET: offsets.get(row["id"])} if offsets else row


def merge_output(request: Request) -> tuple[str, Output]:
    """(the kind, the data set to be) of the data sets that `request` names."""
    datasets = [Dataset.open(uri) for uri in request.places]
    sources = tuple(dict.fromkeys(source for dataset in datasets for source in dataset.manifest.provenance.sources))
    shards, classes = merged(datasets, request.seed), merged_classes(datasets)
    output = Output(request.folder(), shards, sources, classes=classes.names, ignore_index=classes.ignore_index, palette=classes.palette)
    return datasets[0].kind, output


def merged_classes(datasets: Sequence[Dataset]) -> ClassList:
    """The classes of the union: those of every data set that has any. Raises `CallError` naming the first difference."""
    labelled = [dataset for dataset in datasets if dataset.manifest.classes]
    manifests = [dataset.manifest for dataset in labelled]
    lists = [ClassList(one.classes, one.ignore_index, one.palette) for one in manifests]
    for dataset, classes in zip(labelled, lists, strict=True):
        require_same_classes(lists[0], labelled[0].uri, classes, dataset.uri)
    return lists[0] if lists else ClassList()


def merged(datasets: Sequence[Dataset], seed: int) -> list[CopiedRows]:
    """The shards of the union. Raises `CallError` where kinds differ or a scene name (or, without scenes, an id) occurs twice."""
    kinds = {dataset.kind for dataset in datasets}
    if len(kinds) > 1:
        raise CallError(f"data sets of different kinds cannot be merged: {', '.join(sorted(kinds))}", "name data sets of one kind")
    seen: dict[str, str] = {}
    for dataset in datasets:
        for scene in dataset.manifest.scenes:
            if scene in seen:
                raise CallError(
                    f"scene {scene!r} is both in {seen[scene]} and in {dataset.uri}: rows or scenes would be counted twice",
                    "prepare one of them again with another --name",
                )
            seen[scene] = dataset.uri
    _refuse_twice([dataset for dataset in datasets if not dataset.manifest.scenes])
    groups = [(which, *group) for which, dataset in enumerate(datasets) for group in dataset.row_groups]
    order = keyed_rng("merge", seed).permutation(len(groups))
    weight = sum(shard.bytes for dataset in datasets for shard in dataset.manifest.shards) / sum(dataset.rows for dataset in datasets)
    uris, prints = tuple(dataset.uri for dataset in datasets), tuple(dataset.fingerprint for dataset in datasets)
    shards: list[CopiedRows] = []
    chosen: list[tuple[int, int, int]] = []
    rows = 0
    for place in order:
        which, shard, group, count = groups[place]
        chosen.append((which, shard, group))
        rows += count
        if rows * weight >= SHARD_BYTES:
            shards.append(CopiedRows(uris, prints, tuple(chosen), rows))
            chosen, rows = [], 0
    return [*shards, CopiedRows(uris, prints, tuple(chosen), rows)] if chosen else shards


def _refuse_twice(datasets: Sequence[Dataset]) -> None:
    """Raise `CallError` where an id occurs twice; rows without scenes have only their ids. 8 bytes of each are held."""
    numbers = array("Q")
    for _, name in _ids(datasets):
        numbers.append(key(name))
    sorted_numbers = np.sort(np.asarray(numbers))
    often = set(sorted_numbers[1:][np.diff(sorted_numbers) == 0].tolist())
    seen: dict[str, str] = {}
    for uri, name in _ids(datasets) if often else ():
        if name in seen:
            raise CallError(f"row {name!r} is both in {seen[name]} and in {uri}", "prepare one of them again with another --name")
        if key(name) in often:
            seen[name] = uri


def _ids(datasets: Sequence[Dataset]) -> Iterator[tuple[str, str]]:
    """(data set, id) of every row."""
    for dataset in datasets:
        for table in dataset.scan(["id"]):
            yield from ((dataset.uri, name) for name in table["id"].to_pylist())
