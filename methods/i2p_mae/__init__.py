"""I2P-MAE: point clouds taught by 2-D models (Zhang et al., CVPR 2023, arXiv 2212.06785). Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..contract import EFFECTIVE_RANK_ALARM, RANKME_ALARM, Alarm, HasBlockTokens, HasLevels, ImageEncoder, Lazy, Method, MetricInfo
from ..errors import CallError
from .config import I2PConfig
from .views import I2PViews

if TYPE_CHECKING:
    import torch

METRICS = {
    "points": MetricInfo("Chamfer distance of the hidden tokens' neighbours, squared, both ways added", better="lower"),
    "features": MetricInfo("mean squared error of the 2-D features at the neighbours of the visible tokens", better="lower"),
    "visible": MetricInfo("share of the tokens of the middle scale that the encoder sees", unit="%"),
    "features_error": MetricInfo(
        "mean squared error of the 2-D features of a cloud, as a share of their variance",
        "Error of the 2-D features",
        better="lower",
        family="features",
        claim="2-D features of points are predicted {lead} than by their mean",
    ),
    "features_error_mean": MetricInfo(
        "the same of the mean feature of all points of these clouds", "Error of the mean feature", better="lower", family="features"
    ),
    "points_error": MetricInfo(
        "Chamfer distance of a cloud's hidden tokens' neighbours, as a share of that with all at their token's centre",
        "Error of hidden points",
        better="lower",
        family="points",
        claim="hidden points are rebuilt {lead} than by one shape everywhere",
    ),
    "points_error_one_shape": MetricInfo(
        "the same with the mean of all predicted neighbourhoods at every token", "Error of one shape", better="lower", family="points"
    ),
    "points_error_centre": MetricInfo(
        "the same with all neighbours at their token's centre", "Error of the centres", better="lower", family="points"
    ),
}
ALARMS = (
    RANKME_ALARM,
    EFFECTIVE_RANK_ALARM,
    Alarm(
        "points_explained",
        "hidden points are predicted no better than by the centre of their token: nothing is learnt of the shape; lower optim.lr or "
        "lengthen optim.warmup",
        below=0.05,
        after_steps=400,
    ),
)


def _teachers(config: I2PConfig) -> dict[str, str]:
    if config.uses_teacher and config.model.teacher is None:
        raise CallError(
            "model.teacher is not set: guided masks and the loss of features need a 2-D encoder",
            "name a run, a file or models:/NAME@alias; or go without: pretext.mask=random loss.features=0",
        )
    return {"model.teacher": config.model.teacher} if config.model.teacher else {}


def _adapt(config: I2PConfig, teachers: Mapping[str, torch.nn.Module]) -> I2PConfig:
    teacher = teachers["model.teacher"]
    if not isinstance(teacher, ImageEncoder):
        raise CallError(f"model.teacher = {config.model.teacher} is no encoder of images", "name a run, a file or a model that sees images")
    model = config.model.model_copy(update={"teacher_dim": _features(teacher, config.pretext.teacher_level)})
    return config.model_copy(update={"model": model})


def _features(teacher: ImageEncoder, level: int | None) -> int:
    """Channels of the teacher's features. Raises `CallError` where it has no such level."""
    if level is None:
        return teacher.dim
    if isinstance(teacher, HasLevels):
        dims = teacher.level_dims
    elif isinstance(teacher, HasBlockTokens):
        dims = [teacher.dim] * teacher.depth
    else:
        dims = []
    if -level > len(dims):
        has = f"{len(dims)} levels" if dims else "no levels that can be asked for"
        raise CallError(f"pretext.teacher_level {level}: the teacher has {has}", "choose one from -1 on, or null for its output")
    return dims[level]


def _stage_settings(config: I2PConfig) -> dict[str, Any]:
    augment = {f"augment.{key}": value for key, value in config.augment.model_dump(mode="json").items()}
    least, fields = config.model.groups[0], type(config.pretext).model_fields
    named = {name: getattr(config.pretext, name) for name in ("splat", "depth_value", "teacher_input", "saliency", "teacher_level")}
    added = {f"pretext.{name}": value for name, value in named.items() if value != fields[name].default}  # older caches lack them
    return {"model.points": config.model.points, "model.groups[0]": least, "pretext.views": config.pretext.views, **added, **augment}


method = Method(
    id="i2p_mae",
    kind="points",
    recipes=__name__,
    Config=I2PConfig,
    views=I2PViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: (224, 224),
    metrics=METRICS,
    alarms=ALARMS,
    official=Lazy(f"{__name__}.official"),
    teachers=_teachers,
    adapt=_adapt,
    stage=Lazy(f"{__name__}.stage:build"),
    stage_settings=_stage_settings,
    search_space={"pretext.mask_ratio": "0.6,0.7,0.8,0.9", "loss.features": "log:0.1..10"},
)
