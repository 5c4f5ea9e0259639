"""`sightline prepare pairs mine` under real kills at random times: it goes on, and nothing is lost or there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sightline.platform.data.dataset import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import growth

pytestmark = pytest.mark.long
KILLS = 12


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_times_it_ends_with_the_data_of_an_undisturbed_run(tmp_path: Path, workers: int) -> None:
    growth.mined(3000, tmp_path)
    words = [sys.executable, "-m", "sightline.pipelines", "prepare", "pairs", "mine", str(tmp_path / "walk"), "--pairs-per-frame", "2"]
    subprocess.run([*words, "--workers", "2", "--out", str(tmp_path / "whole")], check=True, capture_output=True)
    rng, killed, out = random.Random(workers), 0, tmp_path / "killed"
    for number in range(KILLS + 1):
        with subprocess.Popen(
            [*words, "--workers", str(workers), "--out", str(out)], start_new_session=True, stderr=subprocess.DEVNULL
        ) as run:
            with suppress(subprocess.TimeoutExpired):
                run.wait(None if number == KILLS else rng.uniform(0.5, 12))
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                killed += 1
                continue
            assert run.returncode == 0, "it ended by itself, and not well"
            break
    whole, found = Dataset.open(tmp_path / "whole"), Dataset.open(out)
    assert killed, "it was never killed: the machine is too fast for the times of this test"
    assert found.fingerprint == whole.fingerprint and not (out / ".staging").exists()
    ids = found.sample_ids()
    assert len(set(ids)) == len(ids) == whole.rows > 2000
