"""A run on several data sets: the same history after a kill and on fewer workers, and what it tells of each set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from gloo import train_in_processes
from toy import TOY, write_pairs

from sightline.methods.errors import CallError
from sightline.pipelines.resume import changed
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.training_data import open_training_data
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.preflight import check
from sightline.platform.reports import summary
from sightline.platform.runs.events import RunEvent, StepsDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import metrics_of


def made(folder: Path) -> list[dict[str, int]]:
    return [
        {str(write_pairs(folder / name / "train", rows, seed)): weight} for name, rows, seed, weight in (("a", 40, 1, 3), ("b", 24, 2, 1))
    ]


@pytest.mark.slow
def test_two_workers_killed_in_the_middle_and_one_that_goes_on_make_the_history_of_an_undisturbed_run(
    home: Path, tmp_path: Path, train_here: Callable[..., list[RunEvent]]
) -> None:
    train = made(tmp_path)

    def run(name: str, workers: int) -> Run:
        experiment, data = check(config.load("toy", {"data.train": train, "train.workers": workers}, settings=TOY))
        return create_run(name, experiment, data.fingerprint, "test", "")

    whole, killed = run("whole", 1), run("killed", 2)
    train_here(whole)
    train_in_processes(killed, 2, kill_at=6)
    before = checkpoint.newest(killed.folder / "checkpoints")
    assert before is not None and 6 <= before.state.step < 18
    killed.experiment = killed.experiment.with_workers(1)
    train_here(killed)
    ends = [checkpoint.newest(one.folder / "checkpoints") for one in (whole, killed)]
    assert ends[0] and ends[1] and ends[0].state.history == ends[1].state.history and ends[0].state.step == 18
    for one in (whole, killed):
        (last,) = (event for event in one.events() if isinstance(event, StepsDone) and event.end == 18)
        assert last.sets is not None and {name: (done.seen, done.epochs) for name, done in last.sets.items()} == {
            "a": (162, 162 / 40),
            "b": (54, 54 / 24),
        }
        each = {event.end: event for event in one.events() if isinstance(event, StepsDone) and event.sets}
        for event in each.values():
            assert event.sets is not None
            of_all = sum(event.losses["loss"]) / len(event.losses["loss"])
            assert sum(done.samples * (done.loss or 0) for done in event.sets.values()) / event.samples == pytest.approx(of_all, rel=1e-5)
    sent = {name: value for name, step, value in metrics_of(last) if step == 18}
    assert sent["data/b/samples"] == 54 and sent["data/a/loss"] > 0 and sent["data/a/epochs"] == pytest.approx(4.05)
    (table,) = summary.mixture(list(whole.events()), open_training_data(whole.experiment.data, "pairs")).tables
    assert [(row.name, *(cell.text for cell in row.cells[:4])) for row in table.rows] == [
        ("a", "0.75", "40", "162", "4.05"),
        ("b", "0.25", "24", "54", "2.25"),
    ]
    other = json.loads(json.dumps(train))
    with pytest.raises(CallError, match="cannot change what is learned"):
        changed(killed, {"data.train": [*other[:1], {next(iter(other[1])): 2}]})


@pytest.mark.usefixtures("home")
def test_what_a_mixture_cannot_be_is_told_before_anything_starts(tmp_path: Path, toy_data: dict[str, str]) -> None:
    one = toy_data["data.train"]
    small = str(write_pairs(tmp_path / "small", 2, 3))

    def asked(*places: str, **more: object) -> None:
        check(config.load("toy", {"data.train": [{place: 1} for place in places], **more}, settings=TOY))

    with pytest.raises(CallError, match="small has 2 samples, and 6 of each batch come from it"):
        asked(one, small)
    with pytest.raises(CallError, match="hold the same data"):
        asked(one, f"{one}/../train")
    with pytest.raises(CallError, match="there is no data set at"):
        asked(one, str(tmp_path / "none"))
