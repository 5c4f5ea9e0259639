"""`sightline clean`: says what would go, and deletes when it is told to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from asking import Ask
from toy import TOY

from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.experiments.create import create_run
from sightline.platform.runs.record import Run


@pytest.fixture
def runs(home: Path) -> dict[str, Run]:
    """`done` is finished, `stopped` is not; both have checkpoints of three steps."""
    made = {name: create_run(name, config.load("toy", settings=TOY), "f", "test", "") for name in ("done", "stopped")}
    for name, run in made.items():
        run.status = {"done": "finished"}.get(name, "stopped")
        run.save()
        for step in (6, 12, 18):
            state = checkpoint.TrainState(step, step * 12, 0, 1, "f", "s", "fp32", "h")
            tensors = {"model": {"w": torch.zeros(1000)}, "optimizer": {"w|exp_avg": torch.zeros(2000)}}
            checkpoint.write(run.folder / "checkpoints", state, tensors)
    return made


def steps(run: Run) -> list[int]:
    return [found.state.step for found in checkpoint.checkpoints(run.folder / "checkpoints")]


def test_it_lists_with_sizes_and_deletes_nothing_until_it_is_told_to(runs: dict[str, Run], ask: Ask) -> None:
    code, out, _ = ask("clean")
    assert code == 0 and "nothing was deleted" in out and "--yes" in out
    assert "optimizer state of step 18" in out and "checkpoint of step 12" in out and "MB" in out
    code, out, _ = ask("clean", "--json")
    told = json.loads(out)
    assert told["deleted"] is False and told["bytes"] == sum(item["bytes"] for item in told["waste"]) > 8000
    assert steps(runs["done"]) == steps(runs["stopped"]) == [18, 12, 6]

    code, out, _ = ask("clean", "--yes")
    assert code == 0 and "deleted" in out
    assert steps(runs["done"]) == [18] and steps(runs["stopped"]) == [18, 12], "train.keep is 2"
    assert not any(Path(item["path"]).exists() for item in told["waste"])
    code, out, _ = ask("clean", "--yes")
    assert code == 0 and "nothing can go" in out


def test_runs_are_named_and_the_number_that_stays_is_said(runs: dict[str, Run], ask: Ask) -> None:
    assert ask("clean", "stopped", "--keep", "1", "--yes")[0] == 0
    assert steps(runs["stopped"]) == [18] and steps(runs["done"]) == [18, 12, 6]
    assert ask("clean", "done", "--keep-optimizer", "--yes")[0] == 0
    (left,) = checkpoint.checkpoints(runs["done"].folder / "checkpoints")
    assert left.tensors("optimizer")["w|exp_avg"].shape == (2000,)


def test_data_that_were_kept_from_a_source_go_when_nothing_names_them(runs: dict[str, Run], home: Path, ask: Ask) -> None:
    """One is of a run, one of a sweep whose record is damaged, one of a command that starts, one of nobody, one was never finished."""
    made = {name: home / "data" / name for name in ("images-0a", "images-0b", "images-0c", "images-0d", ".part-x")}
    for name, folder in made.items():
        folder.mkdir(parents=True)
        (folder / "shard.parquet").write_bytes(b"x" * 2_000_000)
        for path in (folder / "shard.parquet", folder):
            os.utime(path, (time.time() - (60 if name == "images-0c" else 200_000),) * 2)
    runs["done"].settings["data"]["val"] = str(made["images-0a"])
    runs["done"].save()
    (home / "sweeps/s").mkdir(parents=True)
    (home / "sweeps/s/sweep.json").write_text(f'{{"val": "{made["images-0b"]}", ')
    assert "images-0d" not in ask("clean", "done")[1]
    code, out, _ = ask("clean")
    lines = {name: " ".join(next(line for line in out.splitlines() if name in line).split()) for name in made}
    assert code == 0 and lines["images-0d"] == "data no run's images-0d, 2 days old 2.0 MB"
    assert lines["images-0a"].endswith("images-0a, 2.0 MB, 2 days old, of done") and lines["images-0b"].endswith("of s")
    assert lines["images-0c"].endswith("0 hours old, of no run yet") and lines[".part-x"].startswith("data no run's")
    told = json.loads(ask("clean", "--yes", "--json")[1])
    assert sorted(folder.name for folder in (home / "data").iterdir()) == ["images-0a", "images-0b", "images-0c"]
    assert [one["runs"] for one in told["data"]] == [["done"], ["s"], []]


@pytest.mark.parametrize(("words", "says"), [(["--keep", "0"], "at least 1"), (["stoped"], "did you mean 'stopped'")])
def test_a_wrong_call_deletes_nothing(words: list[str], says: str, runs: dict[str, Run], ask: Ask) -> None:
    code, _, err = ask("clean", *words, "--yes")
    assert code == 2 and says in err
    assert steps(runs["done"]) == steps(runs["stopped"]) == [18, 12, 6]
