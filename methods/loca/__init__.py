"""LOCA: location-aware self-supervised ViTs (Caron, Houlsby, Schmid, WACV 2024). Importing this imports no torch."""

from __future__ import annotations

from ..contract import EFFECTIVE_RANK_ALARM, RANKME_ALARM, Alarm, Lazy, Method, MetricInfo
from .config import LocaConfig
from .views import LocaViews

REFERENCES = {"own_reference": "the image's own reference", "other_reference": "another image's reference"}
"""The conditions of the control metrics."""
METRICS = {
    "position": MetricInfo(
        "cross-entropy over the reference's patches, of the query tokens that lie on the reference", unit="nats", better="lower"
    ),
    "cluster": MetricInfo(
        "cross-entropy between the prediction for a query token and the teacher's balanced assignment of its reference patch",
        unit="nats",
        better="lower",
    ),
    "entropy": MetricInfo(
        "minus the entropy of the mean prediction over the whole batch; -ln(prototypes) when all are used alike",
        unit="nats",
        better="lower",
    ),
    "accuracy": MetricInfo("share of the query tokens on the reference that are placed on the right patch", unit="%"),
    "valid": MetricInfo("share of query tokens that lie on the reference", unit="%"),
    **{
        f"accuracy_{name}": MetricInfo(
            f"share of an image's query tokens on the reference that are placed on the right patch, with {what}",
            f"Accuracy with {what}",
            "%",
            family="accuracy",
            claim="query patches are placed {lead} with their own reference",
        )
        for name, what in REFERENCES.items()
    },
    "accuracy_chance": MetricInfo(
        "1 / patches, of a sample with a query token on the reference", "Accuracy of guessing", "%", family="accuracy"
    ),
    **{
        f"loss_{name}": MetricInfo(
            f"position loss of an image, with {what}", f"Position loss with {what}", "nats", better="lower", family="loss"
        )
        for name, what in REFERENCES.items()
    },
}
ALARMS = (
    RANKME_ALARM,
    Alarm(
        "prediction_entropy",
        "few clusters take nearly all of the mean prediction: the cluster head collapses; raise loss.entropy or "
        "pretext.sinkhorn_iterations, lower optim.lr, or lower pretext.prototypes towards the patches in a batch",
        below=0.3,
        fall=0.5,
    ),
    EFFECTIVE_RANK_ALARM,
    Alarm(
        "feature_std",
        "features of all patches point the same way: the encoder collapses; lower optim.lr or lengthen optim.warmup",
        below=0.1,
        fall=0.5,
    ),
    Alarm(
        "target_entropy",
        "every patch is assigned to all clusters alike, so the clusters teach nothing: the training diverges, or there are far too many; "
        "lower optim.lr, lengthen optim.warmup, or lower pretext.prototypes or pretext.sharpening",
        above=0.99,
    ),
    Alarm(
        "teacher_agreement",
        "student and teacher have little in common: the weights move faster than their average can follow; lower optim.lr, lengthen "
        "optim.warmup, or lower pretext.teacher_momentum",
        below=0.3,
    ),
    Alarm(
        "chance_gap",
        "queries are hardly placed better than by where patches lie on average: the plateau that every run begins with; if it stays, make "
        "more steps (a smaller batch.size costs nothing), raise pretext.reference_keep, or raise optim.lr",
        below=0.1,
        after_steps=1000,
    ),
    Alarm(
        "valid",
        "hardly any query patch lies on the reference, so there is little to learn from; raise augment.reference_area or focal_area",
        below=0.1,
        after_steps=0,
    ),
)


method = Method(
    id="loca",
    kind="images",
    recipes=__name__,
    Config=LocaConfig,
    views=LocaViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: config.model.image_size,
    metrics=METRICS,
    alarms=ALARMS,
    official=Lazy(f"{__name__}.official"),
    timm=Lazy(f"{__name__}.timm:timm_form"),
    search_space={
        "pretext.reference_keep": "0.05,0.1,0.2,0.3,0.5,1.0",
        "loss.position": "log:0.1..10",
        "loss.cluster": "log:0.1..10",
        "loss.entropy": "log:0.1..10",
    },
)
