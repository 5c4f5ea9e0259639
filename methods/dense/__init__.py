"""Dense prediction from one or two views: stereo, flow, monocular depth and normals (CroCo v2, section 3.4, and CroCo, section 4.3).

Fine-tuning goes through the contract, like pre-training. Importing this imports no torch.
"""

from __future__ import annotations

from dataclasses import replace

from ..contract import Lazy, Method, MetricInfo
from .config import DepthConfig, FlowConfig, NormalsConfig, StereoConfig
from .normal_views import NormalViews
from .two_views import FlowViews, StereoViews
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


def _controlled(name: str, info: MetricInfo, claim: str = "from the image itself than from another image") -> dict[str, MetricInfo]:
    """A metric and its control: the prediction from another (second) image, against the truth of this one."""
    own = replace(info, family=info.label, claim=f"{info.label} is {{lead}} {claim}")
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
        **{key: value for name, info in _DEPTH.items() for key, value in _controlled(name, info).items()},
        "absrel_typical": MetricInfo(
            "of the median depth of the training data, everywhere", "AbsRel of the training data's median", better="lower", family="AbsRel"
        ),
        "absrel_own_mean": MetricInfo(
            "of the mean of the image's true depths, everywhere: it is told the truth, so a good model may be worse",
            "AbsRel of its own true mean",
            better="lower",
        ),
    },
)

_WITHIN = {
    f"within_{name}": MetricInfo(f"share of the known pixels of an image whose normal is off by less than {angle}", f"< {angle}", "%")
    for name, angle in (("11", "11.25°"), ("22", "22.5°"), ("30", "30°"))
}
_NORMALS = {
    "mean_angle": MetricInfo("mean angle to the true normal over the known pixels of an image", "mean angle", "°", better="lower"),
    "median_angle": MetricInfo("median angle over the known pixels of an image", "median angle", "°", better="lower"),
    **_WITHIN,
}

normals = Method(
    id="finetune_normals",
    kind="pairs",
    recipes=__name__,
    Config=NormalsConfig,
    views=NormalViews,
    build=Lazy(f"{__name__}.normal_pretext:build_normals"),
    image_shape=lambda config: config.model.image_size,
    metrics={
        "regression": MetricInfo("mean of 1 - cos of the angle to the true normal", better="lower"),
        **{key: value for name, info in _NORMALS.items() for key, value in _controlled(name, info).items()},
        "mean_angle_facing": MetricInfo(
            "of normals that all face the camera", "mean angle of facing normals", "°", better="lower", family="mean angle"
        ),
        "mean_angle_own_mean": MetricInfo(
            "of the mean of the image's true normals, everywhere: it is told the truth, so a good model may be worse",
            "mean angle of its own true mean",
            "°",
            better="lower",
        ),
    },
)

_EPE = MetricInfo("mean length of the error over the known pixels of an image", "EPE", "px", better="lower")
_BAD = {
    f"bad_{limit}": MetricInfo(f"share of the known pixels of an image that are off by more than {limit} px", f"bad {limit}", "%", "lower")
    for limit in (1, 2, 3, 5)
}
_OUTLIERS = "share of the known pixels that are off by more than 3 px and 5 % of the true length, as KITTI counts"
_STEREO = {
    "epe": _EPE,
    "rmse": MetricInfo("root mean squared error over the known pixels of an image", "RMSE", "px", better="lower"),
    **{name: _BAD[name] for name in ("bad_1", "bad_2", "bad_3")},
    "d1": MetricInfo(_OUTLIERS, "D1", "%", better="lower"),
}
_FLOW = {
    "epe": _EPE,
    **{name: _BAD[name] for name in ("bad_1", "bad_3", "bad_5")},
    "fl": MetricInfo(_OUTLIERS, "Fl", "%", better="lower"),
    "epe_slow": MetricInfo(
        "EPE of pixels that move less than 10 px, over the images that have such", "EPE, below 10 px", "px", better="lower"
    ),
    "epe_middle": MetricInfo("EPE of pixels that move 10 to 40 px", "EPE, 10 to 40 px", "px", better="lower"),
    "epe_fast": MetricInfo("EPE of pixels that move 40 px or more", "EPE, from 40 px", "px", better="lower"),
}


def _two_views(measured: dict[str, MetricInfo], constants: dict[str, MetricInfo]) -> dict[str, MetricInfo]:
    claim = "with the true second image than with one of another pair"
    criterion = MetricInfo("the criterion: the mean error scaled by a predicted confidence", better="lower")
    found = {"regression": criterion, **{k: v for name, info in measured.items() for k, v in _controlled(name, info, claim).items()}}
    means = "of the mean of the pair's true displacements, everywhere: it is told the truth, so a good model may be worse"
    return {**found, **constants, "epe_own_mean": MetricInfo(means, "EPE of its own true mean", "px", "lower")}


_TYPICAL = MetricInfo(
    "of the median disparity of the training data, everywhere", "EPE of the training data's median", "px", "lower", family="EPE"
)
_NO_MOTION = MetricInfo("of no motion, everywhere", "EPE of no motion", "px", "lower", family="EPE")


stereo = Method(
    id="finetune_stereo",
    kind="pairs",
    recipes=__name__,
    Config=StereoConfig,
    views=StereoViews,
    build=Lazy(f"{__name__}.two_view_pretext:build_stereo"),
    official=Lazy(f"{__name__}.published:published_stereo"),
    image_shape=lambda config: config.model.image_size,
    metrics=_two_views(_STEREO, {"epe_typical": _TYPICAL}),
)
flow = Method(
    id="finetune_flow",
    kind="pairs",
    recipes=__name__,
    Config=FlowConfig,
    views=FlowViews,
    build=Lazy(f"{__name__}.two_view_pretext:build_flow"),
    official=Lazy(f"{__name__}.published:published_flow"),
    image_shape=lambda config: config.model.image_size,
    metrics=_two_views(_FLOW, {"epe_no_motion": _NO_MOTION}),
)
