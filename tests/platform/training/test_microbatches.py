"""A run is the same whatever number of workers carries it out: BatchNorm, group draws, whole-batch terms, a teacher. Real gloo ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import train_in_processes
from made import made_run
from toy import TOY_IMAGES, TOY_POINTS, write_images, write_points

from sightline.methods.catalog import find_method
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.events import ValidationDone
from sightline.platform.runs.record import Run

pytestmark = pytest.mark.slow
TOYS = {**TOY_IMAGES, "i2p_mae": TOY_POINTS}
METHODS = sorted(TOYS)
MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """By the kind of the method's toy."""
    root = tmp_path_factory.mktemp("data")
    writers = {"images": write_images, "points": write_points}
    return {
        kind: {"data.train": str(write(root / kind / "train", 90, 1)), "data.val": str(write(root / kind / "val", 20, 2))}
        for kind, write in writers.items()
    }


@pytest.fixture
def make(home: Path, data: dict[str, dict[str, str]]) -> MakeRun:
    """The runs of clouds learn from a 2-D teacher."""

    def run(method: str, name: str, **overrides: Any) -> Run:
        kind = find_method(method).kind
        if kind == "points":
            if not (home / "runs" / "teacher").exists():
                made_run("teacher")
            overrides = {"model.teacher": "teacher", **overrides}
        experiment = config.load("toy", {**data[kind], **overrides}, settings=copy.deepcopy(TOYS[method]))
        return create_run(name, experiment, Dataset.open(str(experiment.data.train)).fingerprint, "test", "")

    return run


def last(run: Run) -> checkpoint.Checkpoint:
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None
    return found


def steps_of(run: Run) -> int:
    return int(run.experiment.train.length.amount)


def figures(run: Run, kind: str) -> dict[tuple[int, str], float]:
    """(step, name) -> value of every loss and diagnostic."""
    if kind == "train":
        return {(step, name): value for step, values in run.history().items() for name, value in values.items()}
    return {(e.step, name): value for e in run.events() if isinstance(e, ValidationDone) for name, value in e.losses.items()}


@pytest.mark.parametrize("method", METHODS)
def test_one_and_two_and_three_workers_give_the_same_losses(method: str, make: MakeRun) -> None:
    runs = {world: make(method, f"{method}-{world}", **{"train.workers": world}) for world in (1, 2, 3)}
    for world, run in runs.items():
        train_in_processes(run, world)
    one = runs[1]
    assert len(one.history()) == steps_of(one)
    for world in (2, 3):
        other = runs[world]
        assert last(other).state.history == last(one).state.history
        for kind in ("train", "validation"):
            expected, found = figures(one, kind), figures(other, kind)
            assert expected.keys() == found.keys() and len(expected) > 3
            for key, value in expected.items():
                assert found[key] == pytest.approx(value, abs=1e-4, rel=1e-4), (world, kind, key)
        ours, theirs = last(one).tensors("model"), last(other).tensors("model")
        # Running statistics follow group 0 wherever it is. Weights are not compared: where a gradient is zero (ConMIM's last norm has a
        # bias that BatchNorm removes), AdamW turns rounding into steps of full size.
        for name in (n for n in ours if "running_" in n or "num_batches" in n):
            assert torch.allclose(theirs[name].float(), ours[name].float(), atol=1e-3, rtol=1e-3), (world, name)


@pytest.mark.parametrize("method", METHODS)
def test_the_size_of_a_microbatch_matters_so_the_comparison_is_not_empty(method: str, make: MakeRun) -> None:
    groups = [make(method, f"{method}-g{size}", **{"batch.microbatch": size, "train.length": "2 steps"}) for size in (2, 6)]
    for run in groups:
        train_in_processes(run, 1)
    first, second = (figures(run, "train") for run in groups)
    assert any(abs(first[key] - second[key]) > 1e-3 for key in first)


@pytest.mark.parametrize("method", ["conmim", *(pytest.param(name, marks=pytest.mark.long) for name in METHODS if name != "conmim")])
def test_two_workers_killed_in_the_middle_go_on_to_the_same_bits(method: str, make: MakeRun) -> None:
    """Real SIGKILL of both; the teacher, its own running statistics and the optimiser included."""
    whole, killed = make(method, f"{method}-whole", **{"train.workers": 2}), make(method, f"{method}-killed", **{"train.workers": 2})
    train_in_processes(whole, 2)
    train_in_processes(killed, 2, kill_at=6)
    assert 6 <= last(killed).state.step < steps_of(killed)
    train_in_processes(killed, 2)
    assert last(killed).state == last(whole).state
    assert killed.history() == whole.history()
    for kind in ("model", "optimizer"):
        ours, theirs = last(whole).tensors(kind), last(killed).tensors(kind)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert torch.equal(theirs[name], value), (kind, name)
