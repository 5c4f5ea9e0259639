"""What the health of I2P-MAE tells: whether the shape about a hidden token is predicted, and the teacher's features."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from sightline.methods.contract import BuildContext
from sightline.methods.i2p_mae import ALARMS, method
from sightline.methods.i2p_mae.config import I2PConfig
from sightline.methods.i2p_mae.diagnostics import health_metrics
from sightline.methods.random import MicrobatchRng

SMALL = {"points": 64, "groups": [32, 16, 8], "neighbours": [4, 4, 4], "dims": [12, 24, 48], "depths": [1, 1, 1], "embed": [8, 16]}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_centre_of_a_token_and_a_mean_feature_explain_nothing() -> None:
    hidden, targets = noise(40, 4, 3), noise(2, 30, 5)
    hidden[:, 0] = 0  # the centre is one of its neighbours
    guess = {"points": hidden.square().sum(dim=2).mean(), "features": (targets - targets.mean(dim=(0, 1))).square().mean()}
    metrics = health_metrics(noise(2, 8, 6), guess, hidden, targets)
    assert [metrics[name].item() for name in ("points_explained", "features_explained")] == pytest.approx([0, 0], abs=1e-6)
    exact = {name: torch.tensor(0.0) for name in guess}
    assert health_metrics(noise(2, 8, 6), exact, hidden, targets)["points_explained"] == 1
    assert "features_explained" not in health_metrics(noise(2, 8, 6), exact, hidden, None)


def test_a_fresh_network_explains_nothing_of_the_points() -> None:
    config = I2PConfig.model_validate({"model": SMALL, "pretext": {"mask": "random"}, "loss": {"features": 0}})
    pretext = method.build(config, BuildContext(seed=0)).eval()
    points = normalize(noise(4, 64, 3), dim=2)
    health = pretext.health({"points": points}, MicrobatchRng(0, 0, 0))
    assert {alarm.metric for alarm in ALARMS} - {"rankme"} <= health.keys(), "that is of the embeddings: test_collapse.py"
    assert health["points_explained"] < 0
