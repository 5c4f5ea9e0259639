"""CroCo: cross-view completion (Weinzaepfel et al., NeurIPS 2022; v2: ICCV 2023). Importing this imports no torch."""

from __future__ import annotations

from ..contract import EFFECTIVE_RANK_ALARM, RANKME_ALARM, Alarm, Lazy, Method, MetricInfo
from .config import CrocoConfig
from .views import CrocoViews

VIEWS = {
    "true_view": "the true second view",
    "other_view": "a second view of another scene",
    "mean_colour": "the second view's mean colour in its place",
}
"""The second views of the control metrics."""
METRICS = {
    "reconstruction": MetricInfo("mean squared error on hidden patches, against pixels normalised patch by patch", better="lower"),
    **{
        f"psnr_{view}": MetricInfo(
            f"PSNR in dB on hidden patches, whose true mean and contrast are given, with {what}",
            f"PSNR with {what}",
            "dB",
            family="PSNR",
            claim="hidden patches are {lead} with the true second view",
        )
        for view, what in VIEWS.items()
    },
    "psnr_mean_patch": MetricInfo(
        "PSNR in dB on hidden patches, with the mean patch of the microbatch in place of each",
        "PSNR of the mean patch",
        "dB",
        family="PSNR",
    ),
    **{
        f"loss_{view}": MetricInfo(
            f"reconstruction loss on hidden patches, with {what}", f"Loss with {what}", better="lower", family="loss"
        )
        for view, what in VIEWS.items()
    },
}

ALARMS = (
    RANKME_ALARM,
    EFFECTIVE_RANK_ALARM,
    Alarm(
        "feature_std",
        "features of all patches point the same way: the encoder collapses; lower optim.lr or lengthen optim.warmup",
        below=0.05,
        fall=0.5,
    ),
    Alarm(
        "explained",
        "hidden patches are predicted no better than by the mean patch. Where the training loss still falls, it learns images by heart: "
        "give more data; else lower optim.lr, lengthen optim.warmup, or see whether the images hold more than noise",
        below=0.0,
        after_steps=400,
    ),
    Alarm(
        "swapped_view_gap",
        "another pair's second view does as well, so the second view is not used, as in the early part of every run; if it stays, train "
        "longer, take pairs that overlap more, or store the size of the crop (prepare --size 112 --square)",
        below=0.01,
        after_steps=1000,
    ),
)

method = Method(
    id="croco",
    kind="pairs",
    recipes=__name__,
    Config=CrocoConfig,
    views=CrocoViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: config.model.image_size,
    metrics=METRICS,
    alarms=ALARMS,
    official=Lazy(f"{__name__}.official"),
    timm=Lazy(f"{__name__}.timm:timm_form"),
    search_space={"pretext.mask_ratio": "0.5..0.95"},
)
