"""Fine-tuning I2P-MAE's encoder of clouds for classification, through the contract like pre-training. Importing this imports no torch."""

from __future__ import annotations

from ..contract import Lazy, Method
from ..finetune import METRICS
from .config import FinetunePointsConfig
from .views import FinetunePointsViews

method = Method(
    id="finetune_points",
    kind="points",
    recipes=__name__,
    Config=FinetunePointsConfig,
    views=FinetunePointsViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: (224, 224),
    metrics=METRICS,
    official=Lazy(f"{__name__}.official"),
)
