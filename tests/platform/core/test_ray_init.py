"""Ray's start on this machine."""

from __future__ import annotations

import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.core import ray_init


@pytest.mark.parametrize(("failures", "calls"), [(1, ["init", "shutdown", "init"]), (2, ["init", "shutdown"] * 2)])
def test_a_machine_too_busy_for_ray_is_asked_twice(failures: int, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    seen: list[str] = []

    def init(address: str, **options: object) -> None:
        seen.append("init")
        assert address == "local" and options["num_cpus"] == 1
        if seen.count("init") <= failures:
            raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: seen.append("shutdown"))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if failures < ray_init.STARTS:
        ray_init.start_ray(cpus=1)
    else:
        with pytest.raises(
            SightlineError, match=r"^Ray did not start on this machine: The current node timed out during startup\.$"
        ) as told:
            ray_init.start_ray(cpus=1, hint="sightline resume x")
        assert told.value.hint == "sightline resume x"
    assert seen == calls
