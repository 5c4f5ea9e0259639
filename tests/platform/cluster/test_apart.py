"""A driver on a machine that shares no folder with its workers: nodes in mount namespaces of their own, everything else on S3."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from heads import until
from nodes import STORE, Nodes, cluster
from object_store import BUCKET, object_store
from pyarrow import fs
from toy import TOY

from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster.placement import up
from sightline.platform.core.filesystem import open_place
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.train_run import train_on_ray
from sightline.platform.runs.events import CheckpointWritten, RunEvent, TrainingStarted, WorkerStarted

pytestmark = pytest.mark.long


def may_unshare() -> bool:
    return bool(shutil.which("unshare")) and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@contextmanager
def apart(nodes: Nodes, hidden: Path, log: Path) -> Iterator[None]:
    """A node with one CPU to which the folder `hidden` is empty: a disk of its own is mounted over it."""
    start = [str(Path(sys.executable).parent / "ray"), "start", f"--address={nodes.address}", "--num-cpus=1", "--block"]
    command = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs own "$0" && exec "$@"', str(hidden), *start, f"--object-store-memory={STORE}"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    try:
        yield
    finally:
        ours = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for one in (*ours, process):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait(60)


def uploaded(folder: str, name: str) -> str:
    system, place = open_place(f"s3://{BUCKET}/{name}")
    fs.copy_files(folder, place, destination_filesystem=system)
    return f"s3://{BUCKET}/{name}"


class Killer:
    """Kills the node of the worker of rank 1 after the checkpoint of step 60."""

    def __init__(self) -> None:
        self.seen: list[RunEvent] = []
        self.pid = 0

    def __call__(self, event: RunEvent) -> None:
        self.seen.append(event)
        if isinstance(event, WorkerStarted) and event.rank == 1 and not self.pid:
            self.pid = event.pid
        if isinstance(event, CheckpointWritten) and event.step == 60:
            (raylet,) = (one for one in psutil.Process(self.pid).parents() if "raylet" in one.name())
            raylet.kill()


@pytest.mark.skipif(not may_unshare(), reason="makes mount namespaces, which needs root")
def test_workers_that_see_nothing_of_the_drivers_disk_train_and_one_that_dies_is_replaced(
    home: Path, toy_data: dict[str, str], tmp_path: Path
) -> None:
    with object_store(), cluster() as nodes:
        there = {key: uploaded(folder, key) for key, folder in toy_data.items()}
        more = {
            "train.workers": 2,
            "train.storage": f"s3://{BUCKET}/runs",
            "train.length": "600 steps",
            "train.checkpoint_every": "20 steps",
        }
        experiment = config.load("toy", {**there, **more}, settings=TOY)
        run = create_run("apart", experiment, Dataset.open(there["data.train"]).fingerprint, "test", "")
        killer = Killer()
        with ExitStack() as others:
            for count in (1, 2, 3):  # one after another: Ray gives up on a node that takes long to start beside others
                others.enter_context(apart(nodes, home, tmp_path / f"{count}.log"))
                until(lambda count=count: len(up()) == 1 + count)
            train_on_ray(run, killer)
    found = checkpoint.newest(run.folder / "checkpoints")
    assert run.status == "trained" and found is not None and found.state.step == 600, "the driver has fetched it"
    assert sorted(run.history()) == list(range(600))
    assert not list((home / "runs").glob(".copy-*")), "the workers' folders lie on their own disks"
    starts = [event.first_step for event in killer.seen if isinstance(event, TrainingStarted)]
    assert len(starts) == 2 and starts[0] == 0 and 40 <= starts[1] < 600, "from the storage, on a node that had nothing"
