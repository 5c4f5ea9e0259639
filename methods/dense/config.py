"""Settings of dense tasks: an encoder of any method, a decoder for tasks of two views, a head, a loss. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from ..contract import MethodConfig
from ..finetune.config import encoder_settings
from ..settings import Added, ImageSize, Settings

Four = tuple[int, int, int, int]
CriterionName = Literal["l1", "laplacian", "bounded", "bounded2"]
BOUNDS: dict[CriterionName, tuple[float, float]] = {
    "l1": (0.0, 0.0),
    "laplacian": (0.0, 0.0),
    "bounded": (0.25, 4.0),
    "bounded2": (3.0, 3.0),
}
"""The authors' (a, b)."""


def limits_of(name: CriterionName, a: float | None, b: float | None) -> tuple[float, float]:
    """(a, b) of a criterion, the authors' where None. Raises `ValueError` for numbers that are no limits."""
    low, high = BOUNDS[name]
    low, high = low if a is None else a, high if b is None else b
    if name == "bounded" and not 0 < low < high:
        raise ValueError(f"bounded needs 0 < a < b, not a = {low:g}, b = {high:g}")
    if name == "bounded2" and not (low > 0 and high > 0):
        raise ValueError(f"bounded2 needs a and b above 0, not a = {low:g}, b = {high:g}")
    return low, high


class EncoderModel(Settings):
    """The encoder as its own method builds it, and what it sees."""

    encoder: dict[str, Any] = Field(default={}, description="method and sections of the encoder; `sightline finetune` fills it in")
    image_size: ImageSize = Field(description="pixels of a crop, and of a tile: one side of a square, or [height, width]")
    frozen: bool = Field(default=False, description="leave the encoder as it is: the head alone is trained")

    @field_validator("encoder")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        encoder_settings(value)
        return value

    @model_validator(mode="after")
    def _patches(self) -> EncoderModel:
        patch = self.encoder.get("model", {}).get("patch_size")
        for side in self.image_size:
            if patch and side % patch:
                raise ValueError(f"image_size {side} is no multiple of the encoder's patch_size {patch}")
        return self


class DenseModel(EncoderModel):
    """The network of one view: an encoder and a head."""

    head: Literal["dpt", "linear"] = Field(default="dpt", description="dpt: four blocks, fused from coarse to fine; linear: the last one")
    hooks: Four | None = Field(default=None, description="blocks that dpt reads, encoder's first, then decoder's; default: by depth")
    widths: Four = Field(default=(96, 192, 384, 768), description="of dpt's stages, fine to coarse")
    features: int = Field(default=256, ge=2, multiple_of=2, description="width in which dpt fuses its stages")
    last: int = Field(default=32, ge=1, description="width before dpt's last map")

    @field_validator("hooks", "widths")
    @classmethod
    def _counts(cls, value: Four | None) -> Four | None:
        if value is not None and min(value) < 0:
            raise ValueError("no number of these may be negative")
        return value


class DecoderModel(Settings):
    """A decoder of two views. Its settings follow from the encoder's method where that pre-trains one, as CroCo does."""

    decoder_dim: int = Field(default=512, ge=1)
    decoder_depth: int = Field(default=8, ge=1)
    decoder_heads: int = Field(default=16, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    norm_memory: bool = Field(default=True, description="a norm of the second view's tokens in each decoder block")
    position: Literal["cosine", "rope"] = Field(default="rope", description="cosine: a fixed table; rope: rotary embedding")
    rope_base: float = Field(default=100.0, gt=0)
    rope_f0: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> DecoderModel:
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


class TwoViewModel(DenseModel, DecoderModel):
    """The network of two views."""


DECODER = ("decoder_dim", "decoder_depth", "decoder_heads", "mlp_ratio", "norm_memory", "position", "rope_base", "rope_f0")


def decoder_settings(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `TwoViewModel`, from the `model` section of an encoder's method; empty where that pre-trains no decoder of two views."""
    return {name: encoder[name] for name in DECODER} if set(DECODER) <= encoder.keys() else {}


class DenseTask(Settings):
    """The loss, and which pixels it counts. `a`, `b`, `max_norm` are those of `criteria.Criterion`; None: the authors'."""

    criterion: CriterionName = Field(default="laplacian", description="l1, or with a predicted confidence laplacian, bounded, bounded2")
    a: float | None = Field(default=None, gt=0)
    b: float | None = Field(default=None, gt=0)
    max_norm: float | None = Field(default=None, gt=0, description="larger truth does not count")

    @model_validator(mode="after")
    def _sound(self) -> DenseTask:
        limits_of(self.criterion, self.a, self.b)
        return self


class DepthTask(DenseTask):
    target: Literal["log", "metres"] = Field(default="log", description="what the network predicts; metrics are of metres")
    typical: Annotated[float | None, Added(neutral=None)] = Field(
        default=None,
        gt=0,
        description="median depth of the training data in metres: the head's first prediction; `sightline finetune` fills it in",
    )


class NormalsTask(Settings):
    """The loss is the mean of 1 - cos of the angle to the true normal."""

    window: int = Field(default=5, ge=3, le=31, description="side in stored pixels of the window whose depths make a true normal; odd")
    bend: float = Field(
        default=0.005, gt=0, description="a window with a depth further off its plane, as a share of the depth, has no normal"
    )

    @field_validator("window")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"window {value} has no middle pixel: give an odd number, such as {value + 1}")
        return value


class TwoViewTask(DenseTask):
    """With the tiles in which images larger than a crop are predicted."""

    tiles: str = Field(
        default="",
        pattern=r"^(even|conf_expsigmoid_\d+(\.\d+)?_\d+(\.\d+)?|conf_expbeta\d+(\.\d+)?)?$",
        description="how tiles count by their confidence: conf_expsigmoid_RATE_SCALE, conf_expbetaRATE or even; default: the task's own",
    )
    overlap: float = Field(default=0.7, ge=0, lt=1, description="share of a tile that neighbours have in common")


class StereoTask(TwoViewTask):
    criterion: CriterionName = Field(default="bounded2", description="l1, or with a predicted confidence laplacian, bounded, bounded2")
    typical: Annotated[float | None, Added(neutral=None)] = Field(
        default=None,
        description="median disparity of the training data in pixels: the head's first prediction; `sightline finetune` fills it in",
    )


class FlowTask(TwoViewTask):
    criterion: CriterionName = Field(default="bounded", description="l1, or with a predicted confidence laplacian, bounded, bounded2")
    max_norm: float | None = Field(default=1e4, gt=0, description="larger truth does not count")


class DenseLoss(Settings):
    regression: float = Field(default=1.0, ge=0)


class CropAugment(Settings):
    """A crop of an image at a random scale, flip and colour jitter."""

    scale: tuple[float, float] = Field(default=(1.0, 1.5), description="of the image, relative to the size at which the crop just fits")
    flip: float = Field(default=0.5, ge=0, le=1)
    brightness: float = Field(default=0.2, ge=0, le=1)
    contrast: float = Field(default=0.2, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)

    @field_validator("scale")
    @classmethod
    def _inside(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 1 <= value[0] <= value[1]:
            raise ValueError("give two numbers from 1 on, the smaller first: below 1 the crop would reach beyond the image")
        return value


class DepthAugment(CropAugment):
    """Of image and depth alike; the colour jitter of the image alone."""

    nearer: Annotated[bool, Added(neutral=False)] = Field(
        default=True, description="divide depths by the scale, as Eigen et al. (2014) do: what is shown twice as large is half as far"
    )


class NormalsAugment(CropAugment):
    """Of image and normals alike; a flip changes the sign of their x."""


def _range(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1]:
        raise ValueError("give two numbers above 0, the smaller first")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_range)]


class StereoAugment(Settings):
    """The authors' for stereo. Factors are drawn evenly from a range; that of the width evenly in its logarithm."""

    stretch: float = Field(default=0.5, ge=0, le=1, description="how often the width is scaled, and the disparity with it")
    widths: Range = Field(default=(2**-0.2, 2**0.4), description="factors of the width")
    widths_small: Range = Field(default=(1.0, 2.0), description="of images with a side below small_below pixels")
    small_below: int = Field(default=800, ge=0)
    flip_vertical: float = Field(default=0.5, ge=0, le=1)
    shift: float = Field(default=0.5, ge=0, le=1, description="how often the right image is turned and moved up or down a little")
    shift_degrees: float = Field(default=0.1, ge=0)
    shift_pixels: float = Field(default=2.0, ge=0)
    colour: float = Field(default=0.5, ge=0, le=1, description="how often each of the changes of colour is made")
    contrast: Range = (0.8, 1.2)
    gamma: Range = (0.7, 1.5)
    brightness: Range = (0.5, 2.0)
    hue: float = Field(default=0.1, ge=0, le=0.5, description="turns round the colour circle, either way")
    saturation: Range = (0.8, 1.2)
    all_changes: float = Field(default=0.5, ge=0, le=1, description="how often all changes may be made; otherwise one of them")
    asymmetric: float = Field(default=0.5, ge=0, le=1, description="how often the second image has draws of its own")


class FlowAugment(Settings):
    """The authors' for optical flow. Scales and stretches are drawn evenly in their logarithm."""

    scale: float = Field(default=0.8, ge=0, le=1, description="how often both images are scaled, and the flow with them")
    scales: Range = (2**-0.2, 2**0.5)
    stretch: float = Field(default=0.8, ge=0, le=1, description="how often each axis is scaled on its own as well")
    stretches: Range = (2**-0.2, 2**0.2)
    flip: float = Field(default=0.5, ge=0, le=1)
    flip_vertical: float = Field(default=0.1, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    hue: float = Field(default=0.5 / 3.14, ge=0, le=0.5, description="turns round the colour circle, either way")
    asymmetric: float = Field(default=0.2, ge=0, le=1, description="how often the second image has draws of its own")


class NormalsConfig(MethodConfig):
    model: DenseModel
    pretext: NormalsTask = NormalsTask()
    loss: DenseLoss = DenseLoss()
    augment: NormalsAugment = NormalsAugment()


class StereoConfig(MethodConfig):
    model: TwoViewModel
    pretext: StereoTask = StereoTask()
    loss: DenseLoss = DenseLoss()
    augment: StereoAugment = StereoAugment()


class FlowConfig(MethodConfig):
    model: TwoViewModel
    pretext: FlowTask = FlowTask()
    loss: DenseLoss = DenseLoss()
    augment: FlowAugment = FlowAugment()


class DepthConfig(MethodConfig):
    model: DenseModel
    pretext: DepthTask = DepthTask()
    loss: DenseLoss = DenseLoss()
    augment: DepthAugment = DepthAugment()
