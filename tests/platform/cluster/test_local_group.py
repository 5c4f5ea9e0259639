"""Where the workers of this machine meet."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sightline.platform.cluster import local_group
from sightline.platform.cluster.workers import _Trainer
from sightline.platform.config.schema import TrainConfig


def test_workers_meet_at_a_file_that_is_where_its_address_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch cuts an address at `?` and `#`, and the path of a home may hold both."""
    from torch.distributed import rendezvous

    met: list[Path] = []

    class Meets:
        def __init__(self, *words: Any, torch_config: local_group.LocalTorchConfig, **named: Any) -> None:
            self.folder = Path(torch_config.folder)

        def fit(self) -> None:
            before = set(self.folder.iterdir())
            store, *_ = next(iter(rendezvous(f"file://{self.folder}/group", rank=0, world_size=1)))
            store.set("a", "b")
            met.extend(set(self.folder.iterdir()) - before)

    monkeypatch.setattr(local_group, "LocalTorchTrainer", Meets)
    monkeypatch.setattr(local_group, "on_this_machine", lambda: True)
    storage = tmp_path / "ho me?#" / "ray"
    plan: Any = SimpleNamespace(workers=2, worker_cpus=0.5, worker_gpus=0)
    trainer = _Trainer("first", storage, plan, TrainConfig(), {"recorder": None}, {}, 0)
    trainer.run()
    assert trainer.error is None and [path.name for path in met] == ["group"]
    assert not met[0].exists(), "the folder is removed at the end"
    assert [path.name for path in tmp_path.iterdir()] == ["ho me?#"]


def test_the_trainer_of_this_machine_starts_no_process_that_it_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_ENABLE_STATE_TRACKING", "1")  # as for a cluster, in the same process
    from ray.train.v2._internal.callbacks.datasets import DatasetsCallback

    def callbacks(datasets: dict[str, Any]) -> set[str]:
        trainer = local_group.LocalTorchTrainer(print, datasets=datasets)
        return {type(one).__name__ for one in trainer._create_default_callbacks()}

    of_ray = {"AcceleratorSetupCallback", "BackendSetupCallback"}
    assert of_ray <= callbacks({}) and not callbacks({}) & {
        DatasetsCallback.__name__,
        "PlacementGroupCleanerCallback",
        "StateManagerCallback",
    }
    assert callbacks({"train": print}) >= {DatasetsCallback.__name__}


def test_the_controller_makes_no_attempt_that_would_repeat_a_told_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers tell the recorder. Where that is gone, Ray Train decides as usual."""
    import ray
    from ray.train import FailureConfig
    from ray.train.v2._internal.execution.failure_handling import FailureDecision, create_failure_policy
    from ray.train.v2.api.exceptions import WorkerGroupError

    def asked(ref: Any, timeout: float | None = None) -> Any:
        if isinstance(ref, Exception):
            raise ref
        return ref

    def actor(**methods: Any) -> Any:
        return SimpleNamespace(**{name: SimpleNamespace(remote=lambda value=value: value) for name, value in methods.items()})

    made: list[dict[str, Any]] = []

    class Controller:
        def __init__(self, **given: Any) -> None:
            made.append(given)
            self.result = "none"

        async def run(self) -> None:
            self.result = "result"

        def get_result(self) -> str:
            return self.result

    monkeypatch.setattr(ray, "get", asked)
    monkeypatch.setattr(local_group, "_Controller", Controller)
    died = WorkerGroupError("died", {1: RuntimeError("Connection closed by peer")})
    decisions = []
    for has_failed in (False, True, ray.exceptions.ActorDiedError()):
        trainer = local_group.LocalTorchTrainer(print, train_loop_config={"recorder": actor(has_failed=has_failed)})
        usual = create_failure_policy(FailureConfig(max_failures=3))
        assert trainer._initialize_and_run_controller(failure_policy=usual, scaling_policy=None, more=1) == "result"
        decisions.append(made[-1]["failure_policy"].make_decision(died))
        assert made[-1]["more"] == 1
    assert decisions == [FailureDecision.RETRY, FailureDecision.RAISE, FailureDecision.RETRY]


def test_nobody_reserves_resources_of_this_machine_but_for_datasets_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data asks the same actor what is left for it."""
    from ray.train import FailureConfig
    from ray.train.v2._internal.execution.failure_handling import create_failure_policy

    made: list[dict[str, Any]] = []

    class Controller:
        def __init__(self, **given: Any) -> None:
            made.append(given)

        async def run(self) -> None:
            pass

        def get_result(self) -> None:
            pass

    monkeypatch.setattr(local_group, "_Controller", Controller)
    for datasets in ({}, {"train": print}):
        trainer = local_group.LocalTorchTrainer(print, train_loop_config={"recorder": None}, datasets=datasets)
        trainer._initialize_and_run_controller(failure_policy=create_failure_policy(FailureConfig()), scaling_policy="Ray's own")
    assert [type(one["scaling_policy"]).__name__ for one in made] == ["_AsManyAsAsked", "str"]
