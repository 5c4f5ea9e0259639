"""A Ray cluster of several real raylets on this machine: nodes join, leave and are killed. Ends only the processes that it started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from heads import short_folder, until

STORE = 80 << 20
"""Bytes of each node's object store: about the least that Ray takes."""


class Nodes:
    """A head without CPUs, and nodes by their Ray id."""

    def __init__(self, scratch: Path) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "temp_dir": str(scratch)}
        self.cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.address = str(self.cluster.address)
        self.started: dict[str, Any] = {}
        self.leaving: set[str] = set()

    def add(self, cpus: int, **resources: float) -> str:
        node = self.cluster.add_node(num_cpus=cpus, object_store_memory=STORE, **resources)
        self.started[node.node_id] = node
        return str(node.node_id)

    def kill(self, node: str) -> None:
        """SIGKILL of its raylet, as when the machine goes: its workers end with it."""
        for process in self.started[node].all_processes["raylet"]:
            os.kill(process.process.pid, signal.SIGKILL)
            process.process.wait()

    def preempt(self, node: str, seconds: float) -> None:
        """The notice that a cloud gives: Ray is told that the node ends in so many seconds. It stays until somebody ends it."""
        from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

        deadline = int((time.time() + seconds) * 1000)
        taken, why = ray._raylet.GcsClient(address=self.address).drain_node(node, DRAIN_NODE_REASON_PREEMPTION, "preempted", deadline)
        assert taken, why
        self.leaving.add(node)

    def only(self, *cpus: int) -> list[str]:
        """Exactly these nodes besides the head: nodes that are up stay as far as they fit, others are removed, missing ones join."""
        wanted, kept = list(cpus), []
        for node, has in self.up().items():
            if has in wanted and node not in self.leaving:
                wanted.remove(has)
                kept.append(node)
            else:
                self.cluster.remove_node(self.started[node])
        kept += [self.add(count) for count in wanted]
        until(lambda: sorted(self.up()) == sorted(kept))
        return kept

    def up(self) -> dict[str, int]:
        """Logical CPUs of each node that Ray holds alive, without the head."""
        alive = {node["NodeID"]: int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]}
        return {node: alive[node] for node in self.started if node in alive}

    def end(self) -> None:
        self.cluster.shutdown()


@contextmanager
def cluster(*cpus: int) -> Iterator[Nodes]:
    """A head and nodes of so many logical CPUs, joined by this process and, by its environment, by every command that it starts."""
    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch, short_folder() as scratch:
        patch.setenv("RAY_TMPDIR", str(scratch))  # Ray notes its newest cluster there, for others to join
        for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "1", "RAY_raylet_start_wait_time_s": "300"}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for what tests hand to workers
        (scratch / "ray").mkdir()
        nodes = Nodes(scratch)
        try:
            for count in cpus:
                nodes.add(count)
            patch.setenv("RAY_ADDRESS", nodes.address)
            from sightline.platform.core.ray_init import start_ray

            start_ray()
            yield nodes
        finally:
            ray.shutdown()
            nodes.end()
