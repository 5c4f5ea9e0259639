"""The teacher cache of a run (`teacher_cache.variants`): made before training, and shared by all runs with the same key.

The key depends on everything that changes what the trainer gets, and on nothing else: the data set's fingerprint, the method and those of
its settings that views and stage read, the teachers' weights, the seed and the number of variants.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.platform.config import Experiment
from sightline.platform.core.filesystem import exists, is_local, open_place, read_bytes, write_bytes
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.paths import absolute, home
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.blocks import Made, staged
from sightline.platform.data.loader.cache import (
    VERSION,
    Cache,
    CacheShard,
    how_to_rebuild,
    key_of,
    load_part,
    part_name,
    parts,
    write_cache_manifest,
    write_part,
)
from sightline.platform.data.loader.stream import StreamResources, run_blocks
from sightline.platform.data.shards import ShardFolder
from sightline.platform.data.training_data import recorded_training_data

if TYPE_CHECKING:
    from sightline.methods.contract import Stage
    from sightline.platform.weights.format import Weights

STAGING = ".staging"
"""Folder inside an unfinished cache, with a record for each finished file."""
PROBED = 64
"""Rows that are tried, until one is usable, to measure a sample."""
Progress = Callable[[int, int], None]
"""(samples done, samples in all)."""


def ingredients(experiment: Experiment, dataset: Dataset, encoders: Mapping[str, Weights]) -> dict[str, Any]:
    """What the key of the experiment's cache is computed from. `encoders`: the teachers by setting, as `resolve_teachers` gives them."""
    method = find_method(experiment.method)
    settings = {key: value for key, value in method.stage_settings(experiment.method_config).items() if key not in encoders}
    return {
        "version": VERSION,
        "data": dataset.fingerprint,
        "method": experiment.method,
        "settings": settings,
        "encoders": {key: {"sha256": one.sha256, "method": one.method, **one.sections} for key, one in encoders.items()},
        "seed": experiment.train.seed,
        "variants": experiment.teacher_cache.variants,
    }


def folder_of(experiment: Experiment, key: str) -> str:
    """The folder of the cache with this key."""
    parent = experiment.teacher_cache.folder
    return f"{absolute(parent) if parent else home() / 'teacher-cache'}/{key[:16]}"


@dataclass(frozen=True)
class Cost:
    """What a cache costs. `seconds`: of one process of this machine, for views and stage of all samples."""

    samples: int
    sample_bytes: int
    seconds: float

    @property
    def bytes(self) -> int:
        return self.samples * self.sample_bytes

    def describe(self) -> str:
        return f"{self.samples:,} samples x {self.sample_bytes / 1e3:,.1f} kB = {size(self.bytes)}"


def cost(samples: Made, stage: Stage) -> Cost:
    """Measured on one sample of the data set. Raises `SightlineError` where none of the first ones is usable."""
    dataset = samples.dataset
    for part in parts(tuple(dataset.row_groups), 1):
        sample = samples(part)
        for row in range(min(PROBED, part.rows)):
            with contextlib.suppress(BrokenSampleError):
                seconds = 0.0
                for _ in range(2):  # the first call warms up
                    start = time.perf_counter()
                    made = staged({name: value[None] for name, value in sample(row, 0)[1].items()}, stage)
                    seconds = time.perf_counter() - start
                count = dataset.rows * samples.variants
                return Cost(count, sum(value.nbytes for value in made.values()), seconds * count)
    raise SightlineError(f"no usable sample in {dataset.uri}", "look at the data with `sightline inspect DATASET`")


def estimate_cache(experiment: Experiment, dataset: Dataset, tracking_uri: str | None = None) -> Cost | str:
    """What the cache of a run that is not created yet will cost, or a sentence that says where there is one already."""
    from sightline.platform.models.resolve import resolve_teachers

    method = find_method(experiment.method)
    experiment, found = resolve_teachers(experiment, tracking_uri)
    key = key_of(ingredients(experiment, dataset, found))
    uri = folder_of(experiment, key)
    if cache := Cache.find(uri, tuple(dataset.row_groups)):
        return f"{size(cache.bytes)} in {uri}, made before"
    assert method.stage is not None
    live = BuildContext(seed=experiment.train.seed, teachers={name: weights.encoder() for name, weights in found.items()})
    samples = Made(dataset, method.views(experiment.method_config), experiment.train.seed, experiment.teacher_cache.variants)
    return cost(samples, method.stage(experiment.method_config, live))


def build(
    uri: str,
    made_of: Mapping[str, Any],
    samples: Made,
    make_stage: Callable[[], Stage],
    resources: StreamResources | None,
    progress: Progress = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> Cache:
    """The cache in `uri`, made where there is none. Finished files of an earlier start are kept if they verify.

    Raises `SightlineError` where a cache there is damaged or has another key, and where the disk is too small. A kill loses the files that
    are being written.
    """
    row_groups = tuple(samples.dataset.row_groups)
    with _lock(uri):
        if cache := Cache.find(uri, row_groups):
            if cache.manifest.key != key_of(made_of):
                raise SightlineError(f"the cache in {uri} has another key: {cache.manifest.key[:16]}", how_to_rebuild(uri))
            say(f"teacher cache: {size(cache.bytes)} in {uri}, made before")
            return cache
        wanted = parts(row_groups, samples.variants)
        kept = {part_name(part): one for part in wanted if (one := _kept(uri, part_name(part)))}
        missing = [part for part in wanted if part_name(part) not in kept]
        done, total = sum(one.shard.rows for one in kept.values()), sum(part.rows for part in wanted)
        if missing:
            whole = cost(samples, make_stage())
            _check_space(uri, whole.sample_bytes * (total - done))
            say(f"teacher cache: making {whole.describe()} in {uri}" + (f"; {done:,} samples are there already" if done else ""))
        progress(done, total)
        system, path = open_place(uri)
        system.create_dir(f"{path}/{STAGING}", recursive=True)
        load = partial(load_part, samples=samples)
        made = run_blocks(iter(missing), load, make_stage, resources, f"teacher-cache-{Path(path).name}")
        try:
            for part, columns in zip(missing, made, strict=True):
                one = kept[part_name(part)] = write_part(uri, part, columns)
                write_bytes(system, _record(path, one.shard.name), one.model_dump_json().encode())
                done += part.rows
                progress(done, total)
        except OSError as error:
            raise SightlineError(f"cannot write the cache in {uri}: {error}", "make room; the finished files are kept") from None
        finally:
            made.close()  # type: ignore[attr-defined]  # a generator: stops the pipeline behind it
        write_cache_manifest(uri, made_of, samples.variants, [kept[part_name(part)] for part in wanted])
        system.delete_dir(f"{path}/{STAGING}")
        cache = Cache(uri, row_groups)
        say(f"teacher cache: {size(cache.bytes)} in {uri}" + (f", {cache.manifest.broken} broken samples" if cache.manifest.broken else ""))
        return cache


def cache_of_run(
    experiment: Experiment, folder: Path, resources: StreamResources | None, progress: Progress, say: Callable[[str], None]
) -> Cache:
    """The cache of a run whose teachers are pinned in its `folder`."""
    from sightline.platform.runs.pinned import kept_teachers
    from sightline.platform.training.stage import make_stage

    method = find_method(experiment.method)
    dataset = recorded_training_data(experiment.data, method.kind)
    assert isinstance(dataset, Dataset)  # `preflight.check` refuses others
    made_of = ingredients(experiment, dataset, kept_teachers(experiment, folder))
    samples = Made(dataset, method.views(experiment.method_config), experiment.train.seed, experiment.teacher_cache.variants)
    return build(
        folder_of(experiment, key_of(made_of)), made_of, samples, partial(make_stage, experiment, folder), resources, progress, say
    )


def _kept(uri: str, name: str) -> CacheShard | None:
    """A file that an earlier start finished, if it verifies."""
    system, path = open_place(uri)
    if not exists(system, _record(path, name)):
        return None
    try:
        one = CacheShard.model_validate_json(read_bytes(system, _record(path, name)))
        ShardFolder(uri, (one.shard,), how_to_rebuild(uri)).verify()
    except (SightlineError, ValueError):
        return None
    return one


def _record(path: str, name: str) -> str:
    return f"{path}/{STAGING}/{name}.json"


def _check_space(uri: str, needed: int) -> None:
    system, path = open_place(uri)
    if not is_local(system):
        return
    free = shutil.disk_usage(path).free
    if free < needed * 1.01 + 2**20:
        raise SightlineError(
            f"the teacher cache needs {size(needed)} in {uri}, where {size(free)} are free",
            "make room, name another place with teacher_cache.folder=FOLDER, or lower teacher_cache.variants",
        )


@contextlib.contextmanager
def _lock(uri: str) -> Iterator[None]:
    """Of the runs on this machine one makes the cache; the others wait for it."""
    system, path = open_place(uri)
    try:
        system.create_dir(path, recursive=True)
    except OSError as error:
        raise CallError(f"cannot make the folder {uri}: {error}", "name another place with teacher_cache.folder=FOLDER") from None
    if not is_local(system):
        yield
        return
    with exclusive_lock(Path(path) / ".lock", f"the cache in {uri} is being made"):
        yield


def size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
