"""Fine-tuning an encoder of any method with labels: classification and semantic segmentation, through the contract like pre-training.

So a fine-tuning run has the same loop, stream, checkpoints, resume and tracking. Importing this imports no torch.
"""

from __future__ import annotations

from ..contract import Lazy, Method, MetricInfo
from .config import ClassificationConfig, SegmentationConfig
from .views import ClassificationViews, SegmentationViews

METRICS = {
    "cross_entropy": MetricInfo(
        "cross-entropy in nats, with smoothed and mixed labels in training and plain ones in validation", unit="nats", better="lower"
    ),
    "accuracy": MetricInfo(
        "share of right predictions (segmentation: of pixels that count); in training against the heavier of two mixed labels", unit="%"
    ),
}

classification = Method(
    id="finetune_classification",
    kind="images",
    recipes=__name__,
    Config=ClassificationConfig,
    views=ClassificationViews,
    build=Lazy(f"{__name__}.pretext:build_classification"),
    image_shape=lambda config: config.model.image_size,
    metrics=METRICS,
)
segmentation = Method(
    id="finetune_segmentation",
    kind="images",
    recipes=__name__,
    Config=SegmentationConfig,
    views=SegmentationViews,
    build=Lazy(f"{__name__}.pretext:build_segmentation"),
    image_shape=lambda config: config.model.image_size,
    metrics={
        **METRICS,
        "auxiliary": MetricInfo(
            "cross-entropy of UPerNet's second prediction, in training; its share is in cross_entropy", unit="nats", better="lower"
        ),
    },
)
