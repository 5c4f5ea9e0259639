"""Real faults on a real Ray with two logical CPUs, each held against the run that nothing happened to."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from faults import STEPS, bits, last, make, starts
from gloo import train_in_processes
from toy import write_pairs

from sightline.methods.errors import SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.core.ray_init import own_processes
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import CheckpointWritten, ClusterNote, RunEvent, StepsDone, TrainingStarted, WorkerStarted
from sightline.platform.runs.record import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One $SIGHTLINE_HOME for the module, so that undisturbed runs serve several tests."""
    root = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGHTLINE_HOME", str(root))
        yield root


@pytest.fixture(scope="module")
def undisturbed(place: Path, toy_data: dict[str, str], ray_head: None) -> Callable[[int], Run]:
    """The run of this many workers to which nothing happened, not even Ray; made once."""
    made: dict[int, Run] = {}

    def run(workers: int) -> Run:
        if workers not in made:
            made[workers] = make(f"undisturbed-{workers}", toy_data, **{"train.workers": workers})
            train_in_processes(made[workers], workers)
        return made[workers]

    return run


@pytest.mark.long
def test_sigkill_of_a_worker_in_the_middle_of_an_epoch(place: Path, toy_data: dict[str, str], undisturbed: Callable[[int], Run]) -> None:
    """Of three: effective history and final weights are those of the undisturbed run, bit for bit. Of two: `test_chaos.py`."""
    workers = 3
    run = make(f"killed-{workers}", toy_data, **{"train.workers": workers})
    pids: dict[int, int] = {}
    killed: list[int] = []
    times: list[float] = []

    def on_event(event: RunEvent) -> None:
        if isinstance(event, WorkerStarted) and not killed:
            pids[event.rank] = event.pid
        if isinstance(event, TrainingStarted) and killed:
            times.append(time.monotonic())
        if isinstance(event, CheckpointWritten) and event.step >= 6 and not killed:
            killed.append(pids[workers - 1])
            times.append(time.monotonic())
            os.kill(killed[0], signal.SIGKILL)

    train_on_ray(run, on_event)
    print(f"\nFAULT SIGKILL of a worker of {workers}: {times[1] - times[0]:.1f} s until training goes on")
    whole = undisturbed(workers)
    assert killed and len(starts(run)) == 2, "the kill came too late to matter"
    assert 0 < starts(run)[1] < STEPS
    assert last(run).state.history == last(whole).state.history
    assert bits(run) == bits(whole)
    assert run.history() == whole.history()


def test_a_worker_that_hangs_is_ended_and_named(place: Path, toy_data: dict[str, str], undisturbed: Callable[[int], Run]) -> None:
    """SIGSTOP, as of a machine that swaps or a file system that is gone: no process dies, so only the watchdog sees it."""
    run = make("hung", toy_data, **{"train.workers": 2, "train.stall_timeout": 20})
    pids: dict[int, int] = {}
    halted: list[float] = []
    notes: list[str] = []

    def on_event(event: RunEvent) -> None:
        if isinstance(event, WorkerStarted) and not halted:
            pids[event.rank] = event.pid
        if isinstance(event, CheckpointWritten) and event.step >= 6 and not halted:
            halted.append(time.monotonic())
            os.kill(pids[1], signal.SIGSTOP)
        if isinstance(event, ClusterNote):
            notes.append(event.text)
        if isinstance(event, TrainingStarted) and halted:
            print(f"\nFAULT SIGSTOP of a worker, time-out 20 s: {time.monotonic() - halted[0]:.1f} s until training goes on")

    train_on_ray(run, on_event)
    (note,) = notes
    assert f"worker 1 (process {pids[1]} on " in note and "gives no sign: it is halted" in note and "worker 0" not in note
    assert [event.text for event in run.events() if isinstance(event, ClusterNote)] == [note]
    assert not psutil.pid_exists(pids[1]) and len(starts(run)) == 2
    whole = undisturbed(2)
    assert bits(run) == bits(whole) and run.history() == whole.history()
    shown_by_ray_train(run)


def shown_by_ray_train(run: Run) -> None:
    """What Ray's own tools read of the last attempt: metrics, and folders of links to the checkpoints that are still there."""
    from ray.train import Result

    (place,) = (run.folder / "ray").iterdir()
    result = Result.from_path(place)
    steps = [metrics["step"] for _, metrics in result.best_checkpoints or []]
    assert steps[-1] == STEPS == last(run).state.step and steps == sorted(set(steps))
    assert result.metrics is not None and result.metrics["train/loss"] == run.history()[STEPS - 1]["loss"]
    assert result.checkpoint is not None
    linked = Path(result.checkpoint.path) / "model.safetensors"
    assert linked.is_symlink() and linked.resolve() == last(run).path / "model.safetensors"
    assert not list(place.rglob("*.pkl")), "Ray wrote a pickle"
    shutil.rmtree(place)  # as Ray does with what it counts as its own
    assert checkpoint.problem(last(run).path) is None


@pytest.mark.long
def test_resume_with_two_then_one_then_three_workers(place: Path, toy_data: dict[str, str], undisturbed: Callable[[int], Run]) -> None:
    """The effective history is the same; losses agree to 1e-4 over all steps."""
    run = make("resized", toy_data, **{"train.workers": 2})
    for workers, until in ((2, 6), (1, 12), (3, STEPS)):
        run.settings = config.load("toy", {"train.workers": workers}, settings=run.settings).sections()
        asked: list[int] = []

        def on_event(event: dict[str, Any], until: int = until, asked: list[int] = asked) -> None:
            if until < STEPS and isinstance(event, StepsDone) and event.first + len(event.lr) >= until and not asked:
                asked.append(event.first)
                os.kill(os.getpid(), signal.SIGINT)

        train_on_ray(run, on_event)
        assert run.status == ("stopped" if until < STEPS and last(run).state.step < STEPS else "trained")
    assert len(starts(run)) == 3, "the stops came too late to matter"
    whole = undisturbed(2)
    assert last(run).state.history == last(whole).state.history
    ours, theirs = run.history(), whole.history()
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[step]["loss"] - theirs[step]["loss"]) for step in ours) < 1e-4


def test_an_error_that_a_restart_cannot_fix_ends_the_run_at_once(place: Path, tmp_path: Path, ray_head: None) -> None:
    broken = str(write_pairs(tmp_path / "broken", 90, 1, broken=tuple(range(0, 90, 4))))
    run = make("broken", {"data.train": broken}, **{"train.workers": 2, "train.length": "60 steps"})
    with pytest.raises(SightlineError, match=r"samples are broken.*data\.max_broken"):
        train_on_ray(run, lambda event: None)
    assert run.status == "failed"
    names = {process.name().partition(".")[0] for process in own_processes()}
    assert not {name for name in names if "Control" in name or "Coordinator" in name}, "the driver does what they would"
    assert ray.get(ray.remote(num_cpus=0)(lambda: gc.get_threshold()[2]).remote()) == 300, "its processes collect rarely"


def test_a_shard_that_is_altered_under_way_is_named(place: Path, tmp_path: Path, ray_head: None) -> None:
    """The error arises inside a Ray task, and no restart mends it."""
    folder = write_pairs(tmp_path / "altered", 90, 1)
    run = make("altered", {"data.train": str(folder)}, **{"train.workers": 1})
    shard = next(folder.glob("*.parquet"))
    content = bytearray(shard.read_bytes())
    content[1000:1100] = bytes(100)
    shard.write_bytes(content)
    with pytest.raises(SightlineError, match=shard.name):
        train_on_ray(run, lambda event: None)
    assert len([event for event in run.events() if isinstance(event, TrainingStarted)]) == 0
