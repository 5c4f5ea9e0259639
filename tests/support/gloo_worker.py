"""One rank of a real gloo group that runs the training loop without Ray: `gloo_worker.py JOB.json RANK WORLD STORE`."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from sightline.platform.core.files import append_lines
from sightline.platform.runs.events import EVENTS
from sightline.platform.training.loop import Job, train


def main() -> None:
    job = Job(**json.loads(Path(sys.argv[1]).read_text()))
    rank, world, store = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=120))

    def post(event: dict[str, Any]) -> None:
        if rank == 0:
            append_lines(Path(job.folder) / EVENTS, [event])

    train(job, post, lambda: False)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
