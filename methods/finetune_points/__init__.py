"""Fine-tuning I2P-MAE's encoder of clouds for classification, through the contract like pre-training. Importing this imports no torch."""

from __future__ import annotations

from typing import Any

from ..contract import BuildContext, Method, Official
from ..finetune import FIGURES
from .config import FinetunePointsConfig
from .views import FinetunePointsViews


def _build(config: FinetunePointsConfig, context: BuildContext) -> Any:
    from .pretext import build

    return build(config, context)


def _official() -> Official:
    from . import official

    return official


method = Method(
    id="finetune_points",
    kind="points",
    recipes=__name__,
    Config=FinetunePointsConfig,
    views=FinetunePointsViews,
    build=_build,
    image_shape=lambda config: (224, 224),
    metric_meanings=FIGURES,
    official=_official,
)
