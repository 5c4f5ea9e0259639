"""ConMIM: masked image modelling with denoising contrast (Yi et al., ICLR 2023, arXiv 2205.09616). Importing this imports no torch."""

from __future__ import annotations

from ..contract import RANKME_ALARM, Alarm, Lazy, Method, MetricInfo
from .config import ConMIMConfig
from .views import ConMIMViews

METRICS = {
    "contrast": MetricInfo(
        "cross-entropy in nats of finding a hidden patch's place among all places of its image; chance is ln(patches)",
        unit="nats",
        better="lower",
    ),
    "accuracy": MetricInfo("share of hidden patches that find their own place", unit="%"),
    **{
        f"loss_{which}_teacher": MetricInfo(
            f"cross-entropy of hidden patches in nats, with the teacher's features of {image}",
            f"Loss with the teacher's features of {image}",
            "nats",
            better="lower",
            family="loss",
            claim="hidden patches find their place {lead} with the features of their own image",
        )
        for which, image in (("own", "the same image"), ("other", "another image"))
    },
    "loss_chance": MetricInfo("ln(patches), in nats", "Loss of guessing", "nats", better="lower", family="loss"),
}
ALARMS = (
    RANKME_ALARM,
    Alarm(
        "effective_rank",
        below=0.05,
        fall=0.2,
        cause="the teacher's tokens lie in a few dimensions: lower optim.lr, lengthen optim.warmup, raise pretext.teacher_momentum",
    ),
    Alarm(
        "feature_std",
        below=0.1,
        fall=0.5,
        after_steps=1000,
        cause="the student's features all point the same way: lower optim.lr, or batch.microbatch is too small for BatchNorm",
    ),
    Alarm(
        "chance_gap",
        below=-0.1,
        cause="hidden patches are found less often than by chance: the training diverges, or too much is hidden; lower optim.lr, lengthen "
        "optim.warmup, or lower pretext.mask_ratio",
    ),
    Alarm(
        "swapped_teacher_gap",
        below=0.05,
        after_steps=1000,
        cause="another image's teacher does nearly as well, so nothing but position is learnt, as in the early part of every run; if it "
        "stays: with `chance_gap` near 0 raise model.relative_bias_lr or train longer, else switch model.position_table off",
    ),
)


method = Method(
    id="conmim",
    kind="images",
    recipes=__name__,
    Config=ConMIMConfig,
    views=ConMIMViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: config.model.image_size,
    metrics=METRICS,
    alarms=ALARMS,
    official=Lazy(f"{__name__}.official"),
    timm=Lazy(f"{__name__}.timm:timm_form"),
    search_space={"pretext.mask_ratio": "0.4,0.5,0.6,0.75,0.85", "pretext.temperature": "log:0.05..0.2"},
)
