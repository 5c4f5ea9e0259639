"""Faults of a cluster, real ones on real raylets, each held against the run that nothing happened to. Prints the seconds that each cost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import yaml
from commands import finish, start
from faults import QUICK, STEPS, bits, last, make, starts
from gloo import train_in_processes
from heads import until
from nodes import STORE, Nodes, cluster
from toy import TOY

from sightline.pipelines.__main__ import main
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster import placement, resources
from sightline.platform.experiments import train_run
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import (
    CheckpointWritten,
    ClusterNote,
    RunEvent,
    StepsDone,
    TrainingEnded,
    TrainingStarted,
    WorkerStarted,
)
from sightline.platform.runs.record import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
TWO = {"train.workers": 2}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch, cluster(1, 1) as up:
        patch.setenv("SIGHTLINE_HOME", str(tmp_path_factory.mktemp("home")))
        yield up


@pytest.fixture(scope="module")
def whole(nodes: Nodes, toy_data: dict[str, str]) -> Run:
    """The run of two workers to which nothing happened, not even Ray."""
    run = make("undisturbed", toy_data, **TWO)
    train_in_processes(run, 2)
    return run


def test_trials_at_the_same_time_are_those_of_the_nodes_not_of_this_machine(
    nodes: Nodes, toy_data: dict[str, str], toy_recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--concurrent` is left out. The head has no CPUs."""
    data = [f"{key}={value}" for key, value in toy_data.items()]
    words = ["sweep", toy_recipe, *data, "--space", "optim.lr=log:1e-4..1e-2", "--objective", "val/loss", "--dry-run"]
    try:
        for cpus, trials in ((None, 2), (3, 5)):
            if cpus:
                nodes.add(cpus)
            assert main(words) == 0
            assert f"{trials} at the same time with 1 torch thread" in capsys.readouterr().out
    finally:
        nodes.only(1, 1)


class Once:
    """Does something after the first checkpoint from step 6 on; then `lost` counts the seconds until a worker trains again."""

    def __init__(self, act: Callable[[dict[int, WorkerStarted]], None]) -> None:
        self.act, self.workers, self.at, self.lost = act, dict[int, WorkerStarted](), 0.0, 0.0

    def __call__(self, event: RunEvent) -> None:
        if isinstance(event, WorkerStarted):
            self.workers[event.rank] = event
        if isinstance(event, CheckpointWritten) and event.step >= 6 and not self.at:
            self.at = time.monotonic()
            self.act(self.workers)
        if isinstance(event, TrainingStarted) and self.at and not self.lost:
            self.lost = time.monotonic() - self.at


def same(run: Run, whole: Run) -> None:
    """Nothing is lost, repeated or learned otherwise, down to the bits."""
    assert last(run).state.samples == last(whole).state.samples
    assert last(run).state.history == last(whole).state.history
    assert run.history() == whole.history() and bits(run) == bits(whole)


def tell(fault: str, run: Run, seconds: float) -> None:
    first = starts(run)
    print(f"\nFAULT {fault}: {seconds:.1f} s until training goes on, from step {first[-1]}; attempts {len(first)}")
    assert 0 < seconds < 600 and len(first) == 2 and 0 < first[1] < STEPS, "the fault came too late to matter"


def test_a_node_with_a_worker_dies_and_another_joins(nodes: Nodes, toy_data: dict[str, str], whole: Run) -> None:
    def kill(workers: dict[int, dict[str, Any]]) -> None:
        nodes.kill(workers[1].node)
        nodes.add(1)

    run, once = make("node", toy_data, **TWO), Once(kill)
    train_on_ray(run, once)
    same(run, whole)
    tell("SIGKILL of a raylet", run, once.lost)


@pytest.mark.long
def test_the_controller_of_ray_train_dies(nodes: Nodes, toy_data: dict[str, str], whole: Run) -> None:
    def kill(workers: dict[int, dict[str, Any]]) -> None:
        (controller,) = [p for p in psutil.Process().children(recursive=True) if "TrainController" in p.name()]
        controller.kill()

    run, once = make("controller", toy_data, **TWO), Once(kill)
    train_on_ray(run, once)
    same(run, whole)
    tell("SIGKILL of Ray Train's controller", run, once.lost)
    until(lambda: all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values()))


CARRY = """
import sys
from sightline.platform.core.ray_init import start_ray
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.record import Run
start_ray()
train_on_ray(Run.open(sys.argv[1]), lambda event: None)
"""


@pytest.mark.long
def test_two_runs_at_once_on_full_object_stores(nodes: Nodes, toy_data: dict[str, str]) -> None:
    """More of somebody's objects than each node's store holds. The workers of the first run are halted until the second trains."""
    from ray._private.internal_api import memory_summary

    nodes.only(1, 1)
    fill = ray.remote(num_cpus=0)(lambda: ray.put(np.ones(STORE // 5, np.uint8)))
    held = [ray.get(fill.options(label_selector={ray._raylet.RAY_NODE_ID_KEY: node}).remote()) for node in nodes.up() for _ in range(6)]
    assert "Spilled" in memory_summary(nodes.address, stats_only=True)
    steps = {"train.length": "60 steps", "train.checkpoint_every": "30 steps", "train.validate_every": "30 steps"}
    runs, drivers = [make(f"beside-{number}", toy_data, **TWO, **steps) for number in (1, 2)], []
    began, halted = time.monotonic(), list[int]()
    try:
        for run in runs:
            drivers.append(subprocess.Popen([sys.executable, "-c", CARRY, run.name], stderr=subprocess.PIPE, text=True))
            until(lambda run=run, driver=drivers[-1]: starts(run) or driver.poll() is not None, 0.02)  # type: ignore[misc]
            if not halted:
                halted = [event.pid for event in run.events() if isinstance(event, WorkerStarted)]
                for pid in halted:
                    os.kill(pid, signal.SIGSTOP)
                assert not isinstance(last_of(run), TrainingEnded)
    finally:
        for pid in halted:
            os.kill(pid, signal.SIGCONT)
    errors = [driver.communicate(timeout=600)[1] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], errors
    del held
    undisturbed = make("alone", toy_data, **TWO, **steps)
    train_in_processes(undisturbed, 2)
    for run in runs:
        same(Run.open(run.name), undisturbed)
    waited = [any(isinstance(event, ClusterNote) for event in run.events()) for run in runs]
    print(f"\nFAULT two runs on full stores: both in {time.monotonic() - began:.1f} s; waited: {waited}")


def last_of(run: Run) -> RunEvent:
    return list(run.events())[-1]


@pytest.mark.long
def test_a_node_that_is_told_to_end_is_left_with_a_checkpoint(nodes: Nodes, toy_data: dict[str, str]) -> None:
    """A notice of preemption, with a minute to go, between two checkpoints: no step is lost, and nothing waits for the deadline."""
    nodes.only(1, 1, 1)
    steps = {"train.length": "160 steps", "train.checkpoint_every": "80 steps", "train.validate_every": "80 steps"}
    run, at, lost = make("preempted", toy_data, **TWO, **steps), list[float](), list[float]()
    where: dict[int, str] = {}

    def on_event(event: RunEvent) -> None:
        if isinstance(event, WorkerStarted):
            where[event.rank] = event.node
        if isinstance(event, StepsDone) and not at:
            at.append(time.monotonic())
            nodes.preempt(where[1], seconds=60)
        if isinstance(event, TrainingStarted) and at and not lost:
            lost.append(time.monotonic() - at[0])

    train_on_ray(run, on_event)
    gone = {event.node for event in run.events() if isinstance(event, WorkerStarted)} - set(where.values())
    assert len(starts(run)) == 2 and 0 < starts(run)[1] < 80, "not between two checkpoints"
    made = [event.first + number for event in run.events() if isinstance(event, StepsDone) for number in range(len(event.lr))]
    assert made == list(range(160)), "a step was lost or made twice"
    assert gone and not gone & set(where.values())
    print(f"\nFAULT notice of preemption: {lost[0]:.1f} s until training goes on, from step {starts(run)[1]}, the last one made")
    undisturbed = make("unpreempted", toy_data, **TWO, **steps)
    train_in_processes(undisturbed, 2)
    same(run, undisturbed)


@pytest.mark.long
def test_an_elastic_run_goes_on_with_the_nodes_there_are(nodes: Nodes, toy_data: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, then three when two more nodes are seen, then two when one of them is killed; or three, where Ray still held it alive:
    they need less than half a CPU each, so two nodes have room for them. Planned is one worker a CPU at most."""
    first, *_ = nodes.only(1, 1, 1)
    real, seen = placement.up, {first}
    monkeypatch.setattr(resources, "MOST_WORKERS_PER_CPU", 1)
    monkeypatch.setattr(train_run, "GROW_SECONDS", 0.5)
    monkeypatch.setattr(placement, "up", lambda: {node: has for node, has in real().items() if node in seen or not has["CPU"]})
    steps = {"train.length": "240 steps", "train.checkpoint_every": "12 steps", "train.validate_every": "240 steps"}
    elastic = {"train.workers": 3, "train.least_workers": 1}
    run, workers, killed, lost = make("elastic", toy_data, **elastic, **steps), dict[int, str](), list[float](), list[float]()

    def on_event(event: RunEvent) -> None:
        if isinstance(event, WorkerStarted):
            workers[event.rank] = event.node
        if isinstance(event, TrainingStarted) and killed and not lost:
            lost.append(time.monotonic() - killed[0])
        if isinstance(event, CheckpointWritten):
            seen.update(nodes.up())
            if len(workers) == 3 and not killed:
                killed.append(time.monotonic())
                nodes.kill(workers[1])

    train_on_ray(run, on_event)
    counts = [event.workers for event in run.events() if isinstance(event, TrainingStarted)]
    assert counts[:2] == [1, 3] and counts[2:] in ([2], [3])
    undisturbed = make("inelastic", toy_data, **TWO, **steps)
    train_in_processes(undisturbed, 2)
    assert last(run).state.samples == last(undisturbed).state.samples and last(run).state.history == last(undisturbed).state.history
    ours, theirs = run.history(), undisturbed.history()
    assert list(ours) == list(theirs) == list(range(240))
    np.testing.assert_allclose([ours[s]["loss"] for s in ours], [theirs[s]["loss"] for s in theirs], rtol=1e-4)
    print(f"\nFAULT elastic, {counts} workers: {lost[0]:.1f} s from the death of a node until workers train, from step {starts(run)[-1]}")


@pytest.mark.long
def test_the_driver_dies_and_the_run_is_resumed(nodes: Nodes, toy_data: dict[str, str], whole: Run, tmp_path: Path) -> None:
    recipe, home = tmp_path / "toy.yaml", Path(os.environ["SIGHTLINE_HOME"])
    recipe.write_text(yaml.safe_dump(TOY))
    words = [f"{key}={value}" for key, value in {**toy_data, **QUICK, **TWO, "probe.names": "[]"}.items()]
    process, folder = start(home, "pretrain", str(recipe), *words, "--name", "driver"), home / "runs" / "driver" / "checkpoints"
    until(lambda: checkpoint.newest(folder) or process.poll() is not None, 0.05)
    at = time.time()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    result = finish(start(home, "resume", "driver"))
    run = Run.open("driver")
    same(run, whole)
    again = [event.time for event in run.events() if isinstance(event, TrainingStarted)][-1]
    tell("SIGKILL of the driver, resumed at once", run, again - at)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=result["tracking_uri"])
    found = client.search_runs([e.experiment_id for e in client.search_experiments()], "attributes.run_name = 'driver'")
    assert [one.info.run_id for one in found] == [result["mlflow_run_id"]]
