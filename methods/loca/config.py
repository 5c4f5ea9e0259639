"""Settings of LOCA (defaults: the released recipe, ViT-B/16 on 224 px). Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..contract import MethodConfig
from ..settings import ImageSize, PatchGrid, Settings, whole_patches

Share = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


class LocaModel(PatchGrid):
    """The ViT, without class token. The position head's block has the same width, heads and MLP."""

    image_size: ImageSize = Field(default=(224, 224), description="pixels of reference and random query: one side, or [height, width]")
    encoder_dim: int = Field(default=768, ge=1)
    encoder_depth: int = Field(default=12, ge=1)
    encoder_heads: int = Field(default=12, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="rate of the last block; linear from 0 at the first")

    @model_validator(mode="after")
    def _fits(self) -> LocaModel:
        if self.encoder_dim % self.encoder_heads:
            dim, heads = self.encoder_dim, self.encoder_heads
            raise ValueError(f"encoder_heads {heads} does not divide encoder_dim {dim}: {dim} / {heads} = {dim / heads:.2f} per head")
        return self


class LocaPretextTask(Settings):
    """What queries see of the reference, and how clusters are assigned."""

    reference_keep: Share = Field(default=0.2, description="share of the reference's tokens that queries see, floor(share * patches)")
    reference_selection: Literal["consecutive", "first", "unstructured"] = Field(
        default="consecutive", description="which: a run in raster order from a random start, from the first, or a random subset"
    )
    focal_queries: int = Field(default=9, ge=0, description="small crops a sample, besides the one random query")
    query_tokens: int = Field(default=70, ge=1, description="tokens kept of the random query; all, in order, where it has no more")
    clustering: bool = Field(default=True, description="off: position loss alone, without teacher; reference with gradient")
    prototypes: int = Field(default=4096, ge=2)
    head_hidden: int = Field(default=2048, ge=1)
    head_bottleneck: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.1, gt=0, description="of the student's cluster prediction")
    sharpening: float = Field(default=0.05, gt=0, description="temperature of the teacher's cluster assignment")
    sinkhorn_iterations: int = Field(default=3, ge=0)
    teacher_momentum: float = Field(default=0.996, ge=0, le=1, description="at the start; rises to 1 by a cosine")
    encoder: Literal["teacher", "student"] = Field(default="teacher", description="whose encoder is kept; without clustering the student's")

    @model_validator(mode="after")
    def _sharper(self) -> LocaPretextTask:
        if self.sharpening > self.temperature:
            raise ValueError(
                f"sharpening {self.sharpening} is above temperature {self.temperature}: the teacher's assignments would be softer than "
                "the predictions that follow them"
            )
        return self


class LocaLoss(Settings):
    position: float = Field(default=1.0, ge=0)
    cluster: float = Field(default=1.0, ge=0)
    entropy: float = Field(default=1.0, ge=0, description="of the negative entropy of the mean prediction")


class LocaAugment(Settings):
    """Crops are drawn as TensorFlow's distorted bounding boxes, each from the whole image; colour is TensorFlow's, too."""

    reference_area: tuple[Share, Share] = Field(default=(0.32, 1.0), description="share of the image; reference and random query")
    focal_area: tuple[Share, Share] = (0.05, 0.32)
    focal_size: ImageSize = Field(default=(96, 96), description="pixels; multiples of the patch")
    ratio: tuple[float, float] = Field(default=(0.75, 1.33), description="width / height of a crop in the image")
    jitter: Probability = 0.8
    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    hue: float = Field(default=0.1, ge=0, le=0.5)
    grey: Probability = 0.2
    solarise: Probability = Field(default=0.2, description="random query only")
    blur: Literal["released", "intended"] = Field(
        default="released", description="released: none, as the published recipe behaves; intended: as its text says"
    )

    @model_validator(mode="after")
    def _ranges(self) -> LocaAugment:
        for name in ("reference_area", "focal_area", "ratio"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low}, {high}] is no range: it needs 0 < low <= high")
        return self


class LocaConfig(MethodConfig):
    model: LocaModel = LocaModel()
    pretext: LocaPretextTask = LocaPretextTask()
    loss: LocaLoss = LocaLoss()
    augment: LocaAugment = LocaAugment()

    @property
    def focal_grid(self) -> tuple[int, int]:
        """(rows, columns) of patches of a focal query."""
        return self.augment.focal_size[0] // self.model.patch_size, self.augment.focal_size[1] // self.model.patch_size

    @property
    def reference_tokens(self) -> int:
        """Tokens of the reference that queries see: the float product, floored, as in the reference (196 patches, 0.2 -> 39)."""
        return int(self.pretext.reference_keep * self.model.patches)

    @property
    def query_tokens(self) -> int:
        return min(self.pretext.query_tokens, self.model.patches)

    @model_validator(mode="after")
    def _whole(self) -> LocaConfig:
        whole_patches("augment.focal_size", self.augment.focal_size, self.model.patch_size)
        if self.reference_tokens < 1:
            n, share = self.model.patches, self.pretext.reference_keep
            raise ValueError(
                f"pretext.reference_keep {share} keeps int({share} * {n}) = 0 of the reference's {n} patches; keep at least one: "
                f"reference_keep from {1 / n:.3g}, or a larger image or smaller patch"
            )
        return self
