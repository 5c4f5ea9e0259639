"""Settings of I2P-MAE (defaults: the released pre-training recipe). Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from ..contract import MethodConfig
from ..settings import Added, Settings

Count = Annotated[int, Field(ge=1)]


def _one_a_scale(value: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise ValueError("three whole numbers are needed, one a scale, the finest first")
    return value


Three = Annotated[tuple[Count, Count, Count], BeforeValidator(_one_a_scale)]


class I2PModel(Settings):
    """Three scales, the finest first: each groups points of the one below around centres. The decoder works on the two coarser ones."""

    points: int = Field(default=2048, ge=1, description="points of a cloud that the network sees")
    groups: Three = Field(default=(512, 256, 64), description="tokens of each scale")
    neighbours: Three = Field(default=(16, 8, 8), description="points (then tokens of the scale below) in a token")
    dims: Three = (96, 192, 384)
    depths: Three = (5, 5, 5)
    heads: int = Field(default=6, ge=1, description="at every scale, encoder and decoder")
    mlp_ratio: float = Field(default=4.0, gt=0)
    embed: tuple[Count, Count] = Field(default=(128, 256), description="channels of the finest scale's small PointNet")
    decoder_depths: tuple[Count, Count] = (1, 1)
    decoder_up_blocks: int = Field(default=1, ge=1, description="residual units after the coarse tokens are spread over the finer ones")
    drop_path: float = Field(
        default=0.1, ge=0, lt=1, description="rate of the last block, of encoder and decoder; linear from 0 at the first"
    )
    teacher: str | None = Field(
        default=None, description="2-D encoder: a run, a file, or models:/NAME@alias; null: none, for the loss of points"
    )
    teacher_dim: int = Field(
        default=512, ge=1, description="channels of the teacher's features; follows from the teacher where one is named"
    )

    @model_validator(mode="after")
    def _fits(self) -> I2PModel:
        sources = (self.points, *self.groups[:2])
        for scale, (source, groups, neighbours) in enumerate(zip(sources, self.groups, self.neighbours, strict=True)):
            of = "model.points" if scale == 0 else f"model.groups[{scale - 1}]"
            for name, value in (("groups", groups), ("neighbours", neighbours)):
                if value > source:
                    raise ValueError(f"model.{name}[{scale}] {value} is more than {of} {source}: each is taken from those")
        if odd := [dim for dim in self.dims if dim % self.heads]:
            raise ValueError(f"heads {self.heads} does not divide dims {odd[0]}: {odd[0]} / {self.heads} = {odd[0] / self.heads:.2f}")
        return self


class I2PTask(Settings):
    """What is hidden, and how closely the released code is followed."""

    mask_ratio: float = Field(default=0.8, gt=0, lt=1, description="hidden share of the coarsest tokens, floor(share * tokens)")
    mask: Literal["guided", "inverse", "random"] = Field(
        default="guided", description="guided: salient tokens stay visible more often; inverse: they are hidden more often"
    )
    mask_temperature: float = Field(
        default=1.0, gt=0, description="of the saliency; attention is about 1/197, so at 1 the draw is nearly random"
    )
    views: int = Field(default=3, ge=1, le=3, description="depth views from which features are taken")
    splat: Annotated[Literal[1, 3, 5], Added(neutral=5)] = Field(
        default=5, description="side of the square on which a point is drawn, pixels"
    )
    depth_value: Annotated[Literal["sum", "nearest"], Added(neutral="sum")] = Field(
        default="sum", description="of the points at a pixel: sum: their depths added up; nearest: the depth of the foremost, the largest"
    )
    teacher_input: Annotated[Literal["own", "imagenet"], Added(neutral="own")] = Field(
        default="own",
        description="own: depth images are normalised as the teacher does it; imagenet: by ImageNet's mean and std whatever the teacher "
        "does, as in the released code",
    )
    saliency: Annotated[Literal["shares", "attention"], Added(neutral="shares")] = Field(
        default="shares",
        description="shares: of the patches, sum 1; attention: the class token's as it is, its own share left out, as the released code",
    )
    teacher_level: Annotated[int | None, Field(lt=0), Added(neutral=None)] = Field(
        default=None,
        description="features are what this block (of a ViT) or stage of the teacher gives, -1 the last, before its last norm and layers; "
        "null: the teacher's output",
    )
    target: Annotated[Literal["plain", "l2", "standardised"], Added(neutral="plain")] = Field(
        default="plain", description="the teacher's features at a point: as they are, of length 1, or of mean 0 and variance 1, each view's"
    )
    features_on: Literal["visible", "masked", "all"] = Field(default="visible", description="tokens whose 2-D features are predicted")
    official: bool = Field(
        default=True,
        description="as the released code: no centres near the origin; token 0 of a microbatch's first sample is always visible; tokens in "
        "no neighbourhood are left out of the encoder. false: none of these",
    )


class I2PLoss(Settings):
    points: float = Field(default=1.0, ge=0, description="Chamfer distance of the hidden tokens' neighbours")
    features: float = Field(default=1.0, ge=0, description="squared error of the teacher's features")

    @model_validator(mode="after")
    def _learns(self) -> I2PLoss:
        if self.points == self.features == 0:
            raise ValueError("loss.points and loss.features are both 0: nothing would be learned")
        return self


Range = tuple[float, float]


class I2PAugment(Settings):
    """Of the cloud, before it is rendered."""

    scale: Range = Field(default=(2 / 3, 3 / 2), description="factor of each axis, uniform")
    shift: Annotated[float, Field(ge=0)] = Field(default=0.2, description="of each axis, from U(-a, a)")

    @model_validator(mode="after")
    def _ordered(self) -> I2PAugment:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale [{self.scale[0]:g}, {self.scale[1]:g}] must be two positive numbers in rising order")
        return self


class I2PConfig(MethodConfig):
    model: I2PModel = I2PModel()
    pretext: I2PTask = I2PTask()
    loss: I2PLoss = I2PLoss()
    augment: I2PAugment = I2PAugment()

    @property
    def masked(self) -> int:
        """Hidden tokens of the coarsest scale."""
        return int(self.pretext.mask_ratio * self.model.groups[2])

    @model_validator(mode="after")
    def _mask_fits(self) -> I2PConfig:
        top = self.model.groups[2]
        if not 0 < self.masked < top:
            raise ValueError(
                f"pretext.mask_ratio {self.pretext.mask_ratio} hides {self.masked} of the {top} tokens of the coarsest scale; at least one "
                "must be hidden and one seen: change the ratio, or model.groups"
            )
        return self

    @property
    def uses_teacher(self) -> bool:
        return self.pretext.mask != "random" or self.loss.features > 0

    @model_validator(mode="after")
    def _teacher_where_needed(self) -> I2PConfig:
        if self.model.teacher is not None and not self.uses_teacher:
            raise ValueError(
                "model.teacher is named but not used: pretext.mask is random and loss.features 0; set one of them, or no teacher"
            )
        return self
