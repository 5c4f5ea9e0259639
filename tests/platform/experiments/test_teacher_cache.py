"""The teacher cache: the same bits as without it, one key for one content, kept over kills, never trusted when damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from toy_clouds import SETTINGS, write_clouds, write_teacher

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError, SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader import cache
from sightline.platform.data.loader.cache import Cache
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Microbatch, Stream, StreamResources
from sightline.platform.experiments import teacher_cache
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.estimate import estimate_cost
from sightline.platform.runs.events import RunEvent, TeacherCacheNote, TrainingStarted
from sightline.platform.runs.pinned import kept_teachers
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train
from sightline.platform.training.stage import stage_maker

Place = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Settings that name 70 clouds, two of them broken, and a teacher."""
    root = tmp_path_factory.mktemp("clouds")
    data, teacher = write_clouds(root / "data", 70, broken=(3, 40)), write_teacher(root / "teacher.safetensors")
    return {"data.train": str(data), "model.teacher": str(teacher), "data.max_broken": 0.2, "teacher_cache.variants": 2}


@pytest.fixture
def make(home: Path, place: Place) -> Callable[..., Run]:
    def make(name: str, **overrides: Any) -> Run:
        experiment = config.load("toy", {**place, **overrides}, settings=SETTINGS)
        return create_run(name, experiment, Dataset.open(str(experiment.data.train)).fingerprint, "test", "")

    return make


def build(run: Run, resources: StreamResources | None = None, said: list[str] | None = None, stop_after: int | None = None) -> Cache:
    """The run's cache; `stop_after`: a kill when so many samples are there."""

    def progress(done: int, total: int) -> None:
        if stop_after is not None and done >= stop_after:
            raise KeyboardInterrupt

    say = (lambda text: None) if said is None else said.append
    return teacher_cache.cache_of_run(run.experiment, run.folder, resources, progress, say)


def groups(run: Run, cache: Cache | None, first: int = 0, steps: int = 14, slots: Any = range(2), **more: Any) -> list[Microbatch]:
    """14 steps of 12 samples are more than two epochs of 70."""
    experiment = run.experiment
    dataset = Dataset.open(str(experiment.data.train))
    plan = Plan(tuple(dataset.row_groups), 0, 12, 6, block_rows=16)
    views, variants = find_method(experiment.method).views(experiment.method_config), experiment.teacher_cache.variants
    stage = stage_maker(experiment, run.folder)
    stream = Stream(dataset, views, plan, slots, first, steps, 0, max_broken=0.2, make_stage=stage, variants=variants, cache=cache, **more)
    return [group for step in stream for group in step]


def same(one: list[Microbatch], two: list[Microbatch]) -> bool:
    def bits(group: Microbatch) -> Any:
        arrays = {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in group.arrays.items()}
        return group.step, group.slot, group.ids, group.broken, arrays

    return len(one) == len(two) and all(bits(a) == bits(b) for a, b in zip(one, two, strict=True))


# The same bits ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cached_and_live_agree_bit_for_bit_over_two_epochs_with_broken_samples(make: Callable[..., Run]) -> None:
    run = make("run")
    live, cached = groups(run, None), groups(run, build(run))
    assert {"points", "features", "saliency"} == set(live[0].arrays) and live[0].arrays["features"].dtype == np.float16
    assert {reason.partition(":")[0] for group in live for reason in group.broken} == {"0003", "0040"}
    assert same(live, cached)
    assert same(groups(run, build(run), first=5), live[2 * 5 :]), "from the middle of an epoch"
    assert same(groups(run, build(run), slots=[1]), live[1::2]), "one of two workers"


@pytest.mark.slow
def test_a_row_has_so_many_draws_and_no_more(make: Callable[..., Run]) -> None:
    run = make("run", **{"teacher_cache.variants": 2})
    seen: dict[str, list[bytes]] = {}
    for group in groups(run, None, steps=30):
        for name, points in zip(group.ids, group.arrays["points"], strict=True):
            seen.setdefault(name, []).append(points.tobytes())
    assert len(seen) == 68 and all(len(set(draws)) == 2 for draws in seen.values() if len(draws) > 4)


def test_without_variants_a_draw_belongs_to_its_position(make: Callable[..., Run]) -> None:
    """As it was before there was a cache."""
    from sightline.methods.random import sample_rng
    from sightline.platform.data.schema import decode_row

    run = make("run", **{"teacher_cache.variants": 0})
    dataset = Dataset.open(str(run.experiment.data.train))
    views = find_method("i2p_mae").views(run.experiment.method_config)
    rows = {row["id"]: row for table in dataset.scan() for row in table.to_pylist()}
    for group in groups(run, None, first=9):
        for i, name in enumerate(group.ids):
            made = views(decode_row(rows[name], "points"), sample_rng(0, group.step * 12 + group.slot * 6 + i))
            assert np.array_equal(made["points"], group.arrays["points"][i])


@pytest.mark.slow
def test_a_run_with_its_cache_has_the_losses_of_one_without(make: Callable[..., Run]) -> None:
    def losses(run: Run, cache: Cache | None, stop_after: int | None = None) -> list[float]:
        asked: list[None] = []

        def stop() -> bool:
            asked.append(None)
            return stop_after is not None and len(asked) >= stop_after

        job = TrainJob(run.experiment, run.folder, run.fingerprint, teacher_cache=cache and cache.uri)
        events: list[RunEvent] = []
        train(job, events.append, stop)
        run.append(events)
        return [figures["loss"] for figures in run.history().values()]

    live, cached = make("live"), make("cached")
    expected = losses(live, None)
    losses(cached, build(cached), stop_after=7)
    assert losses(cached, build(cached)) == expected and len(expected) == 16


@pytest.mark.slow
def test_ray_makes_and_reads_the_cache_that_this_process_makes(make: Callable[..., Run], ray_head: None, tmp_path: Path) -> None:
    run, other = make("run"), make("other", **{"teacher_cache.folder": str(tmp_path / "elsewhere")})
    there, here = build(run, StreamResources(0.4, 0.4, 1, 0.4)), build(other)
    assert there.uri != here.uri and there.manifest == here.manifest, "byte for byte, by their SHA-256"
    assert same(groups(run, there, resources=StreamResources(0.4, 0.4)), groups(run, None))


@pytest.mark.slow
def test_a_run_through_ray_makes_its_cache_first_and_reads_it_with_two_workers(make: Callable[..., Run], ray_head: None) -> None:
    from sightline.platform.experiments.train_run import train_on_ray

    alone, two = make("alone", **{"train.workers": 1}), make("two", **{"train.workers": 2})
    train(TrainJob(alone.experiment, alone.folder, alone.fingerprint), lambda event: None, lambda: False)
    events: list[RunEvent] = []
    train_on_ray(two, events.append)
    kinds = [type(event) for event in events]
    assert two.status == "trained" and kinds.index(TeacherCacheNote) < kinds.index(TrainingStarted)
    assert [event.text for event in two.events() if isinstance(event, TeacherCacheNote)][-1].endswith("4 broken samples")
    states = [checkpoint.newest(run.folder / "checkpoints") for run in (alone, two)]
    assert states[0] and states[1] and states[0].state.history == states[1].state.history


# The key ---------------------------------------------------------------------------------------------------------------------------


def key(run: Run) -> str:
    dataset = Dataset.open(str(run.experiment.data.train))
    return cache.key_of(teacher_cache.ingredients(run.experiment, dataset, kept_teachers(run.experiment, run.folder)))


@pytest.mark.slow
def test_the_key_changes_with_what_a_sample_is_made_of(make: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other_data, other_teacher = write_clouds(tmp_path / "data", 69), write_teacher(tmp_path / "other.safetensors", seed=1)
    changes: list[dict[str, Any]] = [
        {"data.train": str(other_data)},
        {"model.teacher": str(other_teacher)},
        {"model.points": 65},
        {"model.groups": [17, 12, 8]},
        {"pretext.views": 2},
        {"augment.scale": [0.5, 1.5]},
        {"augment.shift": 0.1},
        {"train.seed": 1},
        {"teacher_cache.variants": 3},
    ]
    keys = [key(make(f"run-{i}", **change)) for i, change in enumerate([{}, *changes])]
    monkeypatch.setattr(teacher_cache, "VERSION", 2)
    keys.append(key(make("version")))
    assert len(set(keys)) == len(keys)


def test_the_key_changes_with_nothing_else(make: Callable[..., Run], place: Place, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "teacher.safetensors").write_bytes(Path(place["model.teacher"]).read_bytes())
    for path in Path(place["data.train"]).iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    changes: list[dict[str, Any]] = [
        {"model.teacher": str(moved / "teacher.safetensors"), "data.train": str(moved)},
        {"pretext.mask_ratio": 0.5, "pretext.mask_temperature": 0.1, "loss.features": 2.0},
        {"model.dims": [24, 24, 48], "model.groups": [16, 10, 6]},
        {"batch.size": 24, "batch.microbatch": 12, "data.block": 7, "optim.lr": 1.0, "train.length": "3 steps", "train.threads": 2},
        {"teacher_cache.folder": str(tmp_path)},
    ]
    assert len({key(make(f"run-{i}", **change)) for i, change in enumerate([{}, *changes])}) == 1


def test_a_method_that_does_not_say_what_its_stage_reads_is_keyed_by_all_its_settings() -> None:
    from sightline.methods.contract import every_setting

    experiment = config.load("croco-tiny")
    told, flat = every_setting(experiment.method_config), experiment.flat()
    assert told and told == {name: value for name, value in flat.items() if name.partition(".")[0] in config.METHOD_SECTIONS}


def _watched(settings: BaseModel, name: str, seen: set[str]) -> Any:
    """The settings, noting what is read of them."""
    values = {key: getattr(settings, key) for key in type(settings).model_fields}
    inner = {key: _watched(value, f"{name}{key}.", seen) for key, value in values.items() if isinstance(value, BaseModel)}

    class Watched(type(settings)):  # type: ignore[misc]
        def __getattribute__(self, key: str) -> Any:
            if key in values and key not in inner:
                seen.add(name + key)
            return super().__getattribute__(key)

    watched = Watched.model_construct(**values | inner)
    seen.clear()
    return watched


def test_views_and_stage_read_no_setting_that_the_key_leaves_out(make: Callable[..., Run]) -> None:
    from sightline.methods.contract import BuildContext
    from sightline.platform.runs.pinned import load_teachers

    run, method, seen = make("run"), find_method("i2p_mae"), set[str]()
    settings = run.experiment.method_config
    watched = _watched(settings, "", seen)
    assert method.stage is not None
    stage = method.stage(watched, BuildContext(seed=0, teachers=load_teachers(run.experiment, run.folder)))
    made = method.views(watched)({"points": np.random.Generator(np.random.Philox(1)).normal(size=(80, 3))}, np.random.default_rng(0))
    stage({name: value[None] for name, value in made.items()})
    assert "augment.shift" in seen and "pretext.views" in seen
    added = {
        "splat": 3,
        "depth_value": "nearest",
        "teacher_input": "imagenet",
        "saliency": "attention",
        "teacher_level": -1,
    }  # in the key where they are not as ever
    task = settings.pretext.model_copy(update=added)  # type: ignore[attr-defined]
    assert seen <= {name.partition("[")[0] for name in method.stage_settings(settings.model_copy(update={"pretext": task}))}


# Made once, kept, found again ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many samples each call of a stage was given."""
    from sightline.methods.i2p_mae.stage import TeacherStage

    calls: list[int] = []
    real = TeacherStage.__call__

    def counted(self: Any, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(len(columns["points"]))
        return real(self, columns)

    monkeypatch.setattr(TeacherStage, "__call__", counted)
    yield calls


@pytest.mark.slow
def test_a_cache_is_made_once_and_found_by_every_run_of_its_key(make: Callable[..., Run], stages: list[int]) -> None:
    said: list[str] = []
    first = build(make("one"), said=said)
    made, size = sum(stages), sum(path.stat().st_size for path in Path(first.uri).glob("*.parquet"))
    assert made == 2 * 70 + 2, "every row in both variants, and one sample twice to foretell the size"
    assert "140 samples x 2.5 kB = 0.3 MB" in said[0] and "4 broken samples" in said[1] and first.bytes == size
    again = build(make("two", **{"pretext.mask_ratio": 0.5}), said=said)
    assert again == first and sum(stages) == made and "made before" in said[2]


@pytest.mark.slow
def test_a_build_that_was_killed_goes_on(make: Callable[..., Run], stages: list[int], home: Path, tmp_path: Path) -> None:
    run = make("run")
    with pytest.raises(KeyboardInterrupt):
        build(run, stop_after=70)
    (folder,) = (home / "teacher-cache").iterdir()
    whole = sorted(folder.glob("*.parquet"))
    assert len(whole) == 2 and not (folder / "manifest.json").exists()
    assert Cache.find(str(folder), ()) is None, "what is not finished is no cache"
    whole[1].write_bytes(whole[1].read_bytes()[:-1] + b"?")  # 6 rows
    stages.clear()
    cache = build(run)
    assert sum(stages) == 2 + 6 + 70, "a file that verifies is kept, one that does not is made anew"
    assert not (folder / ".staging").exists()
    assert cache.manifest == build(make("whole", **{"teacher_cache.folder": str(tmp_path)})).manifest


@pytest.mark.parametrize("harm", ["bits", "short", "gone", "manifest", "other"])
@pytest.mark.slow
def test_a_damaged_cache_is_refused_with_its_file_and_the_hint(harm: str, make: Callable[..., Run]) -> None:
    run = make("run")
    cache = build(run)
    folder = Path(cache.uri)
    victim = folder / ("manifest.json" if harm in ("manifest", "other") else "v001-s00000-g00000.parquet")
    data = victim.read_bytes()
    if harm == "gone":
        victim.unlink()
    elif harm == "other":
        victim.write_bytes(data.replace(b'"seed": 0', b'"seed": 1'))
    elif harm == "bits":
        middle = len(data) // 2
        victim.write_bytes(data[:middle] + bytes(byte ^ 255 for byte in data[middle : middle + 8]) + data[middle + 8 :])
    else:
        victim.write_bytes(data[: len(data) // 2])
    with pytest.raises(SightlineError, match=victim.name) as caught:
        groups(run, build(run))
    assert f"delete the folder {folder}" in caught.value.hint


def test_a_disk_that_is_too_small_is_told_before_the_start(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 10**5, 10**5))  # type: ignore[attr-defined]
    with pytest.raises(SightlineError, match=r"needs 0\.3 MB in .*, where 0\.1 MB are free") as caught:
        build(make("run"))
    assert "teacher_cache.folder" in caught.value.hint
    assert not list((home / "teacher-cache").rglob("*.parquet"))


@pytest.mark.slow
def test_a_row_group_without_a_usable_row_is_kept_as_such(make: Callable[..., Run], tmp_path: Path) -> None:
    data = write_clouds(tmp_path / "data", 70, broken=tuple(range(64, 70)))
    run = make("run", **{"data.train": str(data)})
    cache = build(run)
    assert cache.manifest.broken == 12
    strict = config.load(run.recipe, {"data.max_broken": 0.01}, settings=run.settings)
    with pytest.raises(SightlineError, match=r"6 of \d+ samples are broken"):
        train(
            TrainJob(strict, run.folder, run.fingerprint, teacher_cache=cache.uri),
            lambda event: None,
            lambda: False,
        )


# Settings --------------------------------------------------------------------------------------------------------------------------


def test_variants_without_a_teacher_are_refused(place: Place) -> None:
    with pytest.raises(CallError, match=r"teacher_cache.variants = 2: croco has no teacher"):
        config.load("croco-tiny", {"teacher_cache.variants": 2})
    alone = {"pretext.mask": "random", "loss.features": 0, "teacher_cache.variants": 2}
    with pytest.raises(CallError, match=r"i2p_mae has no teacher with these settings"):
        config.load("toy", alone, settings=SETTINGS)


def test_variants_belong_to_what_is_learned_and_their_place_does_not(place: Place) -> None:
    def told(**overrides: Any) -> str:
        return config.hashed_text(
            config.load("toy", {**place, **{f"teacher_cache.{k}": v for k, v in overrides.items()}}, settings=SETTINGS)
        )

    assert "teacher_cache" not in told(variants=0), "runs of before go on"
    assert len({told(variants=0), told(variants=2), told(variants=3)}) == 3
    assert told(variants=2) == told(variants=2, folder="/elsewhere")


@pytest.mark.slow
def test_a_dry_run_says_what_the_cache_costs(home: Path, place: Place, make: Callable[..., Run]) -> None:
    experiment = config.load("toy", place, settings=SETTINGS)
    told = dict(estimate_cost(experiment).lines())["teacher cache"]
    assert told.startswith("140 samples x 2.5 kB = 0.3 MB")
    cache = build(make("run"))
    assert dict(estimate_cost(experiment).lines())["teacher cache"] == f"0.4 MB in {cache.uri}, made before"
    plain = estimate_cost(config.load("toy", {**place, "teacher_cache.variants": 0}, settings=SETTINGS))
    assert "teacher cache" not in dict(plain.lines())
    assert "for the teacher" in plain.plan and "for the teacher" not in estimate_cost(experiment).plan
