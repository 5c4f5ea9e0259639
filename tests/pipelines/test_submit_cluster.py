"""`submit` on a real head: loopback, token authentication, a dashboard of its own. Stopped by the processes that were started here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from heads import WAIT, as_person, free_port, head, short_folder, until
from listening import family, open_to_others, with_variable
from toy import TOY, write_pairs

from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.cluster import code_wheel, submit
from sightline.platform.runs.events import StepsDone
from sightline.platform.runs.record import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the jobs are submitted from."""
    folder = tmp_path_factory.mktemp("work")
    write_pairs(folder / "train", 90, 1)
    long = {**TOY["train"], "length": "100000 steps", "checkpoint_every": "100000 steps", "validate_every": "100000 steps"}
    (folder / "toy.yaml").write_text(yaml.safe_dump({**TOY, "train": long}))
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a person whose cluster runs."""
    words = ["--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--num-cpus=2", "--disable-usage-stats"]
    with short_folder() as scratch, head(scratch, free_port(), words, {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}) as person:
        yield person


def sightline(work: Path, cluster: dict[str, str], *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "sightline.pipelines", *words]
    done = subprocess.run(command, env=cluster, cwd=work, capture_output=True, text=True, timeout=WAIT)
    return done.returncode, done.stdout, done.stderr


def test_a_submitted_run_trains_and_a_stop_leaves_a_checkpoint(work: Path, cluster: dict[str, str]) -> None:
    code, out, err = sightline(
        work, cluster, "submit", "--json", "--no-wait", "--", "pretrain", "toy.yaml", "data.train=train", "--name", "first"
    )
    assert code == 0, err
    job = json.loads(out)["job"]
    folder = work / "sightline-runs" / "runs" / "first"

    def trains() -> bool:
        return (folder / "events.jsonl").exists() and any(isinstance(event, StepsDone) for event in Run.read(folder).events())

    try:
        until(trains)
        assert checkpoint.newest(folder / "checkpoints") is None, "the stop alone is to leave one"
        command = [sys.executable, "-m", "sightline.pipelines", "submit", "--follow", job]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a test run in the background ignores it, and hands that on
        with subprocess.Popen(command, env=cluster, cwd=work, text=True, preexec_fn=heeded, **pipes) as following:
            assert any("run first" in line for line in following.stdout or ())
            assert open_to_others([*family(following.pid), *with_variable("RAY_AUTH_TOKEN_PATH", cluster["RAY_AUTH_TOKEN_PATH"])]) == []
            following.send_signal(signal.SIGINT)
            _, said = following.communicate(timeout=WAIT)
        assert following.returncode == 130 and f"{job} goes on" in said
    finally:
        code, out, err = sightline(work, cluster, "submit", "--json", "--stop", job)
    assert code == 0, err
    assert json.loads(out) == {"job": job, "status": "STOPPED"}
    assert "go on with: sightline resume first" in err
    run, found = Run.read(folder), checkpoint.newest(folder / "checkpoints")
    assert run.status == "stopped" and found is not None and found.state.step == max(run.history()) + 1

    code, out, err = sightline(work, cluster, "submit", "--follow", job)
    assert code == 1 and "run first: recipe toy" in out and "was stopped" in err


def test_the_job_runs_the_code_that_was_sent_and_gives_its_result_and_its_exit_code(work: Path, cluster: dict[str, str]) -> None:
    """Not the editable install that is on the same node's path."""
    code, out, err = sightline(work, cluster, "submit", "--json", "--", "inspect", "train")
    assert code == 0, err
    assert json.loads(out)["result"]["rows"] == 90
    code, out, err = sightline(work, cluster, "submit", "--", "inspect", "nothing-here")
    assert code == 2 and "nothing-here" in out and "exit code 2" in err

    sent = code_wheel.running_code()
    words = sent.files["sightline/pipelines/inspect.py"].decode() + '\n\ndef run(args):\n    print("the code that was sent")\n'
    changed = replace(sent, files={**sent.files, "sightline/pipelines/inspect.py": words.encode()})
    with as_person(cluster) as patch:
        patch.chdir(work)
        codes = [changed, replace(sent, requirements=(*sent.requirements, "no-such-thing>=3")), replace(sent, python=">=99")]
        jobs = [sent_job(patch, code, code) for code in codes] + [sent_job(patch, changed, sent)]  # they run at the same time
        (_, new), (second, unmet), third, (fourth, other) = map(end_of, jobs)
        assert new.endswith("the code that was sent\n")
        assert second == "FAILED" and "no no-such-thing" in unmet and third == ("PYTHON", "")
        assert fourth == "FAILED" and f"code {sent.digest} was sent, but code {changed.digest} runs here" in other


def sent_job(patch: pytest.MonkeyPatch, wheel: code_wheel.Code, said: code_wheel.Code) -> str:
    """An `inspect` with the wheel of one code and the digest of another."""
    with patch.context() as here:
        here.setattr(submit, "running_code", lambda: said)
        here.setattr(submit, "pack", lambda code, folder: code_wheel.pack(wheel, folder))
        job = submit.new_job()
        submit.submit(submit.connect(os.environ["RAY_API_SERVER_ADDRESS"]), job, ["inspect", "train"])
    return job


def end_of(job: str) -> tuple[str, str]:
    """Status and log of the job."""
    client = submit.connect(os.environ["RAY_API_SERVER_ADDRESS"])
    log: list[str] = []
    details = submit.follow(client, job, log.append)
    if details.driver_exit_code is None:
        with pytest.raises(submit.CallError, match="the cluster's Python does not fit"):
            submit.check_end(job, details)
        return "PYTHON", ""
    return details.status.value, "".join(log)
