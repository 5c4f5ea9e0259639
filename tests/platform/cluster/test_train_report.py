"""What Ray Train gets of a checkpoint: links, which it may delete."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from pyarrow.fs import LocalFileSystem
from ray.train import Checkpoint

from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster.train_report import link


def test_ray_reads_a_checkpoint_through_its_links_and_deletes_nothing_but_them(tmp_path: Path) -> None:
    path = checkpoint.write(
        tmp_path / "checkpoints", checkpoint.TrainState(3, 12, 0, 1, "f", "s", "fp32", "h"), {"model": {"w": torch.ones(2)}}
    )
    place = link(path, tmp_path / "ray" / "first-1-0a" / path.name)
    assert link(path, place) == place, "the same step of another attempt"
    shown = Path(Checkpoint.from_directory(str(place)).to_directory(str(tmp_path / "copy")))
    assert checkpoint.problem(shown) is None and not (shown / "state.json").is_symlink()
    moved = (tmp_path / "ray").parent.rename(tmp_path.with_name("moved"))
    assert (moved / "ray" / "first-1-0a" / path.name / "model.safetensors").exists()
    moved.rename(tmp_path)
    LocalFileSystem().delete_dir(str(place))  # as Ray does where `CheckpointConfig.num_to_keep` says so
    assert not place.exists() and checkpoint.problem(path) is None


def test_a_checkpoint_that_is_gone_leaves_an_empty_folder(tmp_path: Path) -> None:
    """Ray asserts that the folders of its record exist."""
    path = checkpoint.write(
        tmp_path / "checkpoints", checkpoint.TrainState(3, 12, 0, 1, "f", "s", "fp32", "h"), {"model": {"w": torch.ones(2)}}
    )
    place = link(path, tmp_path / "ray" / path.name)
    shutil.rmtree(path)
    assert place.is_dir() and not (place / "state.json").exists()
    assert list(link(path, tmp_path / "ray" / "later").iterdir()) == []
