"""Checks an experiment before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import HasFewestPoints, HasSmallestImage, Method, NeedsColumns, Views
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.checkpoints.retention import check_best
from sightline.platform.cluster.demand import check_here
from sightline.platform.cluster.resources import local_plan
from sightline.platform.config.location import Location, Mixture, parse, parse_one
from sightline.platform.core.paths import absolute
from sightline.platform.core.ray_checks import check_ray, names_cluster
from sightline.platform.core.ray_init import start_ray
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.loader.mixed_plan import plan_of
from sightline.platform.data.materialize import materialize
from sightline.platform.data.mixed_data import MixedData
from sightline.platform.data.ray_source import RaySource
from sightline.platform.data.training_data import TrainingData, absolute_source, open_measured, open_one, open_training_data, sets_of
from sightline.platform.tracking.client import tracking_uri
from sightline.platform.tracking.names import check_names

LABELS = ("label",)
PROBE_ROWS = 5000
"""Rows of a training source that are kept for the probes, which learn from no more images."""


def check(
    experiment: config.Experiment, look: bool = True, say: Callable[[str], None] = lambda text: None
) -> tuple[config.Experiment, TrainingData]:
    """The experiment with absolute data paths, and its training data. Raises `CallError` or `SightlineError` where it cannot run.

    `look`: at the first rows of a source that Ray Data reads, and keep the rows of one that is measured on, which starts Ray; `say` tells.
    """
    data = {name: absolute_source(value) for name, value in (("train", experiment.data.train), ("val", experiment.data.val)) if value}
    probe = {name: tuple(absolute_source(place) for place in getattr(experiment.probe, name)) for name in ("train", "test")}
    sections: dict[str, Any] = {"data": experiment.data.model_copy(update=data), "probe": experiment.probe.model_copy(update=probe)}
    if experiment.train.storage is not None:
        from sightline.platform.checkpoints.remote import check as check_storage

        check_storage(experiment.train.storage)
        sections["train"] = experiment.train.model_copy(update={"storage": absolute(experiment.train.storage)})
    experiment = experiment.model_copy(update=sections)
    if experiment.data.train is None:
        raise CallError("data.train is not set", "give a data set made by `sightline prepare`: data.train=FOLDER")
    method = find_method(experiment.method)
    dataset = open_training_data(experiment.data, method.kind)
    if isinstance(dataset, RaySource):
        experiment = _check_source(experiment, dataset)
    else:
        for name, one in sets_of(dataset).items():
            _check_data(experiment, one, f"{name} of data.train" if name else "data.train")
        if isinstance(dataset, MixedData) and experiment.teacher_cache.variants:
            raise CallError(
                "teacher_cache.variants: a cache is made of one data set, and data.train names several",
                "leave it out, or make one of them: sightline prepare merge FOLDER OTHER --out DIR",
            )
        plan_of(experiment, dataset)
    if experiment.data.val is not None and isinstance(val := open_one(experiment.data.val, method.kind), Dataset):
        _check_data(experiment, val, "data.val")
    _check_kept_by_probe(experiment)
    for place in (*experiment.probe.train, *experiment.probe.test):
        open_measured(place, method.kind)
    if not names_cluster():
        check_here(experiment.train)
        local_plan(experiment)
    check_ray()
    check_best(experiment)
    tracking_uri(experiment)
    check_names(experiment.log)
    if look and isinstance(dataset, RaySource):
        start_ray()
        dataset.look(method.views(experiment.method_config))
    return (keep_sources(experiment, say) if look else experiment), dataset


def keep_sources(experiment: config.Experiment, say: Callable[[str], None] = lambda text: None, train: bool = False) -> config.Experiment:
    """The experiment with a prepared data set in place of each source that Ray Data reads and that is measured on again and again:
    `data.val`, the data of probes, and with `train` also `data.train`. Starts Ray where a source needs it. Raises `SightlineError`.
    """
    if not train:
        experiment = _probed_by_its_labels(experiment)
    method, probe = find_method(experiment.method), experiment.probe
    views = method.views(experiment.method_config)
    places = (experiment.data.val, *probe.train, *probe.test, *([experiment.data.train] if train else []))
    if all(parse(place).prepared for place in places if place):
        return experiment

    def keep(name: str, data: Dataset | RaySource, needed: Sequence[str], classes: Sequence[str] = (), shuffle: bool = False) -> Dataset:
        if isinstance(data, Dataset):
            return data
        if data.needs_ray:
            start_ray()
        limit, storage = experiment.data.max_broken, experiment.train.storage
        return materialize(data, name, needed=needed, classes=classes, shuffle=shuffle, max_broken=limit, storage=storage, say=say)

    needed = views.columns if isinstance(views, NeedsColumns) else ()
    data: dict[str, str] = {}
    classes: tuple[str, ...] = ()
    if experiment.data.train and (train or parse(experiment.data.train).prepared):
        learned = open_training_data(experiment.data, method.kind)
        if isinstance(learned, RaySource):
            learned = keep("data.train", learned, needed, shuffle=True)
            _check_data(experiment, learned, "data.train")
            data["train"] = learned.uri
        named = {one.manifest.classes for one in sets_of(learned).values()}
        classes = named.pop() if len(named) == 1 else ()
    val: Dataset | None = None
    if not all(parse(place).prepared for place in (*probe.train, *probe.test)):
        found = [open_measured(place, method.kind) for place in probe.test]
        known = [one.manifest.classes if isinstance(one, Dataset) else () for one in found]
        pairs = zip(probe.train, known, strict=False)
        heads = [keep("probe.train", open_measured(place, method.kind), LABELS, own) for place, own in pairs]
        names = [one.manifest.classes for one in heads] or [classes]
        tests = [keep("probe.test", one, LABELS, own) for one, own in zip(found, names, strict=False)]
        classes = classes or names[0]
        if not needed and experiment.data.val in probe.test:
            val = tests[probe.test.index(experiment.data.val)]
        probe = probe.model_copy(update={"train": tuple(one.uri for one in heads), "test": tuple(one.uri for one in tests)})
    if experiment.data.val is not None and not parse(experiment.data.val).prepared:
        val = val or keep("data.val", open_one(experiment.data.val, method.kind), needed, classes)
        _check_data(experiment, val, "data.val")
        data["val"] = val.uri
    return experiment.model_copy(update={"data": experiment.data.model_copy(update=data), "probe": probe})


def _names_labels(location: Location, kind: str) -> bool:
    """Whether a source that Ray Data reads names a column of labels, in data of a kind that has them."""
    return not location.prepared and "label" in location.columns and find_kind(kind).column("label") is not None


def _probed_by_its_labels(experiment: config.Experiment) -> config.Experiment:
    """The experiment with probes that learn from the rows of `data.train`, where that is a source of Ray's that names a column of labels.

    Training uses no labels, so a person who names them means the probes. `data.val` must have labels, too.
    """
    learned, tested = parse(experiment.data.train or ""), experiment.data.val
    if experiment.probe.train or experiment.probe.test or tested is None or isinstance(learned, Mixture):
        return experiment
    if not _names_labels(learned, find_method(experiment.method).kind):
        return experiment
    place = parse_one(tested)
    if "label" not in (Dataset.open(tested).manifest.columns if place.prepared else place.columns):
        return experiment
    few = str(replace(learned, rows=min(learned.rows or PROBE_ROWS, PROBE_ROWS)))
    return experiment.model_copy(update={"probe": experiment.probe.model_copy(update={"train": (few,), "test": (tested,)})})


def _check_kept_by_probe(experiment: config.Experiment) -> None:
    """Raise `CallError` where `train.keep_best` names a probe that is not measured during training."""
    best = experiment.train.keep_best
    if best is None or not best.metric.startswith("probe/"):
        return
    name = best.metric.split("/")[1]
    if experiment.probe.every is None:
        raise CallError(f"train.keep_best = {best}: probes are measured at the end only", "set how often during training: probe.every=N")
    if name not in experiment.probe.during:
        raise CallError(
            f"train.keep_best = {best}: probe {name!r} is not measured during training, only {', '.join(experiment.probe.during)}",
            f"add it: probe.during='[{', '.join((*experiment.probe.during, name))}]'",
        )


def _check_source(experiment: config.Experiment, source: RaySource) -> config.Experiment:
    """The experiment with the rows of an epoch in `data.train`, so that a resume counts by them. Raises `CallError`."""
    if experiment.data.fraction < 1:
        raise CallError(
            f"data.fraction: {source.name} is ordered by Ray Data, and a share is drawn from prepared data",
            "prepare it first: sightline prepare --help",
        )
    if experiment.teacher_cache.variants:
        raise CallError(f"teacher_cache.variants: a cache keeps rows by their place, and {source.name} has none", "leave it out")
    if source.rows and source.rows < experiment.batch.size:
        raise CallError(
            f"{source.name} has {source.rows:,} rows, one batch needs {experiment.batch.size:,}",
            f"set batch.size={source.rows} or less, or add data",
        )
    if not source.rows and (epochs := experiment.in_epochs):
        raise CallError(
            f"how many rows {source.name} has is not known, and these settings count epochs: {', '.join(epochs)}",
            f"say it: {'&' if source.location.columns else '?'}rows=N behind the source, or give these settings in steps or samples",
        )
    told = str(replace(source.location, rows=source.rows or None))
    return experiment.model_copy(update={"data": experiment.data.model_copy(update={"train": told})})


def check_columns(method: Method, views: Views, dataset: Dataset, name: str) -> None:
    """Raise `CallError` where the data set lacks a column that the views read."""
    needed = views.columns if isinstance(views, NeedsColumns) else ()
    lacking = [column for column in needed if column not in dataset.manifest.columns]
    if lacking:
        raise CallError(
            f"{name} has no column {lacking[0]!r}, which {method.id} needs; it has {', '.join(dataset.manifest.columns)}",
            f"prepare the data with it: see `sightline prepare {method.kind} --help`",
        )


def _check_data(experiment: config.Experiment, dataset: Dataset, name: str) -> None:
    """Raise `CallError` where the data set lacks columns, or its images or clouds are too small for the method's views."""
    method = find_method(experiment.method)
    views = method.views(experiment.method_config)
    check_columns(method, views, dataset, name)
    distinct = dataset.manifest.distinct or dataset.manifest.points
    least = views.least if isinstance(views, HasFewestPoints) else 0
    if distinct and distinct[1] < least:
        raise CallError(
            f"no cloud of {name} has enough points: at most {distinct[1]:,} in different places; {method.id} needs {least:,} here",
            f"prepare the data with --points {least} or more, or lower the setting (its groups are taken from the points)",
        )
    smallest = dataset.manifest.image_min
    height, width = views.smallest if isinstance(views, HasSmallestImage) else method.image_shape(experiment.method_config)
    if smallest is None or (smallest[0] >= height and smallest[1] >= width):
        return
    largest = dataset.manifest.image_max or smallest
    if largest[0] < height or largest[1] < width:
        raise CallError(
            f"no image of {name} can give a crop of {height} x {width} pixels: "
            f"the largest stored size is {largest[0]} x {largest[1]} (height x width)",
            f"prepare the data with --size {max(height, width)} or more, or set model.image_size to {min(largest)} or less "
            "(a multiple of the patch)",
        )
