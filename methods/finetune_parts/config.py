"""Settings of part segmentation by fine-tuning (defaults: Point-M2AE's for ShapeNetPart). Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from ..contract import MethodConfig
from ..finetune.config import FinetuneLoss, one_name_each
from ..finetune_points.config import Radius, TunedCloudModel
from ..i2p_mae.config import Three
from ..settings import Settings

Width = Annotated[int, Field(ge=1)]


class FinetunePartsModel(TunedCloudModel):
    """The network: the encoder, the tokens of all its scales spread over all points, what the category adds, three layers."""

    parts: int = Field(ge=2, description="number of parts of all categories; `sightline finetune` takes it from the data set")
    part_names: tuple[str, ...] = Field(
        default=(), description="in the order of the logits; `sightline finetune` takes them from the data set"
    )
    parts_of: tuple[tuple[int, ...], ...] = Field(description="for each category the numbers of its own parts; from the data set, too")
    points: int = Field(default=2048, ge=1, description="points of a cloud that the network sees")
    neighbours: Three = Field(
        default=(16, 8, 8), description="points (then tokens of the scale below) in a token, in place of the encoder's"
    )
    radius: tuple[Radius, Radius, Radius] = Field(default=(0.32, 0.64, 1.28), description="within which a token of each scale sees others")
    propagation: tuple[Width, Width] = Field(default=(1536, 1024), description="layers at every point, for the tokens of each scale")
    category_dim: int = Field(default=64, ge=1, description="features that the category adds")
    head: tuple[Width, Width, Width] = Field(default=(1024, 512, 256), description="layers before the parts")

    @model_validator(mode="after")
    def _parts_fit(self) -> FinetunePartsModel:
        one_name_each(self.part_names, self.parts)
        if len(self.parts_of) != self.classes:
            raise ValueError(f"parts_of names the parts of {len(self.parts_of)} categories, and there are {self.classes}")
        for category, own in enumerate(self.parts_of):
            if not own or min(own) < 0 or max(own) >= self.parts:
                raise ValueError(f"parts_of[{category}] {list(own)}: a category has one part or more, each from 0 to {self.parts - 1}")
        return self


class FinetunePartsTask(Settings):
    replacement: bool = Field(
        default=True, description="points of a cloud are drawn with replacement, in validation too, as the authors do; false: without"
    )
    official: bool = Field(
        default=True, description="as the released code: no centres near the origin, one learning rate an epoch. false: neither"
    )


class FinetunePartsAugment(Settings):
    """Of a training cloud, after it is centred on its mean with the farthest point at distance 1 and its points are drawn."""

    scale: tuple[float, float] = Field(default=(0.8, 1.25), description="one factor for all axes, uniform")
    shift: Annotated[float, Field(ge=0)] = Field(default=0.1, description="of each axis, from U(-a, a)")

    @model_validator(mode="after")
    def _ordered(self) -> FinetunePartsAugment:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale [{self.scale[0]:g}, {self.scale[1]:g}] must be two positive numbers in rising order")
        return self


class FinetunePartsConfig(MethodConfig):
    model: FinetunePartsModel
    pretext: FinetunePartsTask = FinetunePartsTask()
    loss: FinetuneLoss = FinetuneLoss()
    augment: FinetunePartsAugment = FinetunePartsAugment()
