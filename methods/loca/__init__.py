"""LOCA: location-aware self-supervised ViTs (Caron, Houlsby, Schmid, WACV 2024). Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..contract import Alarm, BuildContext, Method, Official, TimmForm
from .config import LocaConfig
from .views import LocaViews

if TYPE_CHECKING:
    import torch

FIGURES = {
    "position": "cross-entropy over the reference's patches, of the query tokens that lie on the reference",
    "cluster": "cross-entropy between the prediction for a query token and the teacher's balanced assignment of its reference patch",
    "entropy": "minus the entropy of the mean prediction over the whole batch; -ln(prototypes) when all are used alike",
    "accuracy": "share of the query tokens on the reference that are placed on the right patch",
    "valid": "share of query tokens that lie on the reference",
    **{
        f"{figure}_{view}": f"{meaning}, with {second}"
        for figure, meaning in (
            ("accuracy", "share of an image's query tokens on the reference that are placed on the right patch"),
            ("loss", "position loss of an image"),
        )
        for view, second in (
            ("own_reference", "the image's own reference"),
            ("other_reference", "another image's reference"),
        )
    },
}
ALARMS = (
    Alarm(
        "prediction_entropy",
        "few clusters take nearly all of the mean prediction: the cluster head collapses; raise loss.entropy or "
        "pretext.sinkhorn_iterations, lower optim.lr, or lower pretext.prototypes towards the patches in a batch",
        below=0.3,
    ),
    Alarm(
        "effective_rank",
        "features lie in a few directions: the encoder collapses; lower optim.lr, lengthen optim.warmup, or raise pretext.teacher_momentum",
        below=0.02,
    ),
    Alarm(
        "feature_std",
        "features of all patches point the same way: the encoder collapses; lower optim.lr or lengthen optim.warmup",
        below=0.1,
    ),
    Alarm(
        "chance_gap",
        "queries are hardly placed better than by where patches lie on average: the plateau that every run begins with; if it stays, make "
        "more steps (a smaller batch.size costs nothing), raise pretext.reference_keep, or raise optim.lr",
        below=0.1,
        after=0.5,
    ),
    Alarm(
        "valid",
        "hardly any query patch lies on the reference, so there is little to learn from; raise augment.reference_area or focal_area",
        below=0.1,
    ),
)


def _build(config: LocaConfig, context: BuildContext) -> Any:
    from .pretext import build

    return build(config, context)


def _official() -> Official:
    from . import official

    return official


def _timm(config: LocaConfig, state: Mapping[str, torch.Tensor]) -> TimmForm:
    from .timm_form import timm_form

    return timm_form(config, state)


method = Method(
    id="loca",
    kind="images",
    recipes=__name__,
    Config=LocaConfig,
    views=LocaViews,
    build=_build,
    image_shape=lambda config: config.model.image_size,
    metric_meanings=FIGURES,
    alarms=ALARMS,
    official=_official,
    timm=_timm,
    search_space={
        "pretext.reference_keep": "0.05,0.1,0.2,0.3,0.5,1.0",
        "loss.position": "log:0.1..10",
        "loss.cluster": "log:0.1..10",
        "loss.entropy": "log:0.1..10",
    },
)
