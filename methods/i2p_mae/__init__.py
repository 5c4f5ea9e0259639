"""I2P-MAE: point clouds taught by 2-D models (Zhang et al., CVPR 2023, arXiv 2212.06785). Importing this imports no torch."""

from __future__ import annotations

from typing import Any

from ..contract import Alarm, Live, Method, Official
from .config import I2PConfig
from .views import I2PViews

FIGURES = {
    "points": "Chamfer distance of the hidden tokens' neighbours, squared, both ways added",
    "features": "mean squared error of the 2-D features at the neighbours of the visible tokens",
    "visible": "share of the tokens of the middle scale that the encoder sees",
}
ALARMS = (
    Alarm(
        "effective_rank",
        "tokens lie in a few directions: the encoder collapses; lower optim.lr or lengthen optim.warmup",
        below=0.02,
    ),
)


def _build(config: I2PConfig, live: Live) -> Any:
    from .pretext import build

    return build(config, live)


def _official() -> Official:
    from . import official

    return official


method = Method(
    id="i2p_mae",
    kind="points",
    Config=I2PConfig,
    views=I2PViews,
    build=_build,
    image_shape=lambda config: (224, 224),
    loss_figures=FIGURES,
    alarms=ALARMS,
    official=_official,
)
