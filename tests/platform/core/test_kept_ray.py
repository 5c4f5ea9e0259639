"""The Ray that `sightline up` keeps: who may use it, and who may not. Ray itself is stood in for."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from sightline.methods.errors import CallError, MachineError, SightlineError
from sightline.platform.core import kept_ray
from sightline.platform.core.kept_ray import ALIVE, IN_USE, RECORD, KeptRay
from sightline.platform.core.locks import try_lock


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    yield
    kept_ray.release()


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[KeptRay]:
    """A record whose keeper lives, and an address that answers."""
    place = tmp_path / "ray"
    place.mkdir()
    keeper = subprocess.Popen(["flock", "--no-fork", place / ALIVE, "sleep", "60"], env=kept_ray.environment_of("self"))
    while not kept_ray._held(place / ALIVE):
        assert keeper.poll() is None
    with keeper, socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        one = KeptRay(address, keeper.pid, socket.gethostname(), kept_ray.code_digest(), sys.prefix, len(os.sched_getaffinity(0)))
        kept_ray.keep_record(asdict(one))
        yield one
        keeper.kill()


def test_it_is_found_and_used_by_one_command(kept: KeptRay, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stat.S_IMODE((tmp_path / "ray" / RECORD).stat().st_mode) == 0o600
    assert kept_ray.take() == kept_ray.take() == kept_ray.used() == kept and kept_ray.in_use()
    kept_ray.release()
    with try_lock(tmp_path / "ray" / IN_USE):  # type: ignore[union-attr]  # another command
        assert kept_ray.take() is None and "in use by another command" in capsys.readouterr().err
        with pytest.raises(SightlineError, match="a command is using"):
            kept_ray.down()
    assert kept_ray.take() == kept


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"code": "other"}, "the code or a package has changed"),
        ({"python": "/other/.venv"}, "it runs Python of /other/.venv"),
        ({"cpus": 1000}, "it was started for 1000 CPUs"),
        ({"pid": 2**22 + 1}, "its environment cannot be read"),
    ],
)
def test_one_that_differs_is_left_alone(change: dict[str, object], told: str, kept: KeptRay, capsys: pytest.CaptureFixture[str]) -> None:
    kept_ray.keep_record(asdict(replace(kept, **change)))  # type: ignore[arg-type]
    assert kept_ray.take() is None and told in capsys.readouterr().err


def test_the_environment_of_a_worker_is_that_of_the_keeper(kept: KeptRay) -> None:
    mine = kept_ray.environment_of("self")
    assert kept_ray.unfit(kept, mine | {"TERM": "other", "SSH_TTY": "x"}) is None
    assert (
        kept_ray.unfit(kept, mine | {"AWS_PROFILE": "b", "OMP_NUM_THREADS": "77"})
        == "it was started with another AWS_PROFILE, OMP_NUM_THREADS"
    )


@pytest.mark.parametrize("record", ["", "[]", "{", '{"address": "127.0.0.1:1"}'])
def test_a_damaged_record_is_none(record: str, kept: KeptRay, tmp_path: Path) -> None:
    (tmp_path / "ray" / RECORD).write_text(record)
    assert kept_ray.find() is None and kept_ray.take() is None


def test_a_record_of_another_version_is_found_and_does_not_fit(kept: KeptRay, tmp_path: Path) -> None:
    (tmp_path / "ray" / RECORD).write_text(f'{{"address": "{kept.address}", "pid": {kept.pid}, "host": "{kept.host}", "later": 1}}')
    found = kept_ray.find()
    assert found is not None and kept_ray.unfit(found)


def test_a_killed_keeper_harms_nobody(kept: KeptRay, tmp_path: Path) -> None:
    os.kill(kept.pid, signal.SIGKILL)
    os.waitpid(kept.pid, 0)
    assert kept_ray.find() is None and kept_ray.take() is None
    assert kept_ray.down() is None and not (tmp_path / "ray" / RECORD).exists()


def test_one_that_does_not_answer_is_left(kept: KeptRay) -> None:
    kept_ray.keep_record(asdict(replace(kept, address="127.0.0.1:1")))
    assert kept_ray.take() is None and not kept_ray.in_use()


def test_up_twice_is_one_and_down_ends_it(kept: KeptRay, tmp_path: Path) -> None:
    assert kept_ray.up(30, 6) == (kept, False)
    assert kept_ray.down() == kept
    assert not (tmp_path / "ray" / RECORD).exists() and not kept_ray._held(tmp_path / "ray" / ALIVE)


def test_why_a_keeper_ended_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    silent = f"#!{sys.executable}\nraise SystemExit('no room for Ray')\n"
    (tmp_path / "python").write_text(silent)
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(MachineError, match="Ray did not start: no room for Ray") as told:
        kept_ray.up(30, 6)
    assert "keeper.log" in told.value.hint


def test_no_ray_without_its_token_is_kept(monkeypatch: pytest.MonkeyPatch, kept: KeptRay) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert kept_ray.take() is None
    with pytest.raises(CallError, match="RAY_AUTH_MODE"):
        kept_ray.up(30, 6)
