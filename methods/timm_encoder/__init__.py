"""Encoders out of timm, with weights of your own: to be measured, exported or used as a teacher; not trained here. Imports no torch."""

from __future__ import annotations

from typing import NoReturn

from ..contract import Lazy, Method
from ..errors import CallError
from .config import TimmConfig


def _views(config: TimmConfig) -> NoReturn:
    raise CallError("method timm is not trained here", "choose one of the pretext methods; a timm model can be a teacher, and be evaluated")


method = Method(
    id="timm",
    kind="images",
    Config=TimmConfig,
    views=_views,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: (1, 1),
    official=Lazy(f"{__name__}.official"),
    layouts={name: Lazy(f"{__name__}.layouts:{name}") for name in ("clip", "dino", "dinov2", "mae", "open_clip")},
)
