"""The training data of a run, and the stream of microbatches that one rank trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sightline.methods import collective
from sightline.methods.catalog import find_method
from sightline.methods.contract import Stage, Views
from sightline.methods.errors import SightlineError
from sightline.methods.optim import Clock
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.cache import Cache
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Stream

from .job import TrainJob
from .stage import stage_maker


@dataclass(frozen=True)
class TrainInputs:
    job: TrainJob
    dataset: Dataset
    plan: Plan
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
        dataset = Dataset.open(experiment.data.train)
        if dataset.fingerprint != job.fingerprint:
            raise SightlineError(
                f"the data set {experiment.data.train} is not the one this run began with "
                f"(fingerprint {dataset.fingerprint[:12]}, not {job.fingerprint[:12]})",
                "point the run at the original data, or start a new run",
            )
        batch = experiment.batch
        return cls(
            job=job,
            dataset=dataset,
            plan=Plan(tuple(dataset.row_groups), experiment.train.seed, batch.size, batch.microbatch, experiment.data.block),
            clock=experiment.clock(dataset.rows),
            views=find_method(experiment.method).views(experiment.method_config),
            make_stage=stage_maker(experiment, job.folder),
            cache=_cache(job.teacher_cache, dataset),
        )

    def stream(self, first: int) -> Stream:
        """This rank's microbatches from step `first` to the last one."""
        experiment = self.job.experiment
        share = experiment.batch.microbatches // collective.world_size()
        return Stream(
            self.dataset,
            self.views,
            self.plan,
            range(collective.rank() * share, (collective.rank() + 1) * share),
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


def _cache(uri: str | None, dataset: Dataset) -> Cache | None:
    if uri is None:
        return None
    cache = Cache.find(uri, tuple(dataset.row_groups))
    if cache is None:
        raise SightlineError(f"there is no finished cache in {uri}", "`sightline resume` makes it again")
    return cache
