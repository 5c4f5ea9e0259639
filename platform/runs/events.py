"""What training tells its driver, and what the driver answers. Plain dictionaries, so that they can be written as JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sightline.platform.core.files import append_lines

EVENTS, NOTICES = "events.jsonl", "notices.jsonl"
"""Files in a run's folder with one writer each: the process of rank 0, where it sees the run's folder, and the driver."""

Event = dict[str, Any]
"""On disk every event carries `time`, seconds since 1970. `kind` is one of
`worker`     rank, pid, host; from every rank. On Ray also node: its id
`cache`      done, total, in samples; or text: of the cache that is made or found before training
`cluster`    text: what the run waits for, or where it goes on
`start`      device, precision, parameters, first_step, steps, workers
`steps`      first, losses {name: [per step]}, lr, grad_norm, seconds, phases {name: seconds}, samples;
             system {name: value}, with `log.system_metrics`
`broken`     step, reasons; from any rank: samples that a substitute stands in for
`validation` step, losses {name: value}
`health`     step, figures {name: value}, warnings: a sentence for each figure that tells of a collapse
`checkpoint` step, path, seconds
`storage`    text: of checkpoints that cannot be put into `train.storage`, or fetched from there
`nonfinite`  step, ids; from any rank
`failed`     what, hint; machine: whether it was a fault of the machine (`MachineError`), where a checkpoint could not be written
`end`        step, history, stopped
"""
Post = Callable[[Event], None]
"""Hands an event to the driver; never blocks on it."""
Stop = Callable[[], bool]
"""Whether the driver asked for an early end, as far as is known here; never blocks."""


def write_down(folder: Path, events: list[Event]) -> None:
    """Record in the run's `folder` what workers told: each event in the file that its `record` names, if it is not there already (None)."""
    records = [event.pop("record", NOTICES) for event in events]
    for name in (EVENTS, NOTICES):
        append_lines(folder / name, [event for event, record in zip(events, records, strict=True) if record == name])
