"""Finds room for a run on the cluster that Ray is connected to, and waits until there is enough.

Several runs share a cluster. Each plans with what the placement groups of others leave, and one run at a time, so that no two count on the
same resources and then wait for each other for ever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sightline.methods.errors import CallError
from sightline.platform.config import Experiment
from sightline.platform.core.ray_checks import names_cluster

from .resources import ResourcePlan, plan_on

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

LOOK_SECONDS = 1.0
HEAD = "node:__internal_head__"
"""A resource that every cluster has once."""
Shares = Mapping[str, Mapping[str, float]]
"""Node -> `CPU` or `GPU` -> logical amount."""


@dataclass
class ClusterLease:
    """The right to be the one run that plans and places its workers. Ends with the driver at the latest."""

    group: PlacementGroup | None = None

    def acquire(self) -> None:
        import ray

        self.group = ray.util.placement_group([{HEAD: 0.6}])
        while not self.group.wait(60):
            continue

    def release(self) -> None:
        _drop(self.group)
        self.group = None


def await_room(experiment: Experiment, say: Callable[[str], None]) -> tuple[ResourcePlan, ClusterLease]:
    """The run's resource plan with what others leave of the cluster, and the lease to hold until the workers are placed.

    Waits while other runs hold what is needed, and for nodes that may still join the cluster, which an autoscaler is asked for; `say` gets
    one sentence about it. Raises `CallError` where Ray runs on this machine only, and it is too small.
    """
    lease, said = ClusterLease(), False
    wanted: PlacementGroup | None = None
    try:
        while True:
            lease.acquire()
            nodes = up()
            if plan := _largest(experiment, nodes, _left(nodes)):
                return plan, lease
            lease.release()
            if not names_cluster():
                raise _too_small(experiment, nodes)
            bundle = _bundle(experiment, nodes)
            if not said:
                need = f"{experiment.train.workers} x {_text(bundle)}"
                say(f"waiting for the cluster: needs {need} for its workers; there is {_text(_sum(nodes))}, others hold {_held(nodes)}")
                said = True
            wanted = wanted or _want([bundle] * experiment.train.workers)  # an autoscaler adds nodes for pending placement groups
            if wanted.wait(LOOK_SECONDS):
                _drop(wanted)
                wanted = None
                time.sleep(LOOK_SECONDS)
    except BaseException:
        lease.release()
        raise
    finally:
        _drop(wanted)


def can_grow(experiment: Experiment, plan: ResourcePlan, where: Iterable[str]) -> bool:
    """Whether an elastic run whose workers are on the nodes `where` would find room for more workers now."""
    if plan.workers == experiment.train.workers:
        return False
    nodes = up()
    left = {node: dict(has) for node, has in _left(nodes).items()}
    for node in where:
        if node in left:
            left[node]["CPU"] += plan.worker_cpus
            left[node]["GPU"] += plan.worker_gpus
    larger = _largest(experiment, nodes, left)
    return larger is not None and larger.workers > plan.workers


def _largest(experiment: Experiment, nodes: Shares, left: Shares) -> ResourcePlan | None:
    """The plan with the most workers that can be placed; an elastic run may have fewer than it asks for."""
    most = experiment.train.workers
    counts = range(most, (experiment.train.least_workers or most) - 1, -1)
    plans = (_plan(experiment.with_workers(count), nodes, left) for count in counts if experiment.batch.microbatches % count == 0)
    return next((plan for plan in plans if plan), None)


def up() -> Shares:
    """The nodes that are up and were not told to end."""
    import ray

    going = leaving()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]  # type: ignore[no-untyped-call]
    return {node["NodeID"]: {name: node["Resources"].get(name, 0.0) for name in ("CPU", "GPU")} for node in nodes}


def leaving() -> set[str]:
    """Nodes that were told to end, for example by a preemption notice; they still work until they do."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def _plan(experiment: Experiment, nodes: Shares, left: Shares) -> ResourcePlan | None:
    """The plan with the resources `left`, where all its workers can be placed; its threads are those of the empty cluster."""
    free = _sum(left)
    if experiment.train.device == "auto" and _sum(nodes)["GPU"] and free["GPU"] < experiment.train.workers:
        return None  # rather than on CPUs
    try:
        whole = plan_on(experiment, _sum(nodes)["CPU"], int(_sum(nodes)["GPU"]))
        plan = plan_on(experiment, free["CPU"], int(free["GPU"]))
    except CallError:
        return None
    need = {"CPU": plan.worker_cpus, "GPU": plan.worker_gpus}
    places = sum(min(int((has[name] + 1e-6) / amount) for name, amount in need.items() if amount) for has in left.values())
    return replace(plan, threads=whole.threads) if places >= plan.workers else None


def _too_small(experiment: Experiment, nodes: Shares) -> CallError:
    total, workers = _sum(nodes), experiment.train.workers
    try:
        plan = plan_on(experiment, total["CPU"], int(total["GPU"]))
    except CallError as error:
        return error
    need = _text({"CPU": plan.worker_cpus, "GPU": plan.worker_gpus})
    return CallError(
        f"train.workers = {workers} workers x {need} find no place on the nodes: {'; '.join(_text(has) for has in nodes.values())}",
        "use fewer train.workers, or nodes with more CPUs beside each GPU",
    )


def _left(nodes: Shares) -> Shares:
    """What placement groups leave of `nodes`. Ray Train's workers run in such, also those of other drivers."""
    import ray

    left = {node: dict(has) for node, has in nodes.items()}
    for group in ray.util.placement_group_table().values():
        for index, node in group["bundles_to_node_id"].items() if group["state"] != "REMOVED" else ():
            for name, amount in group["bundles"][index].items():
                if node in left and name in left[node]:
                    left[node][name] -= amount
    return left


def _held(nodes: Shares) -> str:
    total, left = _sum(nodes), _sum(_left(nodes))
    return _text({name: total[name] - left[name] for name in total})


def _bundle(experiment: Experiment, nodes: Shares) -> dict[str, float]:
    """What one worker needs."""
    device = experiment.train.device
    return {"CPU": 1.0, "GPU": 1.0} if device == "cuda" or (device == "auto" and _sum(nodes)["GPU"]) else {"CPU": 1.0}


def _sum(nodes: Shares) -> dict[str, float]:
    return {name: sum(has[name] for has in nodes.values()) for name in ("CPU", "GPU")}


def _text(has: Mapping[str, float]) -> str:
    return " + ".join(f"{round(amount, 2):g} {name}" for name, amount in has.items() if amount) or "nothing"


def _want(bundles: list[dict[str, float]]) -> PlacementGroup:
    import ray

    group: PlacementGroup = ray.util.placement_group(bundles, strategy="SPREAD")
    return group


def _drop(group: PlacementGroup | None) -> None:
    import ray

    if group is not None:
        ray.util.remove_placement_group(group)
