"""Settings of relative pose: an encoder of any method, a decoder of two views, losses. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from ..contract import MethodConfig
from ..dense.config import CropAugment, DecoderModel, EncoderModel
from ..settings import Settings

Intrinsics = tuple[float, float, float, float]


class PoseModel(EncoderModel, DecoderModel):
    """Encoder of both views, decoder, and a head of two hidden layers on the decoder's tokens."""

    hidden: int = Field(default=256, ge=1, description="width of the head")
    intrinsics: Intrinsics = Field(
        default=(1.0, 1.0, 0.0, 0.0),
        description="assumed in prediction: focal lengths over width and height, principal point from the middle over width and height; "
        "`sightline finetune` takes those of the first training pair",
    )

    @field_validator("intrinsics")
    @classmethod
    def _focal(cls, value: Intrinsics) -> Intrinsics:
        if min(value[:2]) <= 0:
            raise ValueError("focal lengths are above 0")
        return value


class PoseTask(Settings):
    translation: Literal["metres", "direction"] = Field(
        default="metres", description="metres: in the unit of the poses; direction: of length 1, where poses have no common scale"
    )


class PoseLoss(Settings):
    rotation: float = Field(default=1.0, ge=0)
    translation: float = Field(default=1.0, ge=0)


class PoseAugment(CropAugment):
    """A random crop of each image, whose intrinsics follow; a flip and a swap of both images, which change the pose; colours."""

    scale: tuple[float, float] = Field(default=(1.0, 1.2), description="of each image, relative to the size at which the crop just fits")
    flip: float = Field(default=0.5, ge=0, le=1, description="how often both images are flipped left for right")
    swap: float = Field(default=0.5, ge=0, le=1, description="how often the images change places")


class PoseConfig(MethodConfig):
    model: PoseModel
    pretext: PoseTask = PoseTask()
    loss: PoseLoss = PoseLoss()
    augment: PoseAugment = PoseAugment()
