"""Settings of fine-tuning: an encoder of any method, a linear head, labels. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..catalog import find_method
from ..contract import Method, MethodConfig
from ..settings import Added, ImageSize, Settings, explain

ClassNames = Annotated[tuple[str, ...], Added(neutral=[])]
ENCODER_SECTIONS = ("model", "pretext", "loss", "augment")


class FinetuneModel(Settings):
    """The network: the encoder as its own method builds it, and a linear map from its features to classes."""

    encoder: dict[str, Any] = Field(default={}, description="method and sections of the encoder; `sightline finetune` fills it in")
    classes: int = Field(ge=2, description="number of classes; `sightline finetune` takes it from the data set")
    class_names: ClassNames = Field(default=(), description="in the order of the logits; `sightline finetune` takes them from the data set")
    image_size: ImageSize = Field(description="pixels: one side of a square, or [height, width]")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="stochastic depth of the last block, from 0 at the first")
    drop_path_in: Annotated[Literal["own", "every"], Added(neutral="own")] = Field(
        default="own",
        description="own: encoders that bring a fine-tuning form of their own (ConMIM), no others; every: all, or it is refused",
    )
    head_scale: float = Field(default=1e-3, gt=0, description="factor on the fresh head's weights: predictions start nearly even")

    @field_validator("encoder")
    @classmethod
    def _known(cls, value: dict[str, Any]) -> dict[str, Any]:
        encoder_settings(value)
        return value

    @model_validator(mode="after")
    def _named(self) -> FinetuneModel:
        one_name_each(self.class_names, self.classes)
        return self

    @model_validator(mode="after")
    def _patches(self) -> FinetuneModel:
        patch = self.encoder.get("model", {}).get("patch_size")
        for side in self.image_size:
            if patch and side % patch:
                raise ValueError(f"image_size {side} is no multiple of the encoder's patch_size {patch}")
        return self


Decoder = Literal["linear", "mask_transformer", "upernet"]
Blocks = tuple[int, int, int, int]
MOST_CLASSES = 255
"""Of masks of 8 bits, whose last value means no class."""
Palette = tuple[tuple[int, int, int], ...]


class SegmentationModel(FinetuneModel):
    """With a decoder of the patches."""

    decoder: Annotated[Decoder, Added(neutral="linear")] = Field(
        default="linear",
        description="linear: one map a patch; mask_transformer: Segmenter's; upernet: a pyramid on four blocks, as for BEiT",
    )
    decoder_depth: Annotated[int, Added(neutral=2)] = Field(default=2, ge=1, description="blocks of the mask transformer")
    decoder_dim: Annotated[int | None, Added(neutral=None)] = Field(
        default=None, ge=1, description="width of UPerNet; default: the encoder's, as for BEiT"
    )
    palette: Annotated[Palette, Added(neutral=[])] = Field(
        default=(), description="colours of the classes in pictures, red, green, blue; `sightline finetune` takes them from the data set"
    )
    hooks: Annotated[Blocks | None, Added(neutral=None)] = Field(
        default=None, description="blocks that UPerNet reads, from 0; default: after a third, a half, two thirds and all of them"
    )

    @model_validator(mode="after")
    def _few(self) -> SegmentationModel:
        if self.classes > MOST_CLASSES:
            raise ValueError(f"{self.classes:,} classes: masks are learned with at most {MOST_CLASSES}; prepare the data with fewer")
        return self

    @model_validator(mode="after")
    def _coloured(self) -> SegmentationModel:
        if self.palette and len(self.palette) != self.classes:
            raise ValueError(f"{len(self.palette)} colours in palette for {self.classes} classes")
        return self


def one_name_each(names: tuple[str, ...], classes: int) -> None:
    """Raises `ValueError` where there are names, but not one for each class."""
    if names and len(names) != classes:
        raise ValueError(f"{len(names)} class_names for {classes} classes")


def encoder_settings(encoder: dict[str, Any]) -> tuple[Method, MethodConfig]:
    """The method of an encoder and its settings. Raises `ValueError` naming what is wrong with them."""
    from pydantic import ValidationError

    from ..errors import CallError

    if "method" not in encoder:
        raise ValueError("the encoder's settings name no method; use `sightline finetune MODEL`, which takes them from the model")
    try:
        method = find_method(str(encoder["method"]))
        return method, method.Config.model_validate({name: encoder.get(name) or {} for name in ENCODER_SECTIONS})
    except ValidationError as error:
        raise ValueError(str(explain(error, find_method(str(encoder["method"])).Config, "model.encoder"))) from None
    except CallError as error:
        raise ValueError(str(error)) from None


class FinetuneTask(Settings):
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    ignore_index: int | None = Field(default=None, description="class index of pixels that do not count (segmentation)")
    ema: Annotated[float, Added(neutral=0.0)] = Field(
        default=0.0, ge=0, lt=1, description="decay of an average of the weights, which is validated, tested and kept; 0: none"
    )


class FinetuneLoss(Settings):
    cross_entropy: float = Field(default=1.0, ge=0)


class SegmentationTask(FinetuneTask):
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    auxiliary: Annotated[float, Added(neutral=0.4)] = Field(
        default=0.4, ge=0, description="weight of a second prediction, from the third block that UPerNet reads; in training alone"
    )


class ClassificationAugment(Settings):
    """Random resized crop, flip, RandAugment and erasing for each image; mixup or CutMix for a microbatch."""

    area: tuple[float, float] = Field(default=(0.08, 1.0), description="share of the image that a crop covers")
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    crop_ratio: Annotated[float, Added(neutral=1.0)] = Field(
        default=1.0, gt=0, le=1, description="share of the short side that validation and tests see; papers: 0.875 below 384 pixels"
    )
    flip: float = Field(default=0.5, ge=0, le=1)
    rand_ops: int = Field(default=2, ge=0, description="RandAugment: operations an image")
    rand_magnitude: float = Field(default=9.0, ge=0, le=10)
    rand_std: float = Field(default=0.5, ge=0, description="of the magnitude")
    erase: float = Field(default=0.25, ge=0, le=1, description="probability that a random box is filled with noise")
    mixup: float = Field(default=0.8, ge=0, description="Beta parameter; 0 = off")
    cutmix: float = Field(default=1.0, ge=0, description="Beta parameter; 0 = off. With both on, each is drawn half of the time")


class SegmentationAugment(Settings):
    """Random scale, crop and flip of image and mask, colour jitter of the image."""

    scale: tuple[float, float] = Field(default=(0.5, 2.0), description="of the image, relative to the size at which the crop just fits")
    flip: float = Field(default=0.5, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0, le=1)
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.4, ge=0, le=1)
    most_of_one_class: Annotated[float, Added(neutral=1.0)] = Field(
        default=1.0, gt=0, le=1, description="a crop of which one class covers more is drawn again, up to ten times; 1: never"
    )


class FinetuneConfig(MethodConfig):
    model: FinetuneModel
    pretext: FinetuneTask = FinetuneTask()
    loss: FinetuneLoss = FinetuneLoss()


class ClassificationConfig(FinetuneConfig):
    augment: ClassificationAugment = ClassificationAugment()


class SegmentationConfig(FinetuneConfig):
    model: SegmentationModel
    pretext: SegmentationTask = SegmentationTask()
    augment: SegmentationAugment = SegmentationAugment()
