"""The cost of a run is told before it starts, of every method, also of those whose shapes depend on values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from toy import TOY, TOY_IMAGES

from sightline.platform import config
from sightline.platform.experiments import estimate
from sightline.platform.experiments.estimate import estimate_cost
from sightline.platform.experiments.flops import CountFlops

TOYS: dict[str, tuple[str, dict[str, Any]]] = {
    "croco": ("model.encoder_depth", TOY),
    "conmim": ("model.depth", TOY_IMAGES["conmim"]),
    "loca": ("model.encoder_depth", TOY_IMAGES["loca"]),
}


def test_what_is_counted_is_what_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    network = nn.Sequential(nn.Conv1d(3, 8, 2), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.BatchNorm1d(8))
    with CountFlops() as ours, FlopCounterMode(display=False) as theirs:
        network(torch.ones(2, 3, 9)).square().sum().backward()
        with torch.inference_mode():
            network(torch.ones(2, 3, 9))
    assert ours.total == theirs.get_total_flops() > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", TOYS)
def test_the_cost_of_a_sample_grows_with_the_network(method: str) -> None:
    depth, toy = TOYS[method]
    small, large = (estimate_cost(config.load("toy", {depth: n}, settings=toy)).gflops_per_sample for n in (2, 4))
    assert small is not None and large is not None
    assert 1.2 * small < large < 2 * small


def test_a_network_too_large_to_try_has_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "MOST_PARAMETERS_ON_CPU", 0)
    monkeypatch.setattr(estimate, "SMALL", 0)
    cost = estimate_cost(config.load("toy", settings=TOY_IMAGES["conmim"]))
    assert cost.checkpoint_bytes == 12 * cost.parameters - 8 * (cost.parameters - (cost.weights_bytes - 4 * cost.parameters) // 12)
    assert cost.gflops_per_sample is None and ("cost", "not countable without data") in cost.lines()
