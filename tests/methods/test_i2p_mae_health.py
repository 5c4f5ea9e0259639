"""What the health of I2P-MAE tells: whether the shape about a hidden token is predicted, and the teacher's features."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from sightline.methods.contract import BuildContext
from sightline.methods.i2p_mae import ALARMS, method
from sightline.methods.i2p_mae.config import I2PConfig
from sightline.methods.i2p_mae.diagnostics import health_metrics
from sightline.methods.i2p_mae.network import Groups, group_points
from sightline.methods.i2p_mae.pretext import I2PMaePretext
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


def test_control_metrics_hold_a_network_against_what_anyone_could_say() -> None:
    """A network that says the mean feature, and one shape at every token, does exactly as well as these controls."""
    config = I2PConfig.model_validate({"model": {**SMALL, "teacher": "it", "teacher_dim": 5}})
    pretext = method.build(config, BuildContext(seed=0)).eval()
    points, maps = normalize(noise(8, 64, 3), dim=2), {"features": noise(8, 3, 5, 4, 4), "saliency": noise(8, 3, 4, 4).softmax(dim=-1)}
    batch, other = ({"points": points[part], **{name: one[part] for name, one in maps.items()}} for part in (slice(5), slice(5, 8)))
    rng = MicrobatchRng(0, 0, 0)
    first = pretext.control_metrics(batch, other, rng)
    assert next(iter(first)) == "features_error" and first.keys() | {"points", "features", "visible"} == method.metrics.keys()
    assert all(value.shape == (5,) and value.isfinite().all() for value in first.values())
    assert first["features_error_mean"].mean().item() == pytest.approx(1) and first["points_error_centre"].mean().item() == pytest.approx(1)
    with torch.no_grad():
        targets = [pretext.target_features(some, scales_of(pretext, some)) for some in (batch, other)]
        pretext.rec_head_2d.weight.zero_()
        pretext.rec_head_2d.bias.copy_(torch.cat(targets).mean(dim=(0, 1)).repeat(4))
        pretext.rec_head_3d.weight.zero_()
    same = pretext.control_metrics(batch, other, rng)
    torch.testing.assert_close(same["features_error"], same["features_error_mean"])
    torch.testing.assert_close(same["points_error"], same["points_error_one_shape"])
    assert not torch.allclose(same["points_error"], same["points_error_centre"])
    alone = pretext.control_metrics({"points": points[:5], "saliency": maps["saliency"][:5]}, {"points": points[5:]}, rng)
    assert list(alone) == ["points_error", "points_error_one_shape", "points_error_centre"]


def scales_of(pretext: I2PMaePretext, batch: dict[str, torch.Tensor]) -> list[Groups]:
    return group_points(batch["points"], pretext.config.model, skip_origin=True)
