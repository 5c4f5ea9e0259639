"""Runs whose workers stand on several nodes: real raylets on this machine, with logical CPUs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults import bits, last, make
from nodes import Nodes, cluster
from stages import Located, node_number
from toy import TOY

from sightline.methods.catalog import find_method
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.plan import Plan
from sightline.platform.data.stream import Stream, StreamResources
from sightline.platform.launch import carry_out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch, cluster(1, 1) as up:
        patch.setenv("SIGHTLINE_HOME", str(tmp_path_factory.mktemp("nodes")))
        yield up


def test_shards_are_read_on_every_node(nodes: Nodes, toy_data: dict[str, str]) -> None:
    experiment = config.load("toy", dict(toy_data), settings=TOY)
    dataset = Dataset.open(toy_data["data.train"])
    views = Located(find_method(experiment.method).views(experiment.settings))
    plan = Plan(tuple(dataset.row_groups), 0, 12, 2, block_rows=16)
    stream = Stream(dataset, views, plan, range(6), 0, 40, 0, StreamResources(task_cpus=1.0, cpus=2.0))
    where = {int(node) for step in stream for group in step for node in group.arrays["node"]}
    assert where == {node_number(node) for node in nodes.up()}


def test_workers_on_two_nodes_learn_what_they_learn_on_one(nodes: Nodes, toy_data: dict[str, str]) -> None:
    spread = make("spread", toy_data, **{"train.workers": 2})
    carry_out(spread, lambda event: None)
    where = {event["rank"]: event["node"] for event in spread.events() if event["kind"] == "worker"}
    assert set(where.values()) == set(nodes.up()), where
    nodes.only(2)
    together = make("together", toy_data, **{"train.workers": 2})
    carry_out(together, lambda event: None)
    assert {event["node"] for event in together.events() if event["kind"] == "worker"} == set(nodes.up())
    assert last(spread).state.history == last(together).state.history
    assert spread.history() == together.history() and bits(spread) == bits(together)
