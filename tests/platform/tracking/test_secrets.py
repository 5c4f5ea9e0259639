"""A whole command with passwords in its addresses: nothing that it prints or writes holds them, but the private `run.json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sightline.pipelines.__main__ import main
from sightline.platform.core import ray_checks
from sightline.platform.experiments import train_run
from sightline.platform.runs.events import RunEvent
from sightline.platform.runs.record import Run
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # torch.export and MLflow warn of their own
WORDS = ("geheim", "W0rt")
AWAY = "http://ann:geheim/W0rt@geheim@127.0.0.1:1"


def test_no_secret_is_printed_or_written(
    home: Path, toy_recipe: str, toy_data: dict[str, str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_here(run: Run, on_event: Callable[[RunEvent], None]) -> None:
        train(TrainJob(run.experiment, run.folder, run.fingerprint), lambda event: run.append([event]), lambda: False)
        run.status = "trained"  # type: ignore[assignment]
        run.save()

    monkeypatch.setattr(ray_checks, "check_ray", lambda *words: None)
    monkeypatch.setattr(train_run, "start_ray", lambda *words, **named: None)
    monkeypatch.setattr(train_run, "train_on_ray", train_here)
    signed = "https://host/report?X-Amz-Signature=geheim&token=W0rt"
    words = [toy_recipe, *(f"{key}={value}" for key, value in toy_data.items()), f"log.tracking_uri={AWAY}", "probe.names=[]"]
    words += [f"log.tags={{source: '{signed}'}}"]
    monkeypatch.setattr("sys.argv", ["sightline", "pretrain", *words])
    for more in (["--dry-run"], ["--name", "first"], ["--name", "first"]):
        main(["pretrain", *words, *more])
    main(["resume", "first", "--json"])
    printed = "".join(capfd.readouterr())
    assert "http://***@127.0.0.1:1" in printed and "is away" in printed
    assert not [word for word in WORDS if word in printed]
    written = [path for path in home.rglob("*") if path.is_file()]
    assert (home / "runs" / "first" / "report.html") in written
    found = {path.name for path in written for word in WORDS if word.encode() in path.read_bytes()}
    assert found == {"run.json"} and (home / "runs" / "first" / "run.json").stat().st_mode & 0o077 == 0
