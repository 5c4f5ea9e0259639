"""The training data of a run, and the stream of microbatches that one rank trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sightline.methods import collective
from sightline.methods.catalog import find_method
from sightline.methods.contract import Stage, Views
from sightline.methods.errors import SightlineError
from sightline.methods.optim import Clock
from sightline.platform.config.location import Mixture, parse
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.cache import Cache
from sightline.platform.data.loader.mixed_plan import MixedPlan, plan_of
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.ray_stream import Batches, RayStream, samples_dataset
from sightline.platform.data.loader.stream import Stream, StreamResources
from sightline.platform.data.ray_source import RaySource
from sightline.platform.data.training_data import TrainingData, recorded_training_data

from .job import TrainJob
from .stage import stage_maker

if TYPE_CHECKING:
    import ray.data

TRAIN = "train"
"""Ray Train's name of the dataset that is dealt to the workers."""


@dataclass(frozen=True)
class TrainInputs:
    job: TrainJob
    dataset: TrainingData
    plan: Plan | MixedPlan | None
    """The order of the samples; None where Ray Data orders them."""
    clock: Clock
    views: Views
    make_stage: Callable[[], Stage] | None
    cache: Cache | None
    """The finished teacher cache, where the job names one."""

    @classmethod
    def open(cls, job: TrainJob) -> TrainInputs:
        """Raises `SightlineError` where the data are not those that the run began with, or its teacher cache is gone."""
        experiment = job.experiment
        if experiment.data.train is None:
            raise SightlineError("data.train is not set", "give a data set: data.train=FOLDER")
        method = find_method(experiment.method)
        dataset = recorded_training_data(experiment.data, method.kind)
        if dataset.fingerprint != job.fingerprint:
            raise SightlineError(
                f"the data set {experiment.data.train} is not the one this run began with "
                f"(fingerprint {dataset.fingerprint[:12]}, not {job.fingerprint[:12]})",
                "point the run at the original data, or start a new run",
            )
        return cls(
            job=job,
            dataset=dataset,
            plan=None if isinstance(dataset, RaySource) else plan_of(experiment, dataset),
            clock=experiment.clock(dataset.rows),
            views=method.views(experiment.method_config),
            make_stage=stage_maker(experiment, job.folder),
            cache=_cache(job.teacher_cache, dataset) if isinstance(dataset, Dataset) else None,
        )

    def stream(self, first: int) -> Stream | RayStream:
        """This rank's microbatches from step `first` to the last one. A source that Ray Data orders is read from its beginning."""
        experiment = self.job.experiment
        share = experiment.batch.microbatches // collective.world_size()
        slots = range(collective.rank() * share, (collective.rank() + 1) * share)
        if isinstance(self.dataset, RaySource):
            return RayStream(
                self.dataset,
                _share_of_rank(self.job),
                slots,
                first,
                self.clock.steps,
                experiment.batch.size,
                experiment.batch.microbatch,
                experiment.data.max_broken,
                collective.world_size(),
            )
        assert self.plan is not None
        return Stream(
            self.dataset,
            self.views,
            self.plan,
            slots,
            first,
            self.clock.steps,
            experiment.train.seed,
            self.job.stream,
            experiment.data.max_broken,
            self.make_stage,
            experiment.teacher_cache.variants,
            self.cache,
            f"{self.job.folder.name}-train-rank{collective.rank()}",
        )


def ray_datasets(job: TrainJob, resources: StreamResources) -> dict[str, ray.data.Dataset]:
    """The samples that Ray Data makes and deals to the ranks; none for a prepared data set, of which each rank reads its own part.

    Needs a connection to Ray. Raises `SightlineError` for a source that will not do.
    """
    experiment = job.experiment
    location, method = parse(experiment.data.train), find_method(experiment.method)
    if isinstance(location, Mixture) or location.prepared:
        return {}
    source, views = RaySource.open(location, method.kind), method.views(experiment.method_config)
    made = samples_dataset(source, views, resources, stage_maker(experiment, job.folder))
    made.set_name(f"{job.folder.name}-{TRAIN}")
    return {TRAIN: made}


def _share_of_rank(job: TrainJob) -> Batches:
    """What Ray Train deals to this rank; without workers, all of it."""
    if job.stream is not None:
        from ray.train import get_dataset_shard

        dealt: Batches = get_dataset_shard(TRAIN)
        return dealt
    from sightline.platform.core.ray_init import start_ray

    start_ray()
    whole: Batches = ray_datasets(job, StreamResources())[TRAIN].iterator()
    return whole


def _cache(uri: str | None, dataset: Dataset) -> Cache | None:
    if uri is None:
        return None
    cache = Cache.find(uri, tuple(dataset.row_groups))
    if cache is None:
        raise SightlineError(f"there is no finished cache in {uri}", "`sightline resume` makes it again")
    return cache
