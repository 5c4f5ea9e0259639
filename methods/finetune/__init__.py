"""Fine-tuning an encoder of any method with labels: classification and semantic segmentation, through the contract like pre-training.

So a fine-tuning run has the same loop, stream, checkpoints, resume and tracking. Importing this imports no torch.
"""

from __future__ import annotations

from typing import Any

from ..contract import BuildContext, Method
from .config import ClassificationConfig, SegmentationConfig
from .views import ClassificationViews, SegmentationViews


def _classification(config: ClassificationConfig, context: BuildContext) -> Any:
    from .pretext import build_classification

    return build_classification(config, context)


def _segmentation(config: SegmentationConfig, context: BuildContext) -> Any:
    from .pretext import build_segmentation

    return build_segmentation(config, context)


FIGURES = {
    "cross_entropy": "cross-entropy in nats, with smoothed and mixed labels in training and plain ones in validation",
    "accuracy": "share of right predictions (segmentation: of pixels that count); in training against the heavier of two mixed labels",
}

classification = Method(
    id="finetune_classification",
    kind="images",
    recipes=__name__,
    Config=ClassificationConfig,
    views=ClassificationViews,
    build=_classification,
    image_shape=lambda config: config.model.image_size,
    metric_meanings=FIGURES,
)
segmentation = Method(
    id="finetune_segmentation",
    kind="images",
    recipes=__name__,
    Config=SegmentationConfig,
    views=SegmentationViews,
    build=_segmentation,
    image_shape=lambda config: config.model.image_size,
    metric_meanings=FIGURES,
)
