"""Settings of an encoder out of timm. Imports neither torch nor timm: a name is checked when the network is built."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ..contract import MethodConfig
from ..settings import Settings

FETCHING = {"pretrained", "checkpoint_path", "cache_dir"}
"""Arguments of `timm.create_model` that read files or the network."""


class TimmModel(Settings):
    name: str = Field(default="vit_base_patch16_224", description="as `timm.create_model` takes it, without downloading anything")
    project: bool = Field(default=False, description="patch tokens go through the model's own head, as CLIP's into the space of its texts")
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of `timm.create_model`, such as img_size")

    @field_validator("name")
    @classmethod
    def _is_no_address(cls, name: str) -> str:
        if ":" in name or "/" in name:
            raise ValueError("this names a place to fetch from; write the architecture alone and import its weights from a file")
        return name

    @field_validator("arguments")
    @classmethod
    def _fetches_nothing(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        if named := sorted(FETCHING & arguments.keys()):
            raise ValueError(f"{', '.join(named)} would read weights past `sightline import`; leave it away and import the file")
        return arguments


class Nothing(Settings):
    """This method is not trained here, so it has no task, no loss and no augmentation."""


class TimmConfig(MethodConfig):
    model: TimmModel = TimmModel()
    pretext: Nothing = Nothing()
    loss: Nothing = Nothing()
    augment: Nothing = Nothing()
