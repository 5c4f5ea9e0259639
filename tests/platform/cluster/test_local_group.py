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
    import ray.train.torch
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

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Meets)
    monkeypatch.setattr(local_group, "on_this_machine", lambda: True)
    storage = tmp_path / "ho me?#" / "ray"
    plan: Any = SimpleNamespace(workers=2, worker_cpus=0.5, worker_gpus=0)
    trainer = _Trainer("first", storage, plan, TrainConfig(), {"recorder": None}, {}, 0)
    trainer.run()
    assert trainer.error is None and [path.name for path in met] == ["group"]
    assert not met[0].exists(), "the folder is removed at the end"
    assert [path.name for path in tmp_path.iterdir()] == ["ho me?#"]
