"""Which Ray a command runs on: the one the environment names, else one of its own that nobody else reaches."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from sightline.platform.core.ray_init import start_ray


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of `ray.init`, which is not carried out."""
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ray, "init", lambda *words, **options: calls.append((words, options)))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return calls


def test_without_an_address_nothing_of_this_machine_is_joined(started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    """By default Ray would join whatever was last started here by `ray start`."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start_ray(cpus=3)
    ((words, options),) = started
    assert words == ("local",)
    assert (options["num_cpus"], options["include_dashboard"]) == (3, False)


def test_the_cluster_that_the_environment_names_is_joined_as_it_is(started: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    start_ray()
    ((words, options),) = started
    assert words == () and not {"num_cpus", "object_store_memory", "_node_ip_address"} & set(options)
