"""`cluster.yaml`: a file that Ray's launcher takes, and node types that come up when they are needed, around a head that does no work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from heads import WAIT, free_port, head, short_folder

ROOT = Path(__file__).resolve().parents[1]
CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())

pytestmark = pytest.mark.slow

BUSY = """
import json, ray
WANTED = {"train.workers": 2, "train.accelerator_type": "A10G", "train.labels": {"disk": "in(nvme, ssd)"}}
from sightline.platform import config
from sightline.platform.cluster import placement
ray.init(log_to_driver=False, logging_level="ERROR")
@ray.remote
def where():
    own = ray.get_runtime_context().get_node_id()
    return next(node["Resources"] for node in ray.nodes() if node["NodeID"] == own)
asked = [where.options(num_cpus=16, num_gpus=1).remote(), where.options(num_cpus=16).remote()]
said = []
plan, lease = placement.await_room(config.load("croco-tiny", WANTED), said.append)
lease.release()
gpus = sum(has["GPU"] for has in placement.up().values())
print(json.dumps([*ray.get(asked, timeout=300), said, [plan.workers, plan.worker_gpus], gpus]))
"""


def start_line(commands: list[str]) -> str:
    (line,) = (line for line in commands if "ray start" in line)
    return line


def test_rays_launcher_takes_the_file() -> None:
    """A head that trains nothing, GPU and CPU workers from none upwards, a token, a dashboard that nobody outside reaches."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(CLUSTER))
    kinds = dict(CLUSTER["available_node_types"])
    first = kinds.pop(CLUSTER["head_node_type"])
    assert first["resources"] == {"CPU": 0} and all(kind["min_workers"] == 0 for kind in kinds.values())
    assert sorted("GPU" in kind["resources"] for kind in kinds.values()) == [False, True]
    starts = [start_line(CLUSTER[name]) for name in ("head_start_ray_commands", "worker_start_ray_commands")]
    assert "--dashboard-host=127.0.0.1" in starts[0] and "--num-cpus=0" in starts[0]
    assert "export RAY_AUTH_MODE=token" in "\n".join(CLUSTER["setup_commands"]) and all(". ~/sightline.env;" in line for line in starts)
    assert CLUSTER["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


def test_every_command_of_the_file_is_one_that_a_shell_reads() -> None:
    for name, commands in CLUSTER.items():
        for command in commands if name.endswith("_commands") else ():
            assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0, command


def test_the_setup_installs_the_versions_that_were_tested() -> None:
    (install,) = (command for command in CLUSTER["setup_commands"] if "pip install" in command and "--editable" in command)
    assert "--constraint constraints.txt" in install
    assert re.search(r"^ray==\d", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert not {"constraints.txt", "pyproject.toml", "platform", "methods", "pipelines"} & set(CLUSTER["rsync_exclude"])


@pytest.fixture
def scratch() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.mark.timeout(1500)
def test_the_node_types_come_up_when_work_asks_for_them(scratch: Path) -> None:
    """For tasks of Ray, and for a run that needs one GPU more, of a model and on nodes with a label that it names.

    With the head's own start command, and Ray's provider that starts nodes as processes of this machine in the cloud's place.
    """
    from ray._private.services import get_node_ip_address
    from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

    port = free_port()
    address = f"{get_node_ip_address()}:{port}"
    types = {name: {**kind, "node_config": {}} for name, kind in CLUSTER["available_node_types"].items()}
    for kind in types.values():
        if "GPU" in kind["resources"]:  # as Ray finds them on the real machines
            kind |= {"resources": {**kind["resources"], "accelerator_type:A10G": 1}, "labels": {"disk": "nvme"}}
    types[FAKE_HEAD_NODE_TYPE] = {**types.pop(CLUSTER["head_node_type"]), "max_workers": 0}
    provider = {"type": "fake_multinode", "gcs_address": address, "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True}
    provider |= {"worker_liveness_check": False, "disable_node_updaters": True}  # else slow nodes are repaired by SSH, for ever
    kept = {name: CLUSTER[name] for name in ("cluster_name", "max_workers", "idle_timeout_minutes")}
    commands = {name: [] for name in CLUSTER if name.endswith("_commands")} | {"initialization_commands": [], "cluster_synced_files": []}
    kept |= {"upscaling_speed": 1.0, "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, **commands}
    fake = {**kept, "provider": provider, "available_node_types": types, "head_node_type": FAKE_HEAD_NODE_TYPE}
    (scratch / "fake.yaml").write_text(yaml.safe_dump(fake))
    words = shlex.split(start_line(CLUSTER["head_start_ray_commands"]).rpartition("ray start")[2])
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    }
    with head(scratch, port, [*words, f"--autoscaling-config={scratch / 'fake.yaml'}"], environment) as person:
        driver = {**person, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "token"}
        try:
            done = subprocess.run([sys.executable, "-c", BUSY], env=driver, cwd=scratch, capture_output=True, text=True, timeout=WAIT)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(_monitor(scratch)) from error
        assert done.returncode == 0, done.stderr[-3000:] + _monitor(scratch)
    gpu, cpu, said, plan, gpus = json.loads(done.stdout.splitlines()[-1])
    assert (
        len(said) == 1 and "needs 2 x 1 CPU + 1 GPU (accelerator_type A10G, disk=in(nvme, ssd))" in said[0] and (plan, gpus) == ([2, 1], 2)
    )
    assert (gpu["CPU"], gpu["GPU"]) == (16, 1) and (cpu["CPU"], cpu.get("GPU")) == (16, None)
    assert not any(name == "node:__internal_head__" for node in (gpu, cpu) for name in node)


def _monitor(scratch: Path) -> str:
    logs = sorted(scratch.glob("session_2*/logs/monitor.*"), key=os.path.getsize)
    return logs[-1].read_text()[-2000:] if logs else ""


def block(language: str, part: str) -> str:
    """The one block of docs/clusters.md that has this part."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "clusters.md").read_text(), re.S | re.M)
    (found,) = (one for one in blocks if part in one)
    return found


def commands_of(text: str) -> list[list[str]]:
    """The words of each `sightline` command in it."""
    return [shlex.split(found) for found in re.findall(r"(?:sightline|python -m sightline\.pipelines) ((?:pretrain|resume)[^\"\n]*)", text)]


def check_commands(text: str) -> None:
    from sightline.pipelines.__main__ import parse
    from sightline.platform import config

    found = commands_of(text)
    assert found
    for words in found:
        asked = parse(words)
        if words[0] == "pretrain":
            config.load(asked.recipe, config.parse_overrides(asked.settings))


def test_the_slurm_script_is_one_that_a_shell_reads_and_ray_knows() -> None:
    import click
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import symmetric_run

    script = block("sh", "#SBATCH")
    assert subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True).returncode == 0
    assert script.startswith("#!/bin/bash") and "--ntasks-per-node=1" in script and "--exclusive" in script
    (words,) = (shlex.split(line.partition(" -- ")[0]) for line in script.splitlines() if "symmetric-run" in line)
    known = {option for command in (symmetric_run, start) for one in command.params if isinstance(one, click.Option) for option in one.opts}
    assert {word for word in words[words.index("symmetric-run") :] if word.startswith("--")} <= known
    check_commands(script)


def test_the_rayjob_has_what_kuberay_asks_for() -> None:
    import ray

    text = block("yaml", "kind: RayJob")
    job = yaml.safe_load(text)
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert (job["apiVersion"], cluster["rayVersion"]) == ("ray.io/v1", ray.__version__)
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"].keys() == {"RAY_JOB_STOP_WAIT_TIME_S"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        mounts = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}
        assert all(one["resources"]["limits"] == one["resources"]["requests"] for one in pod["containers"]), "Ray counts what it may use"
    check_commands(text)
