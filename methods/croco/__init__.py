"""CroCo: cross-view completion (Weinzaepfel et al., NeurIPS 2022; v2: ICCV 2023). Importing this imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..contract import BuildContext, Method, Official, TimmForm
from .config import CrocoConfig
from .views import CrocoViews

if TYPE_CHECKING:
    from torch import Tensor

FIGURES = {
    "reconstruction": "mean squared error on hidden patches, against pixels normalised patch by patch",
    **{
        f"{figure}_{view}": f"{meaning}, with {second}"
        for figure, meaning in (
            ("psnr", "PSNR in dB on hidden patches, whose true mean and contrast are given"),
            ("loss", "reconstruction loss on hidden patches"),
        )
        for view, second in (
            ("true_view", "the true second view"),
            ("other_view", "a second view of another scene"),
            ("mean_colour", "the second view's mean colour in its place"),
        )
    },
}


def _build(config: CrocoConfig, context: BuildContext) -> Any:
    from .pretext import build

    return build(config, context)


def _official() -> Official:
    from . import official

    return official


def _timm(config: CrocoConfig, state: Mapping[str, Tensor]) -> TimmForm:
    from .timm_form import timm_form

    return timm_form(config, state)


method = Method(
    id="croco",
    kind="pairs",
    recipes=__name__,
    Config=CrocoConfig,
    views=CrocoViews,
    build=_build,
    image_shape=lambda config: config.model.image_size,
    metric_meanings=FIGURES,
    official=_official,
    timm=_timm,
    search_space={"pretext.mask_ratio": "0.5..0.95"},
)
