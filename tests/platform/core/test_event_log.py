"""Events are written as the JSON lines of older versions and read back, whatever version wrote them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

from sightline.platform.core.event_log import append_events, decode, encode, read_events
from sightline.platform.core.files import append_lines
from sightline.platform.runs.events import (
    ClusterNote,
    HealthMeasured,
    RunEvent,
    StepsDone,
    TrainingFailed,
    WorkerStarted,
)

OLD = Path(__file__).parents[2] / "data" / "run_of_20429d3" / "run" / "events.jsonl"


def test_events_of_an_older_version_are_read_and_written_with_the_same_keys_in_the_same_order() -> None:
    records = [json.loads(line) for line in OLD.read_text().splitlines()]
    events = list(read_events(OLD, RunEvent))
    assert len(events) == len(records) == 10
    for event, record in zip(events, records, strict=True):
        assert encode(event) == record and event.time == record["time"]
        assert list(encode(event)) == [*(key for key in record if key != "time"), "time"], "`append_lines` puts the time first"


def test_a_written_event_is_read_back_with_the_time_of_its_writing(tmp_path: Path) -> None:
    written = [HealthMeasured(6, {"rank": 0.5, "std": float("inf")}, []), WorkerStarted(0, 7, "here"), TrainingFailed("full", machine=True)]
    append_events(tmp_path / "log", written)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert list(lines[0]) == ["time", "kind", "step", "figures", "warnings"] and "node" not in lines[1]
    read = list(read_events(tmp_path / "log", RunEvent))
    assert [type(event) for event in read] == [HealthMeasured, WorkerStarted, TrainingFailed]
    assert [encode(event) | {"time": 0} for event in read] == [encode(event) | {"time": 0} for event in written]
    assert all(event.time for event in read)


def test_what_a_newer_version_wrote_is_left_out_and_ends_nothing(tmp_path: Path) -> None:
    known = encode(ClusterNote("waiting"))
    newer = [{"kind": "teleported", "step": 3}, {**known, "urgency": 9}, {**known, "text": {"de": "warten"}}, {"no": "kind"}]
    append_lines(tmp_path / "log", newer)
    (event,) = read_events(tmp_path / "log", RunEvent)
    assert isinstance(event, ClusterNote) and event.text == "waiting"
    assert list(read_events(tmp_path / "missing", RunEvent)) == []


def test_the_old_key_of_a_failures_hint_is_read() -> None:
    event = decode({"kind": "failed", "what": "the disk is full", "mend": "free some space", "machine": True}, RunEvent)
    assert event == TrainingFailed("the disk is full", "free some space", machine=True)


def test_an_event_travels_between_processes() -> None:
    event = StepsDone(3, {"loss": [1.0]}, [0.1], [2.0], 0.5, {"data_wait": 0.1}, 12)
    assert pickle.loads(pickle.dumps(event)) == event
    assert (event.end, event.samples_per_second, event.data_wait) == (4, 24.0, 0.2)
