"""Fine-tuning I2P-MAE's encoder of clouds for classification, through the contract like pre-training. Importing this imports no torch."""

from __future__ import annotations

from typing import Any

from ..contract import Live, Method, Official
from ..finetune import FIGURES
from .config import FinetunePointsConfig
from .views import FinetunePointsViews


def _build(config: FinetunePointsConfig, live: Live) -> Any:
    from .pretext import build

    return build(config, live)


def _official() -> Official:
    from . import official

    return official


method = Method(
    id="finetune_points",
    kind="points",
    Config=FinetunePointsConfig,
    views=FinetunePointsViews,
    build=_build,
    image_shape=lambda config: (224, 224),
    loss_figures=FIGURES,
    official=_official,
)
