"""A whole run on a disk that is full, in a mount namespace of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import TOY, write_pairs

MOUNTS = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not MOUNTS, reason="mount namespaces need `unshare` and the rights of root"),
]


def in_namespace(folder: Path, *lines: str) -> list[dict[str, Any]]:
    """What `sightline ... --json` prints in a shell whose mounts nobody else sees."""
    write_pairs(folder / "train", 90, 1)
    (folder / "toy.yaml").write_text(yaml.safe_dump({**TOY, "probe": {"names": []}}))
    command = f'sightline() {{ {sys.executable} -m sightline.pipelines "$@" --json 2>>err; echo; }}'
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "SIGHTLINE_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    shell = ["unshare", "-m", "bash", "-c", "\n".join([command, *lines])]
    done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_run_whose_disk_fills_up_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """The disk is filled before the run and has room for its record, not for its checkpoints."""
    full, again = in_namespace(
        tmp_path,
        "mkdir home && mount -t tmpfs -o size=64m tmpfs home",
        "dd if=/dev/zero of=home/filler bs=1k count=$((64 * 1024 - 100)) status=none",
        "sightline pretrain toy.yaml data.train=train --name first",
        "rm home/filler",
        "sightline resume first",
    )
    assert "the disk is full: " in full["error"] and "free some space" in full["hint"], full
    assert again["status"] == "finished" and again["undelivered"] is None and again["registered"], again
