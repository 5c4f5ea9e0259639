"""Twenty steps of I2P-MAE, as they were when they were recorded."""

from __future__ import annotations

import golden
import pytest

from sightline.methods.i2p_mae import method

LR, KINKS = 3e-5, 1e-2
"""At 1e-3 a change of all weights by 2e-7 moves the losses by 1e-2 within 20 steps, at `LR` by 5e-6. Gradients jump where another member
of a group becomes the largest: the same change moves their norm by 8e-4."""


@pytest.mark.slow
def test_golden_losses() -> None:
    """Two groups a step, drop path, guided masks and the loss of features by way of the stage."""
    model = {"points": 64, "groups": [32, 16, 8], "neighbours": [4, 4, 4], "dims": [12, 24, 48], "depths": [1, 1, 1], "embed": [8, 16]}
    sections = {"model": {**model, "drop_path": 0.1, "teacher": "seer", "teacher_dim": golden.Seer.dim}}
    ours = golden.losses(method, sections, LR)
    golden.check("i2p_mae", ours, grad_rtol=KINKS)
    assert sum(step["points"] for step in ours[-3:]) < 0.95 * sum(step["points"] for step in ours[:3])  # and something is learned
