"""Settings of CroCo (defaults: ViT-B with the small decoder, the paper's v1). Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ..contract import MethodConfig
from ..settings import PatchGrid, Settings


class CrocoModel(PatchGrid):
    """The two-view network. A side of the image must be a multiple of the patch."""

    position: Literal["cosine", "rope"] = Field(default="cosine", description="cosine: v1's fixed tables; rope: v2's rotary embedding")
    rope_base: float = Field(default=100.0, gt=0)
    rope_f0: float = Field(default=1.0, gt=0)
    encoder_dim: int = Field(default=768, ge=1)
    encoder_depth: int = Field(default=12, ge=1)
    encoder_heads: int = Field(default=12, ge=1)
    decoder_dim: int = Field(default=512, ge=1)
    decoder_depth: int = Field(default=8, ge=1)
    decoder_heads: int = Field(default=16, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    norm_memory: bool = Field(default=True, description="a norm of the second view's tokens in each decoder block")

    @model_validator(mode="after")
    def _fits(self) -> CrocoModel:
        for part, dim, heads in (("encoder", self.encoder_dim, self.encoder_heads), ("decoder", self.decoder_dim, self.decoder_heads)):
            if dim % heads:
                raise ValueError(f"{part}_heads {heads} does not divide {part}_dim {dim}: {dim} / {heads} = {dim / heads:.2f} per head")
            if self.position == "rope" and dim // heads % 4:
                raise ValueError(
                    f"position 'rope' needs a head width divisible by 4; {part}_dim / {part}_heads = {dim} / {heads} = {dim // heads}"
                )
            if self.position == "cosine" and dim % 4:
                raise ValueError(f"position 'cosine' needs a width divisible by 4; {part}_dim is {dim}")
        return self


class CrocoPretextTask(Settings):
    """Which patches of image 1 are hidden, and what is predicted for them."""

    mask_ratio: float = Field(default=0.9, gt=0, lt=1, description="hidden share of image 1; int(mask_ratio * patches) are hidden")
    norm_pix: bool = Field(default=True, description="targets are normalised by each patch's own mean and standard deviation")
    hidden_only: bool = Field(default=True, description="the loss counts hidden patches only")


class CrocoLoss(Settings):
    reconstruction: float = Field(default=1.0, ge=0)


class CrocoAugment(Settings):
    """Colour jitter, drawn for each image on its own: factors from U(1 - a, 1 + a) in random order. Crops are random, too."""

    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)


class CrocoConfig(MethodConfig):
    model: CrocoModel = CrocoModel()
    pretext: CrocoPretextTask = CrocoPretextTask()
    loss: CrocoLoss = CrocoLoss()
    augment: CrocoAugment = CrocoAugment()

    @property
    def hidden(self) -> int:
        """Hidden patches of image 1: the float product, truncated, as in the reference (196 patches, 0.9 -> 176)."""
        return int(self.pretext.mask_ratio * self.model.patches)

    @model_validator(mode="after")
    def _something_to_learn(self) -> CrocoConfig:
        n = self.model.patches
        if self.hidden < 1:
            raise ValueError(
                f"pretext.mask_ratio {self.pretext.mask_ratio} hides int({self.pretext.mask_ratio} * {n}) = 0 of the {n} patches; "
                f"hide at least one: mask_ratio from {1 / n:.3g} up to below 1, or a larger image or smaller patch"
            )
        return self
