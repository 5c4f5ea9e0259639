"""Runs whose workers stand on several nodes: real raylets on this machine, with logical CPUs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from faults import bits, last, make
from nodes import STORE, Nodes, cluster
from stages import LARGE, Large, Located, node_number
from toy import TOY

from sightline.methods.catalog import find_method
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.plan import Plan
from sightline.platform.data.loader.stream import Stream, StreamResources
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import WorkerStarted

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch, cluster(1, 1) as up:
        patch.setenv("SIGHTLINE_HOME", str(tmp_path_factory.mktemp("nodes")))
        yield up


def stream_of(data: str, around: type, steps: int, block_rows: int, resources: StreamResources | None) -> Stream:
    experiment, dataset = config.load("toy", {"data.train": data}, settings=TOY), Dataset.open(data)
    views = around(find_method(experiment.method).views(experiment.method_config))
    plan = Plan(tuple(dataset.row_groups), 0, 12, 12, block_rows)
    return Stream(dataset, views, plan, range(1), 0, steps, 0, resources)


def test_shards_are_read_on_every_node(nodes: Nodes, toy_data: dict[str, str]) -> None:
    stream = stream_of(toy_data["data.train"], Located, 40, 16, StreamResources(task_cpus=1.0, cpus=2.0))
    where = {int(node) for step in stream for group in step for node in group.arrays["node"]}
    assert where == {node_number(node) for node in nodes.up()}


@pytest.mark.long
def test_blocks_that_are_larger_than_a_nodes_object_store_come_all_the_same(nodes: Nodes, toy_data: dict[str, str]) -> None:
    plan = stream_of(toy_data["data.train"], Large, 16, 96, None).plan
    assert max(block.rows for block in plan.schedule(range(1), 0, 16)) * LARGE > STORE
    digests = [
        [
            (group.digest, zlib.crc32(group.arrays["large"].tobytes()))
            for step in stream_of(toy_data["data.train"], Large, 16, 96, where)
            for group in step
        ]
        for where in (None, StreamResources(task_cpus=1.0, cpus=2.0))
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 16


@pytest.mark.long
def test_workers_on_two_nodes_learn_what_they_learn_on_one(nodes: Nodes, toy_data: dict[str, str]) -> None:
    spread = make("spread", toy_data, **{"train.workers": 2})
    train_on_ray(spread, lambda event: None)
    where = {event.rank: event.node for event in spread.events() if isinstance(event, WorkerStarted)}
    assert set(where.values()) == set(nodes.up()), where
    nodes.only(2)
    together = make("together", toy_data, **{"train.workers": 2})
    train_on_ray(together, lambda event: None)
    assert {event.node for event in together.events() if isinstance(event, WorkerStarted)} == set(nodes.up())
    assert last(spread).state.history == last(together).state.history
    assert spread.history() == together.history() and bits(spread) == bits(together)
