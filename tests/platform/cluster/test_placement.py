"""Where a run finds room on a cluster that it shares: the arithmetic, on nodes that are numbers."""

from __future__ import annotations

from typing import Any

import pytest
from toy import TOY

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.cluster import placement
from sightline.platform.cluster.demand import check_here
from sightline.platform.cluster.placement import Shares, _fitting, _largest, _plan, await_room, can_grow
from sightline.platform.data.loader.stream import StreamResources


def experiment(**overrides: Any) -> config.Experiment:
    return config.load("toy", overrides, settings=TOY)


def shares(*nodes: tuple[float, float]) -> Shares:
    return {str(number): {"CPU": cpus, "GPU": gpus} for number, (cpus, gpus) in enumerate(nodes)}


def test_a_second_run_leaves_room_for_the_data_of_both() -> None:
    """Two runs that each planned on the whole of two CPUs held them with their workers, and waited for ever for their data."""
    nodes = shares((1, 0), (1, 0))
    first = _plan(experiment(**{"train.workers": 2}), nodes, nodes)
    assert first is not None
    left = shares((1 - first.worker_cpus, 0), (1 - first.worker_cpus, 0))
    second = _plan(experiment(**{"train.workers": 2}), nodes, left)
    assert second is not None
    assert 1 - first.worker_cpus - second.worker_cpus >= max(first.data.task_cpus, second.data.task_cpus)


def test_tasks_of_the_data_fit_on_the_nodes_that_are_left() -> None:
    """A run planned on three nodes of one CPU lost one; its tasks asked for more than the others had beside the workers, for ever."""
    planned = StreamResources(0.62, 0.62)
    assert _fitting(planned, 1.0) == planned
    assert _fitting(planned, 0.38).task_cpus <= 0.38
    with_teacher = _fitting(StreamResources(0.5, 1.0, 2, 0.5), 0.6)
    assert 0 < with_teacher.task_cpus + with_teacher.actor_cpus <= 0.6 and with_teacher.cpus / with_teacher.task_cpus == pytest.approx(
        2, rel=1e-3
    )
    assert _fitting(planned, 0.0).task_cpus > 0


def test_threads_do_not_depend_on_who_else_is_there() -> None:
    """With other threads the weights would differ in their last bits."""
    nodes, run = shares((8, 0), (8, 0)), experiment(**{"train.workers": 2, "train.threads": None})
    plans = [_plan(run, nodes, left) for left in (nodes, shares((4, 0), (3, 0)))]
    assert [plan and plan.threads for plan in plans] == [8, 8]


@pytest.mark.parametrize(
    ("device", "nodes", "left"),
    [
        ("auto", shares((8, 1), (8, 1)), shares((7, 0), (8, 1))),
        ("cuda", shares((16, 0)), shares((16, 0))),
        ("auto", shares((1, 2), (64, 0)), shares((1, 2), (64, 0))),
        ("cpu", {}, {}),
    ],
    ids=["another run holds a GPU", "GPUs are still to come", "no CPU beside a GPU", "no node is up"],
)
def test_what_does_not_fit_now_waits(device: str, nodes: Shares, left: Shares) -> None:
    assert _plan(experiment(**{"train.workers": 2, "train.device": device}), nodes, left) is None


def test_an_elastic_run_takes_the_most_workers_that_fit_and_divide_its_microbatches() -> None:
    run = experiment(**{"train.workers": 3, "train.least_workers": 1, "train.device": "auto"})
    nodes = shares((4, 1), (4, 1), (4, 1))
    for free, count in ((nodes, 3), (shares((4, 1), (4, 0), (4, 1)), 2), (shares((4, 1), (4, 0), (4, 0)), 1)):
        plan = _largest(run, nodes, free)
        assert plan is not None and (plan.workers, plan.worker_gpus) == (count, 1)
    assert _largest(run, nodes, shares((4, 0), (4, 0), (4, 0))) is None
    six = experiment(**{"batch.size": 24, "batch.microbatch": 4, "train.workers": 6, "train.least_workers": 2, "train.device": "auto"})
    wide = shares(*[(4, 1)] * 5)
    assert (plan := _largest(six, wide, wide)) is not None and plan.workers == 3, "neither 5 nor 4 divide 6 groups"


def test_an_elastic_run_counts_its_own_place_when_it_looks_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    run = experiment(**{"train.workers": 3, "train.least_workers": 1, "train.device": "auto"})
    nodes = shares((4, 1), (4, 1), (4, 1))
    plan = _largest(run, nodes, shares((4, 1), (4, 0), (4, 0)))
    assert plan is not None
    monkeypatch.setattr(placement, "up", lambda: nodes)
    for others, grows in ((shares((3, 0), (4, 0), (4, 0)), False), (shares((3, 0), (4, 0), (4, 1)), True)):
        monkeypatch.setattr(placement, "_left", lambda nodes, others=others: others)
        assert can_grow(run, plan, ["0"]) is grows


def alone(nodes: Shares, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("RAY_ADDRESS", raising=False)
    patch.setattr(placement, "up", lambda: nodes)
    patch.setattr(placement, "_left", lambda nodes: nodes)
    patch.setattr(placement.ClusterLease, "acquire", lambda self: None)
    patch.setattr(placement.ClusterLease, "release", lambda self: None)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (shares((16, 1)), "train.workers = 2 workers need 2 GPUs, the cluster has 1"),
        (shares((1, 2), (64, 0)), r"2 workers x 1 CPU \+ 1 GPU find no place on the nodes: 1 CPU \+ 2 GPU; 64 CPU"),
    ],
)
def test_what_this_machine_cannot_hold_is_refused_with_the_arithmetic(nodes: Shares, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(nodes, monkeypatch)
    with pytest.raises(CallError, match=said):
        await_room(experiment(**{"train.workers": 2}), print)


class Wanted:
    def wait(self, seconds: float) -> bool:
        return True


def test_the_wait_is_told_once_and_ends_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, said, looks = shares((4, 2)), list[str](), iter([shares((3, 1))] * 4 + [shares((4, 2))])
    alone(nodes, monkeypatch)
    monkeypatch.setattr(placement, "_left", lambda nodes: next(looks))
    monkeypatch.setattr(placement, "_want", lambda *of: Wanted())
    monkeypatch.setattr(placement, "_drop", lambda group: None)
    monkeypatch.setattr(placement, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("RAY_ADDRESS", "there")
    plan, _ = await_room(experiment(**{"train.workers": 2}), said.append)
    assert (plan.workers, plan.worker_gpus) == (2, 1)
    assert said == ["waiting for the cluster: needs 2 x 1 CPU + 1 GPU for its workers; there is 4 CPU + 2 GPU, others hold 1 CPU + 1 GPU"]


def a100(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "accelerator_type:A100": 1.0}


def test_workers_run_only_where_the_asked_gpu_is() -> None:
    run = experiment(**{"train.workers": 2, "train.device": "auto", "train.accelerator_type": "A100"})
    t4, two = {"CPU": 8.0, "GPU": 4.0, "accelerator_type:T4": 1.0}, a100(8, 2)
    assert _plan(run, {"a": t4}, {"a": t4}) is None, "four GPUs of another model"
    plan = _plan(run, {"a": t4, "b": two}, {"a": t4, "b": two})
    assert plan is not None and plan.worker_gpus == 1
    assert _plan(run, {"a": t4, "b": two}, {"a": t4, "b": {**two, "GPU": 1.0}}) is None, "another run holds one of the two"


def test_custom_resources_are_counted_and_labels_choose_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = experiment(**{"train.workers": 2, "train.resources": {"fast_disk": 1}})
    one, both = {"CPU": 4.0, "GPU": 0.0, "fast_disk": 1.0}, {"CPU": 4.0, "GPU": 0.0, "fast_disk": 2.0}
    assert _plan(disk, {"a": one}, {"a": one}) is None and _plan(disk, {"a": both}, {"a": both}) is not None
    zoned = experiment(**{"train.workers": 1, "train.labels": {"zone": "in(a, b)", "market-type": "!spot"}})
    nodes = shares((4, 0), (4, 0))
    for labels, room in (
        ({"0": {"zone": "a"}, "1": {}}, True),
        ({"0": {"zone": "c"}, "1": {}}, False),
        ({"0": {"zone": "b", "market-type": "spot"}, "1": {"zone": "c"}}, False),
    ):
        monkeypatch.setattr(placement, "_labels", lambda labels=labels: labels)
        assert (_plan(zoned, nodes, nodes) is not None) is room


def test_the_wait_names_the_gpu_that_is_asked_for_and_a_name_that_ray_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "_left", lambda nodes: nodes)  # which would start a Ray
    said = placement._waiting(experiment(**{"train.workers": 2, "train.device": "auto", "train.accelerator_type": "A10"}), shares((8, 0)))
    assert said == (
        "waiting for the cluster: needs 2 x 1 CPU + 1 GPU (accelerator_type A10) for its workers; of such nodes there are 0, with nothing, "
        "others hold nothing; Ray knows no such accelerator: did you mean 'A10G'?"
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"train.accelerator_type": "A100"}, "train.accelerator_type = A100, but this machine has no GPU"),
        ({"train.resources": {"fast_disk": 1}}, "workers demand 1 fast_disk"),
        ({"train.labels": {"zone": "!a"}}, "workers demand zone=!a"),
    ],
)
def test_one_machine_has_no_resources_of_its_own(overrides: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(CallError, match=said):
        check_here(experiment(**{"train.device": "auto", **overrides}).train)


@pytest.mark.parametrize(
    "overrides",
    [
        {"train.resources": {"GPU": 1}},
        {"train.resources": {"fast_disk": 1.5}},
        {"train.labels": {"zone": "in()"}},
        {"train.device": "cpu", "train.accelerator_type": "A100"},
    ],
)
def test_what_no_node_can_have_is_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(CallError):
        experiment(**overrides)
