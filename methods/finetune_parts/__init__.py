"""Fine-tuning I2P-MAE's encoder of clouds for part segmentation, through the contract. Importing this imports no torch."""

from __future__ import annotations

from ..contract import Lazy, Method, MetricInfo
from .config import FinetunePartsConfig
from .views import FinetunePartsViews

method = Method(
    id="finetune_parts",
    kind="points",
    recipes=__name__,
    Config=FinetunePartsConfig,
    views=FinetunePartsViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: (224, 224),
    metrics={
        "cross_entropy": MetricInfo("cross-entropy of a point's part among all parts, in nats", unit="nats", better="lower"),
        "accuracy": MetricInfo("share of labelled points whose part is found among the parts of their category", unit="%"),
    },
)
