"""The resource plan: everyone gets something, nobody gets more than there is, and what cannot fit is refused with the arithmetic."""

from __future__ import annotations

import pytest

from sightline.methods.errors import CallError
from sightline.platform.cluster.resources import (
    MOST_WORKERS_PER_CPU,
    ResourcePlan,
    plan_resources,
    runs_at_once,
    stage_resources,
)
from sightline.platform.config.schema import TrainConfig

CPUS = (1, 2, 3, 4, 16, 96)


def used(plan: ResourcePlan) -> float:
    return plan.workers * (plan.worker_cpus + plan.data.cpus) + plan.reserve


@pytest.mark.parametrize("cpus", CPUS)
def test_workers_data_and_probes_share_what_there_is(cpus: int) -> None:
    for workers in range(1, cpus * MOST_WORKERS_PER_CPU + 1):
        plan = plan_resources(workers, cpus, 0)
        assert plan.worker_cpus > 0 and plan.reserve > 0
        assert used(plan) <= cpus + 1e-9, f"{workers} workers"


@pytest.mark.parametrize("cpus", CPUS)
def test_ray_data_always_keeps_a_share_in_which_a_task_fits(cpus: int) -> None:
    """Without it the stream would wait for ever for a CPU that the workers hold."""
    for workers in range(1, cpus * MOST_WORKERS_PER_CPU + 1):
        data = plan_resources(workers, cpus, 0).data
        assert 0 < data.task_cpus <= min(1.0, data.cpus), f"{workers} workers"


@pytest.mark.parametrize("cpus", CPUS)
def test_shares_are_numbers_that_ray_counts_exactly(cpus: int) -> None:
    """Ray refuses fractions above one and counts in ten-thousandths."""
    for workers in range(1, cpus * MOST_WORKERS_PER_CPU + 1):
        plan = plan_resources(workers, cpus, 0)
        for share in (plan.worker_cpus, plan.data.task_cpus):
            assert share == int(share) if share >= 1 else round(share, 4) == share


@pytest.mark.parametrize("stage", [False, True])
@pytest.mark.parametrize("cpus", CPUS[1:])
def test_a_task_of_the_users_own_dataset_fits_beside_workers_and_actors(cpus: int, stage: bool) -> None:
    """Ray asks for one whole CPU for it. With a teacher on two CPUs it waited for ever."""
    for workers in range(1, cpus * MOST_WORKERS_PER_CPU + 1):
        plan = plan_resources(workers, cpus, 0, stage=stage, users_tasks=True)
        held = workers * (plan.worker_cpus + plan.data.actors * plan.data.actor_cpus)
        assert plan.worker_cpus > 0 and held <= cpus - 1 + 1e-9, f"{workers} workers"


def test_one_cpu_has_no_room_for_tasks_of_the_users_own_dataset() -> None:
    with pytest.raises(CallError, match="ask for 1 CPU each"):
        plan_resources(1, 1, 0, users_tasks=True)


def test_two_workers_on_two_cpus_leave_room() -> None:
    """The machine of `make quickstart`: by default two workers would take both CPUs."""
    plan = plan_resources(2, 2, 0)
    assert 2 * plan.worker_cpus <= 1 and 2 * plan.data.cpus >= 0.7 and plan.reserve == 0.5
    assert plan.threads == 1


def test_a_large_machine_gives_whole_cpus_and_the_rest_to_the_data() -> None:
    plan = plan_resources(2, 16, 0)
    assert (plan.worker_cpus, plan.data.task_cpus, plan.data.cpus, plan.reserve, plan.threads) == (1.0, 1.0, 6.0, 1.0, 8)
    assert plan_resources(8, 96, 0).data.cpus == 10.0


def test_with_gpus_each_worker_has_one() -> None:
    plan = plan_resources(8, 96, 8)
    assert (plan.workers, plan.worker_gpus) == (8, 1)
    assert "8 workers x 1 CPU + 1 GPU" in plan.describe()
    assert plan_resources(8, 96, 8, device="cpu").worker_gpus == 0
    assert plan_resources(1, 1, 1).worker_gpus == 1, "one GPU beside one CPU is enough"


def test_a_stage_has_gpus_where_workers_have_them() -> None:
    shared = plan_resources(8, 96, 8, stage=True)
    assert (shared.worker_gpus, shared.data.actors, shared.data.actor_gpus) == (0.75, 1, 0.25)
    own = plan_resources(2, 64, 8, stage=True)
    assert (own.worker_gpus, own.data.actors, own.data.actor_gpus) == (1, 3, 1) and "+ 1 GPU for the teacher" in own.describe()
    assert 2 * own.data.actors * own.data.actor_cpus + 2 * own.data.cpus + 2 * own.worker_cpus + own.reserve <= 64
    for plan, gpus in ((shared, 8), (own, 8)):
        assert plan.workers * (plan.worker_gpus + plan.data.actors * plan.data.actor_gpus) <= gpus
    on_cpu = plan_resources(2, 64, 8, device="cpu", stage=True)
    assert on_cpu.worker_gpus == on_cpu.data.actor_gpus == 0 and on_cpu.data.actors > 1
    assert (stage_resources(16, 2).actors, stage_resources(16, 2).actor_gpus, stage_resources(16).actor_gpus) == (2, 1, 0)


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 0), (16, 0), (64, 8), (64, 2)])
def test_actors_of_a_stage_are_as_many_as_asked_for_and_still_fit(cpus: int, gpus: int) -> None:
    for actors in (1, 3, 7):
        plan = plan_resources(2, cpus, gpus, stage=True, actors=actors)
        data = plan.data
        assert data.actors == actors and data.actor_cpus > 0 and (data.actor_gpus > 0) == (gpus > 0)
        assert used(plan) + 2 * actors * data.actor_cpus <= cpus + 1e-9
        assert 2 * (plan.worker_gpus + actors * data.actor_gpus) <= gpus + 1e-9


def test_threads_are_those_asked_for() -> None:
    assert plan_resources(2, 16, 0, threads=3).threads == 3
    assert plan_resources(4, 2, 0).threads == 1


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "device", "said", "hint"),
    [
        (9, 2, 0, "auto", "train.workers = 9 cannot fit: 2 logical CPUs x 4 workers a CPU = 8 at most", "train.workers=8"),
        (5, 1, 8, "cpu", "1 logical CPUs x 4 workers a CPU = 4 at most", "train.workers=4"),
        (3, 16, 2, "auto", "train.workers = 3 workers need 3 GPUs, the cluster has 2", "train.workers=2"),
        (2, 16, 0, "cuda", "need 2 GPUs, the cluster has 0", "train.device=cpu"),
    ],
)
def test_what_cannot_fit_is_refused_with_the_arithmetic(workers: int, cpus: int, gpus: int, device: str, said: str, hint: str) -> None:
    with pytest.raises(CallError) as caught:
        plan_resources(workers, cpus, gpus, device=device)
    assert said in str(caught.value) and hint in caught.value.hint


@pytest.mark.parametrize(("workers", "cpus", "gpus", "device"), [(9, 2, 0, "auto"), (5, 1, 8, "cpu"), (3, 16, 2, "auto")])
def test_the_hint_that_is_named_fits(workers: int, cpus: int, gpus: int, device: str) -> None:
    with pytest.raises(CallError) as caught:
        plan_resources(workers, cpus, gpus, device=device)
    fewer = int(caught.value.hint.partition("train.workers=")[2].split()[0].rstrip(","))
    assert plan_resources(fewer, cpus, gpus, device=device).workers == fewer


def test_the_plan_is_told_in_words() -> None:
    assert plan_resources(2, 2, 0).describe() == (
        "2 workers x 0.37 CPU, 1 torch thread each; data tasks 2 x 0.38 CPU; 0.5 CPU kept for probes"
    )


@pytest.mark.parametrize(("cpus", "actors"), [(1, 1), (2, 1), (3, 2), (16, 14), (96, 84)])
def test_a_stage_alone_has_the_cluster_but_for_what_loads_its_samples(cpus: int, actors: int) -> None:
    shares = stage_resources(cpus)
    assert shares.actors == actors and 0 < shares.task_cpus <= shares.cpus and shares.task_cpus != shares.actor_cpus
    assert shares.cpus + shares.actors * shares.actor_cpus <= cpus


def test_workers_may_take_a_share_of_a_gpu() -> None:
    plan = plan_resources(1, 16, 1, gpus_per_worker=0.5)
    assert plan.worker_gpus == 0.5 and "1 CPU + 0.5 GPU" in plan.describe()
    assert plan_resources(1, 16, 0, gpus_per_worker=0.5).worker_gpus == 0, "none on CPUs"
    staged = plan_resources(1, 16, 1, stage=True, gpus_per_worker=0.9)
    assert staged.worker_gpus + staged.data.actors * staged.data.actor_gpus <= 1 and staged.worker_gpus == 0.75
    assert plan_resources(1, 16, 1, stage=True, gpus_per_worker=0.5).worker_gpus == 0.5
    with pytest.raises(CallError, match=r"5 workers x 0.4 GPU = 2 a GPU need 3 GPUs, the cluster has 2"):
        plan_resources(5, 16, 2, gpus_per_worker=0.4)
    with pytest.raises(ValueError, match="two of the 2 workers on one GPU"):
        TrainConfig(workers=2, gpus_per_worker=0.5)
    assert TrainConfig(workers=2, gpus_per_worker=0.6).gpus_per_worker == 0.6
    for odd in (0, 1.5, -1, True):
        with pytest.raises(ValueError, match="gpus_per_worker"):
            TrainConfig(gpus_per_worker=odd)


@pytest.mark.parametrize(
    ("train", "nodes", "runs"),
    [
        ({}, [(2, 0)], 2),
        ({"threads": 4}, [(16, 0), (8, 0), (3, 0)], 6),
        ({"threads": 4}, [(3, 0)], 1),
        ({}, [(16, 1), (16, 0)], 1),
        ({"gpus_per_worker": 0.5}, [(16, 1), (16, 4)], 10),
        ({"gpus_per_worker": 0.3, "threads": 8}, [(16, 4)], 2),
        ({"device": "cpu"}, [(16, 4)], 16),
        ({"device": "cuda"}, [(4, 0)], 4),
        ({"workers": 2}, [(16, 8), (16, 1)], 4),
        ({"workers": 2}, [(2, 0)], 1),
        ({"workers": 2}, [(8, 0), (8, 0)], 4),
    ],
)
def test_runs_at_once_are_counted_node_by_node(train: dict[str, object], nodes: list[tuple[int, int]], runs: int) -> None:
    assert runs_at_once(TrainConfig(**train), [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in nodes]) == runs  # type: ignore[arg-type]
