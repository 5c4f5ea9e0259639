"""Settings of an encoder out of timm. Imports neither torch nor timm: a name is checked when the network is built."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ..contract import MethodConfig
from ..settings import Settings


class TimmModel(Settings):
    name: str = Field(default="vit_base_patch16_224", description="as `timm.create_model` takes it, without downloading anything")
    project: bool = Field(default=False, description="patch tokens go through the model's own head, as CLIP's into the space of its texts")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of `timm.create_model`, such as img_size")


class Nothing(Settings):
    """This method is not trained here, so it has no task, no loss and no augmentation."""


class TimmConfig(MethodConfig):
    model: TimmModel = TimmModel()
    pretext: Nothing = Nothing()
    loss: Nothing = Nothing()
    augment: Nothing = Nothing()
