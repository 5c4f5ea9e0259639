"""Whole runs on a machine in trouble, each held against the run that nothing happened to: too little memory, a clock that is set back,
a full /dev/shm."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from sightline.platform.experiments.train_run import NextAttempt
from sightline.platform.runs.events import ClusterNote, StepsDone, TrainingStarted
from sightline.platform.runs.record import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from chaos import MLFLOW, PATIENCE, Chaos, Kill, Point, differences

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
STEP = Point("stepping", "sightline.platform.training.step", "Stepper.step")
ROOM = 6 << 30
"""Bytes of memory that the run may take before Ray ends workers, other programs of the machine included."""
MOUNTS = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


def libfaketime() -> Path | None:
    """The library of the package `libfaketime` from the package index, or of Debian."""
    spec = importlib.util.find_spec("libfaketime")
    places = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    found = [*(each for place in places for each in place.rglob("libfaketime.so.1")), *Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    return found[0] if found else None


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """With data, and the run to which nothing happens."""
    made = Chaos(tmp_path_factory.mktemp("chaos"))
    try:
        made.prepare("rooms")
        made.run("whole")
        yield made
    finally:
        for process in made.ours():
            process.kill()


@pytest.fixture
def harmed(chaos: Chaos, monkeypatch: pytest.MonkeyPatch) -> Chaos:
    """The same, with an environment for the test alone."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(chaos.home))
    monkeypatch.setattr(chaos, "environment", {})
    return chaos


def test_a_worker_that_takes_all_memory_is_ended_by_ray_and_the_run_goes_on(harmed: Chaos) -> None:
    memory = psutil.virtual_memory()
    share = (memory.total - memory.available + ROOM) / memory.total
    if share > 0.95:
        pytest.skip("this machine has too little free memory for a process that takes 6 GiB")
    harmed.environment |= {"RAY_memory_usage_threshold": f"{share:.3f}", "RAY_memory_monitor_refresh_ms": "100"}
    kill = Kill(STEP, 6, "memory")
    harmed.run("hungry", [kill])
    assert kill.outcome == "went on by itself"
    assert differences(harmed, "hungry", "whole") == []
    run = Run.open("hungry")
    told = [event.text for event in run.events() if isinstance(event, ClusterNote)]
    assert any("was killed by Ray because the machine ran out of memory; train with fewer train.workers" in text for text in told), told
    assert [event.first_step for event in run.events() if isinstance(event, TrainingStarted)][-1] == 3


def test_the_actor_between_workers_and_driver_may_die(harmed: Chaos) -> None:
    kill = Kill(Point("stepping", "sightline.platform.cluster.workers", "_Recorder.post"), 7, "worker")
    harmed.run("unrecorded", [kill])
    assert kill.outcome == "went on by itself"
    assert differences(harmed, "unrecorded", "whole") == []
    told = [event.text for event in Run.open("unrecorded").events() if isinstance(event, ClusterNote)]
    assert told == [NextAttempt.DIED]


@pytest.mark.skipif(libfaketime() is None, reason="needs libfaketime: `pip install libfaketime`, or Debian's package of that name")
def test_a_clock_that_is_set_back_changes_nothing(harmed: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all processes at once, between two steps, and once more before the encoder is registered."""
    offset, hours = harmed.folder / "offset", iter((2, 4))
    before = {"LD_PRELOAD": str(libfaketime()), "FAKETIME": "-2h"}
    told = subprocess.run([sys.executable, "-c", "import time; print(time.time())"], env={**os.environ, **before}, capture_output=True)
    if not told.stdout or time.time() - float(told.stdout) < 7000:
        pytest.skip("libfaketime is not of this machine")  # its wheel says that it is of any, and holds a library of one

    def set_back() -> None:
        offset.write_text(f"-{next(hours)}h\n")

    offset.write_text("+0\n")
    harmed.environment |= {"LD_PRELOAD": str(libfaketime()), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1"}
    harmed.environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    monkeypatch.setattr(harmed, "watch", set_back)
    register = Point("MLflow register", MLFLOW, "MlflowClient.create_model_version")
    kills = [Kill(STEP, 6, "nobody"), Kill(register, 1, "nobody")]
    result = harmed.run("set-back", kills)
    assert [kill.outcome for kill in kills] == ["went on by itself"] * 2
    assert differences(harmed, "set-back", "whole") == []
    events = [event for event in Run.open("set-back").events() if isinstance(event, StepsDone)]
    times = [event.time or 0 for event in events]
    assert max(times) - times[-1] > 7000, "the clock was not set back in the middle"
    assert all(event.seconds > 0 and min(event.phases.values()) >= 0 for event in events)
    ended = MlflowClient(result["tracking_uri"]).get_run(result["mlflow_run_id"]).info
    assert 0 < ended.end_time - ended.start_time < 1000 * PATIENCE and 0 < result["seconds"] < PATIENCE


@pytest.mark.skipif(not MOUNTS, reason="mount namespaces need `unshare` and the rights of root")
@pytest.mark.parametrize("filled", [0, 65_400])
def test_a_small_or_full_dev_shm_changes_nothing(filled: int, harmed: Chaos, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB, of which so many KiB are taken: a container's default. Ray keeps its objects in a folder then."""
    fill = f"dd if=/dev/zero of=/dev/shm/filler bs=1k count={filled} status=none"
    mount = f'mount -t tmpfs -o size=64m tmpfs /dev/shm && {fill} && exec "$@"'
    monkeypatch.setattr(harmed, "before", ("unshare", "-m", "bash", "-c", mount, "bash"))
    harmed.run(f"shm-{filled}")
    assert differences(harmed, f"shm-{filled}", "whole") == []
