"""Relative pose of two views by regression: CroCo's two-view network and a head for rotation and translation (CroCo, section 4.3).

Fine-tuning goes through the contract, like pre-training. Importing this imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from ..contract import Lazy, Method, MetricInfo
from .config import PoseConfig
from .views import PoseViews

_WORST = "the larger of the angles of rotation and direction of translation"
_MEASURED = {
    "auc_30": MetricInfo(f"area under the curve of the share of pairs by {_WORST}, up to 30 degrees", "AUC@30°", "%"),
    "auc_10": MetricInfo("up to 10 degrees", "AUC@10°", "%"),
    "auc_5": MetricInfo("up to 5 degrees", "AUC@5°", "%"),
    "rotation_error": MetricInfo(
        "median angle between the true and the predicted rotation", "rotation", "°", better="lower", average="median"
    ),
    "direction_error": MetricInfo(
        "median angle between the true and the predicted direction of translation", "direction", "°", better="lower", average="median"
    ),
    "translation_error": MetricInfo(
        "median distance between the true and the predicted translation", "translation", "m", better="lower", average="median"
    ),
}


def _controlled(name: str, info: MetricInfo) -> dict[str, MetricInfo]:
    """A metric, and the same with the second image of another pair and for cameras that did not move."""
    own = replace(info, family=info.label, claim=f"{info.label} is {{lead}} with the true second image than with one of another pair")
    means = f"{info.means}, with the second image of another pair"
    other = replace(info, means=means, label=f"{info.label}, other image", family=info.label)
    found = {name: own, f"{name}_other_image": other}
    if name in ("rotation_error", "translation_error"):
        found[f"{name}_unmoved"] = replace(info, means=f"{info.means} where no motion is predicted", label=f"{info.label}, unmoved")
    return found


pose = Method(
    id="finetune_pose",
    kind="pairs",
    recipes=__name__,
    Config=PoseConfig,
    views=PoseViews,
    build=Lazy(f"{__name__}.pretext:build_pose"),
    image_shape=lambda config: config.model.image_size,
    metrics={
        "rotation": MetricInfo("length of the difference of the rotation matrices, about the angle in radians", better="lower"),
        "translation": MetricInfo("length of the difference of the translations, or of their directions", better="lower"),
        **{key: value for name, info in _MEASURED.items() for key, value in _controlled(name, info).items()},
    },
)
