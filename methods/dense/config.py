"""Settings of dense tasks: an encoder of any method, a decoder for tasks of two views, a head, a loss. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..finetune.config import encoder_settings
from ..settings import ImageSize, Settings

Four = tuple[int, int, int, int]


class DenseModel(Settings):
    """The network of one view: the encoder as its own method builds it, and a head."""

    encoder: dict[str, Any] = Field(default={}, description="method and sections of the encoder; `sightline finetune` fills it in")
    image_size: ImageSize = Field(description="pixels of a crop, and of a tile: one side of a square, or [height, width]")
    head: Literal["dpt", "linear"] = Field(default="dpt", description="dpt: four blocks, fused from coarse to fine; linear: the last one")
    hooks: Four | None = Field(default=None, description="blocks that dpt reads, encoder's first, then decoder's; default: by depth")
    widths: Four = Field(default=(96, 192, 384, 768), description="of dpt's stages, fine to coarse")
    features: int = Field(default=256, ge=2, multiple_of=2, description="width in which dpt fuses its stages")
    last: int = Field(default=32, ge=1, description="width before dpt's last map")

    @field_validator("encoder")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        encoder_settings(value)
        return value

    @field_validator("hooks", "widths")
    @classmethod
    def _counts(cls, value: Four | None) -> Four | None:
        if value is not None and min(value) < 0:
            raise ValueError("no number of these may be negative")
        return value

    @model_validator(mode="after")
    def _patches(self) -> DenseModel:
        patch = self.encoder.get("model", {}).get("patch_size")
        for side in self.image_size:
            if patch and side % patch:
                raise ValueError(f"image_size {side} is no multiple of the encoder's patch_size {patch}")
        return self


class TwoViewModel(DenseModel):
    """With a decoder. Its settings follow from the encoder's method where that pre-trains one, as CroCo does."""

    decoder_dim: int = Field(default=512, ge=1)
    decoder_depth: int = Field(default=8, ge=1)
    decoder_heads: int = Field(default=16, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    norm_memory: bool = Field(default=True, description="a norm of the second view's tokens in each decoder block")
    position: Literal["cosine", "rope"] = Field(default="rope", description="cosine: a fixed table; rope: rotary embedding")
    rope_base: float = Field(default=100.0, gt=0)
    rope_f0: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> TwoViewModel:
        dim, heads = self.decoder_dim, self.decoder_heads
        if dim % heads:
            raise ValueError(f"decoder_heads {heads} does not divide decoder_dim {dim}: {dim} / {heads} = {dim / heads:.2f} per head")
        if self.position == "rope" and dim // heads % 4:
            raise ValueError(
                f"position 'rope' needs a head width divisible by 4; decoder_dim / decoder_heads = {dim} / {heads} = {dim // heads}"
            )
        if self.position == "cosine" and dim % 4:
            raise ValueError(f"position 'cosine' needs a width divisible by 4; decoder_dim is {dim}")
        return self
