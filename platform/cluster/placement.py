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
from sightline.platform.data.loader.stream import StreamResources

from .demand import describe, own_resources, suits, unknown_accelerator
from .resources import ResourcePlan, plan_on

if TYPE_CHECKING:
    from ray.util.placement_group import PlacementGroup

LOOK_SECONDS = 1.0
LEAST_CPUS = 0.01
HEAD = "node:__internal_head__"
"""A resource that every cluster has once."""
Shares = Mapping[str, Mapping[str, float]]
"""Node -> `CPU`, `GPU` or another resource of Ray -> logical amount."""


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
            if not said:
                say(_waiting(experiment, nodes))
                said = True
            wanted = wanted or _want(experiment, nodes)  # an autoscaler adds nodes for pending placement groups
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
            for name, amount in _needs(experiment, plan).items():
                left[node][name] = left[node].get(name, 0.0) + amount
    larger = _largest(experiment, nodes, left)
    return larger is not None and larger.workers > plan.workers


def _largest(experiment: Experiment, nodes: Shares, left: Shares) -> ResourcePlan | None:
    """The plan with the most workers that can be placed; an elastic run may have fewer than it asks for."""
    most = experiment.train.workers
    counts = range(most, (experiment.train.least_workers or most) - 1, -1)
    plans = (_plan(experiment.with_workers(count), nodes, left) for count in counts if experiment.batch.microbatches % count == 0)
    return next((plan for plan in plans if plan), None)


def fitting(stream: StreamResources) -> StreamResources:
    """These resources, less where no node that is up has them free beside the workers: a node that died took its share along.

    A task that asks for more than any node has waits for ever. For a worker, within its placement group.
    """
    return _fitting(stream, max((has["CPU"] for has in _left(up()).values()), default=0.0))


def _fitting(stream: StreamResources, free: float) -> StreamResources:
    held = stream.actor_cpus if stream.actors else 0.0
    if stream.task_cpus + held <= free + 1e-6:
        return stream
    share = max(free, LEAST_CPUS) / (stream.task_cpus + held)
    task, all_tasks, actor = (int(cpus * share * 1e4) / 1e4 for cpus in (stream.task_cpus, stream.cpus, stream.actor_cpus))
    return replace(stream, task_cpus=task, cpus=all_tasks, actor_cpus=actor)


def up() -> Shares:
    """The nodes that are up and were not told to end."""
    import ray

    going = leaving()
    nodes = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]  # type: ignore[no-untyped-call]
    return {node["NodeID"]: {"CPU": 0.0, "GPU": 0.0, **node["Resources"]} for node in nodes}


def suitable_nodes(experiment: Experiment) -> list[Mapping[str, float]]:
    """What the nodes that are up and may run its workers have in all."""
    return list(_suitable(experiment, up()).values())


def _labels() -> Mapping[str, Mapping[str, str]]:
    """Node -> its labels."""
    import ray

    return {node["NodeID"]: node["Labels"] for node in ray.nodes()}  # type: ignore[no-untyped-call]


def _suitable(experiment: Experiment, nodes: Shares) -> Shares:
    """Those of `nodes`, with all that they have, on which workers may run."""
    labels = _labels() if experiment.train.labels else {}
    return {node: has for node, has in nodes.items() if suits(experiment.train, has, labels.get(node, {}))}


def _needs(experiment: Experiment, plan: ResourcePlan) -> dict[str, float]:
    """What one worker of the plan takes."""
    return {"CPU": plan.worker_cpus, "GPU": plan.worker_gpus, **own_resources(experiment.train)}


def leaving() -> set[str]:
    """Nodes that were told to end, for example by a preemption notice; they still work until they do."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def _plan(experiment: Experiment, nodes: Shares, left: Shares) -> ResourcePlan | None:
    """The plan with the resources `left`, where all its workers can be placed; its threads are those of the empty cluster."""
    suitable = _suitable(experiment, nodes)
    places_for = {node: has for node, has in left.items() if node in suitable}
    gpus, free_gpus = _sum(suitable)["GPU"], _sum(places_for)["GPU"]
    if experiment.train.device == "auto" and gpus and free_gpus < experiment.train.workers:
        return None  # rather than on CPUs
    try:
        whole = plan_on(experiment, _sum(nodes)["CPU"], int(gpus))
        plan = plan_on(experiment, _sum(left)["CPU"], int(free_gpus))
    except CallError:
        return None
    need = _needs(experiment, plan)
    places = sum(min(int((has[name] + 1e-6) / amount) for name, amount in need.items() if amount) for has in places_for.values())
    return replace(plan, threads=whole.threads) if places >= plan.workers else None


def _too_small(experiment: Experiment, nodes: Shares) -> CallError:
    total, workers = _sum(nodes), experiment.train.workers
    if not _suitable(experiment, nodes):
        return CallError(
            f"no node of this machine's Ray has {describe(experiment.train)}{unknown_accelerator(experiment.train)}",
            "leave it out, or name a cluster whose nodes have it: RAY_ADDRESS=HOST:6379",
        )
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


def _waiting(experiment: Experiment, nodes: Shares) -> str:
    train, suitable = experiment.train, _suitable(experiment, nodes)
    own = f" ({describe(train)})" if describe(train) else ""
    there = f"of such nodes there are {len(suitable)}, with" if own else "there is"
    return (
        f"waiting for the cluster: needs {train.workers} x {_text(_bundle(experiment, nodes))}{own} for its workers; "
        f"{there} {_text(_sum(suitable))}, others hold {_held(suitable)}{'' if suitable else unknown_accelerator(train)}"
    )


def _bundle(experiment: Experiment, nodes: Shares) -> dict[str, float]:
    """CPUs and GPUs that one worker needs."""
    device = "cuda" if experiment.train.accelerator_type else experiment.train.device
    return {"CPU": 1.0, "GPU": 1.0} if device == "cuda" or (device == "auto" and _sum(nodes)["GPU"]) else {"CPU": 1.0}


def _sum(nodes: Shares) -> dict[str, float]:
    return {name: sum(has[name] for has in nodes.values()) for name in ("CPU", "GPU")}


def _text(has: Mapping[str, float]) -> str:
    return " + ".join(f"{round(amount, 2):g} {name}" for name, amount in has.items() if amount) or "nothing"


def _want(experiment: Experiment, nodes: Shares) -> PlacementGroup:
    """A placement group as the workers will need it. It shows an autoscaler what is missing."""
    import ray

    workers, labels = experiment.train.workers, experiment.train.labels
    bundle = {**_bundle(experiment, nodes), **own_resources(experiment.train)}
    selectors = [dict(labels)] * workers if labels else None
    group: PlacementGroup = ray.util.placement_group([bundle] * workers, strategy="SPREAD", bundle_label_selector=selectors)
    return group


def _drop(group: PlacementGroup | None) -> None:
    import ray

    if group is not None:
        ray.util.remove_placement_group(group)
