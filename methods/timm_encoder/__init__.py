"""Encoders out of timm, with weights of your own: to be measured, exported or used as a teacher; not trained here. Imports no torch."""

from __future__ import annotations

from typing import Any

from ..contract import BuildContext, Method, Official
from .config import TimmConfig


def _views(config: TimmConfig) -> Any:
    from ..errors import CallError

    raise CallError("method timm is not trained here", "choose one of the pretext methods; a timm model can be a teacher, and be evaluated")


def _build(config: TimmConfig, context: BuildContext) -> Any:
    from .encoder import build

    return build(config, context)


def _official() -> Official:
    from . import official

    return official


method = Method(
    id="timm",
    kind="images",
    Config=TimmConfig,
    views=_views,
    build=_build,
    image_shape=lambda config: (1, 1),
    official=_official,
)
