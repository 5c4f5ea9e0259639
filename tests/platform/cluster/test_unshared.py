"""Workers that do not see the driver's folder, on a real Ray: refused, or served by a storage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.core.files import parse_lines
from sightline.platform.experiments import train_run
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import EVENTS, RunEvent, StorageNote
from sightline.platform.runs.identity import mark
from sightline.platform.runs.record import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers as on another machine: the token that they are told is not the one in the folder they see."""
    monkeypatch.setattr(train_run, "mark", lambda folder: f"{mark(folder)[:-4]}else")


def test_a_run_whose_workers_do_not_see_its_folder_is_refused_at_its_start(
    toy_run: Callable[..., Run], ray_head: None, apart: None
) -> None:
    run = toy_run("unseen", **{"train.workers": 2})
    with pytest.raises(SightlineError, match="does not see the run's folder") as caught:
        train_on_ray(run, lambda event: None)
    assert "train.storage=URI" in caught.value.hint and not (run.folder / "checkpoints").exists()


def test_with_a_storage_they_train_it_all_the_same(toy_run: Callable[..., Run], ray_head: None, apart: None, tmp_path: Path) -> None:
    """The driver writes the record and fetches the weights."""
    quick = {"train.length": "12 steps", "log.every": 3, "train.workers": 2, "train.storage": str(tmp_path / "there")}
    run = toy_run("unshared", **quick)
    seen: list[RunEvent] = []
    train_on_ray(run, seen.append)
    (own,) = run.folder.parent.glob(".copy-*/unshared")
    found = checkpoint.newest(run.folder / "checkpoints")
    assert run.status == "trained" and found is not None and found.state.step == 12
    assert (own / "checkpoints" / found.path.name).is_dir() and not (own / EVENTS).exists()
    assert sorted(run.history()) == list(range(12)), "by the driver, where MLflow's delivery reads it"
    with (run.folder / EVENTS).open("rb") as file:
        kinds = [event["kind"] for event in parse_lines(file)]
    assert kinds[:2] == ["worker", "start"] and kinds[-1] == "end" and not [event for event in seen if isinstance(event, StorageNote)]
