"""One damaged record hurts its own run alone, whatever the file holds, and is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.pipelines.__main__ import main
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.experiments.compare.record import Comparison
from sightline.platform.experiments.sweep.record import TRIALS, Sweep, SweepPlan
from sightline.platform.runs.clean import find_waste
from sightline.platform.runs.events import EVENTS, ClusterNote, StepsDone
from sightline.platform.runs.record import Run, all_runs
from sightline.platform.tracking.mlflow_run import Tracking, is_behind

SHAPES: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "number": b"17",
    "text": b'"run"',
    "truncated": b'{"name": "bad", "set',
    "nul": bytes(500),
    "not utf-8": b'{"name": "\xff\xfe"}',
    "deep": b"[" * 100_000,
    "other object": b'{"files": [1], "offset": [], "delivered": 3, "kind": {}}',
    "far number": b'{"files": {"model.safetensors": 1e999}, "offset": 1e30, "delivered": {}, "step": "x"}',
}


FIELDS: list[dict[str, Any]] = [
    {"settings": []},
    {"settings": {"model": 3}},
    {"settings": {}},
    {"settings": {"method": ["croco"]}},
    {"settings": {"method": "croco", "model": 3}},
    {"settings": {"method": "croco", "train": {"length": []}, "data": [], "": {}}},
    {"status": "paused"},
    {"attempts": "two"},
    {"mlflow_run_id": 5},
    {"name": None},
    {"recipe": {"a": 1}},
    {"created": 1, "versions": []},
    {"tracking_uri": []},
    {"from_the_future": True},
]


@pytest.fixture
def two(toy_run: Callable[..., Run]) -> tuple[Run, Run]:
    good, bad = toy_run("good"), toy_run("bad")
    good.mlflow_run_id = "f00d"
    good.save()
    return good, bad


def test_a_run_json_of_any_shape(two: tuple[Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = two
    for shape in SHAPES.values():
        (bad.folder / "run.json").write_bytes(shape)
        damaged: list[str] = []
        assert all_runs(damaged.append) == [good]
        (line,) = damaged
        assert f"{bad.folder / 'run.json'} is not readable: " in line
        assert Run.open("f00d") == good == Run.open("good")
        with pytest.raises(CallError, match=r"no run 'beef'.*\n.*bad/run\.json is not readable"):
            Run.open("beef")
        assert main(["clean"]) == 0
        assert "passed over: " in (out := capsys.readouterr().out) and "bad/run.json" in out
        assert main(["resume", "bad"]) == 2
        assert "bad/run.json is not readable" in (err := capsys.readouterr().err) and "report it" not in err


def test_a_run_json_with_a_field_of_another_type(two: tuple[Run, Run], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = two
    whole = json.loads((bad.folder / "run.json").read_text())
    for values in FIELDS:
        (bad.folder / "run.json").write_text(json.dumps(whole | values))
        assert main(["clean"]) == 0 and Run.open("f00d") == good
        assert main(["resume", "bad"]) == 2
        assert "report it" not in (err := capsys.readouterr().err) and "bad/run.json" in err, err


def test_events_tracking_and_checkpoints_of_any_shape(two: tuple[Run, Run]) -> None:
    _, bad = two
    uneven = {"kind": "steps", "first": 0, "losses": {"loss": [1.0]}, "lr": [0.1, 0.1], "grad_norm": [1.0], "seconds": 0}
    steps = bad.folder / "checkpoints"
    for name in ("step-00000004", "step-00000006", "step-of mine"):
        (steps / name).mkdir(parents=True)
    for shape in SHAPES.values():
        (bad.folder / EVENTS).write_bytes(shape + b"\n" + json.dumps({**uneven, "phases": {}, "samples": 1}).encode() + b"\n")
        bad.append([ClusterNote("after"), StepsDone(3, {"loss": [1.0]}, [0.1], [2.0], 0.5, {}, 12)])
        assert [type(event) for event in bad.events()] == [ClusterNote, StepsDone] and list(bad.history()) == [3]

        (bad.folder / "tracking.json").write_bytes(shape)
        assert Tracking(bad).offset == 0 and is_behind(bad)

        for path in steps.iterdir():
            (path / "complete.json").write_bytes(shape)
        assert checkpoint.newest(steps) is None and len(checkpoint.corrupt(steps)) == 2
        assert find_waste(bad) == []
        (steps / "step-00000006" / "complete.json").write_text('{"files": {}}')
        (steps / "step-00000006" / "state.json").write_bytes(shape)
        assert checkpoint.newest(steps) is None and find_waste(bad) == []


def test_a_sweep_and_a_comparison_of_any_shape(home: Path) -> None:
    search = {"space": {"optim.lr": "1e-3..1e-2"}, "trials": 2, "objective": "val/loss", "better": "lower"}
    plan = SweepPlan.model_validate({**search, "concurrent": 1, "threads": 1, "steps": 4, "rungs": (4,)})
    sweep = Sweep("s", home / "sweeps" / "s", "toy", {}, "f", plan, "now", "sightline sweep")
    sweep.folder.mkdir(parents=True)
    sweep.save()
    assert Sweep.open("s") == sweep
    (path := home / "comparisons" / "c" / "comparison.json").parent.mkdir(parents=True)
    for shape in SHAPES.values():
        (sweep.folder / TRIALS).write_bytes(b'{"kind": "result", "trial": 4, "decision": "STOP", "step": 1, "objective": 1}\n' + shape)
        assert sweep.trials() == []
        (sweep.folder / "sweep.json").write_bytes(shape)
        with pytest.raises(CallError, match=r"s/sweep\.json is not readable"):
            Sweep.open("s")
        path.write_bytes(shape)
        with pytest.raises(CallError, match=r"c/comparison\.json is not readable"):
            Comparison.open("c")
