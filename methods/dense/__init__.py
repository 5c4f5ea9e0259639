"""Dense prediction from one or two views: stereo, optical flow, monocular depth (CroCo v2, section 3.4, and CroCo, section 4.3).

Fine-tuning goes through the contract, like pre-training. Importing this imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from ..contract import Lazy, Method, MetricInfo
from .config import DepthConfig
from .views import DepthViews

_DEPTH = {
    "absrel": MetricInfo("mean of |predicted - true| / true over the known pixels of an image", "AbsRel", better="lower"),
    "rmse": MetricInfo("root mean squared error over the known pixels of an image", "RMSE", "m", better="lower"),
    "rmse_log": MetricInfo("root mean squared error of the natural logarithm", "RMSE log", better="lower"),
    "log10": MetricInfo("mean error of the decimal logarithm", "log10", better="lower"),
    "delta1": MetricInfo("share of pixels within a factor 1.25 of the true depth", "delta1", "%"),
    "delta2": MetricInfo("share of pixels within a factor 1.25^2", "delta2", "%"),
    "delta3": MetricInfo("share of pixels within a factor 1.25^3", "delta3", "%"),
}


def _controlled(name: str, info: MetricInfo) -> dict[str, MetricInfo]:
    """A metric and its control: the prediction for another image, against the truth of this one."""
    own = replace(info, family=info.label, claim=f"{info.label} is {{lead}} from the image itself than from another image")
    means = f"{info.means}, predicted from another image: of another scene, or of another part of a single one"
    return {name: own, f"{name}_other_image": replace(info, means=means, label=f"{info.label}, other image", family=info.label)}


depth = Method(
    id="finetune_depth",
    kind="images",
    recipes=__name__,
    Config=DepthConfig,
    views=DepthViews,
    build=Lazy(f"{__name__}.pretext:build_depth"),
    image_shape=lambda config: config.model.image_size,
    metrics={
        "regression": MetricInfo("the criterion: the mean error scaled by a predicted confidence, in logarithms of depth", better="lower"),
        "absrel_mean_depth": MetricInfo("of the mean true depth of the image itself", "AbsRel, its mean depth", better="lower"),
        **{key: value for name, info in _DEPTH.items() for key, value in _controlled(name, info).items()},
    },
)
