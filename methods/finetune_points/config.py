"""Settings of fine-tuning on clouds (defaults: the authors' for ModelNet40). Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ..contract import MethodConfig
from ..finetune.config import ClassNames, FinetuneLoss, encoder_settings, one_name_each
from ..i2p_mae.config import I2PAugment, I2PConfig, I2PModel, Three
from ..settings import Settings

Radius = Annotated[float, Field(gt=0)]
ROUNDS = 49
"""Of votes, of which the authors report the best."""


class TunedCloudModel(Settings):
    """What the networks of all tasks share: an encoder of clouds whose tokens look at their surroundings alone."""

    encoder: dict[str, Any] = Field(default={}, description="method and sections of the encoder; `sightline finetune` fills it in")
    classes: int = Field(ge=2, description="number of classes; `sightline finetune` takes it from the data set")
    class_names: ClassNames = Field(default=(), description="in the order of the logits; `sightline finetune` takes them from the data set")
    points: int = Field(default=1024, ge=1, description="points of a cloud that the network sees")
    neighbours: Three = Field(
        default=(48, 24, 24), description="points (then tokens of the scale below) in a token, in place of the encoder's"
    )
    radius: tuple[Radius, Radius, Radius] = Field(default=(0.24, 0.48, 0.96), description="within which a token of each scale sees others")
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="rate of the last block; linear from 0 at the first")

    @field_validator("encoder")
    @classmethod
    def _of_clouds(cls, value: dict[str, Any]) -> dict[str, Any]:
        method, settings = encoder_settings(value)
        if not isinstance(settings, I2PConfig):
            raise ValueError(f"{method.id} has another encoder than i2p_mae, whose encoder of clouds is needed; name a model of i2p_mae")
        return value

    @property
    def network(self) -> I2PModel:
        """The encoder's settings with what is changed for fine-tuning. Raises `ValueError` where they do not fit."""
        own = encoder_settings(self.encoder)[1].model.model_dump()
        changed = {"points": self.points, "neighbours": self.neighbours, "drop_path": self.drop_path}
        return I2PModel.model_validate({**own, **changed})

    @model_validator(mode="after")
    def _fits(self) -> TunedCloudModel:
        _ = self.network
        one_name_each(self.class_names, self.classes)
        return self


class FinetunePointsModel(TunedCloudModel):
    """The network: the encoder with larger groups, a fresh norm, pooling, three layers."""

    pooling: Literal["sum", "concat"] = Field(default="sum", description="mean and largest over the tokens: added, or side by side")


class FinetunePointsTask(Settings):
    label_smoothing: float = Field(default=0.2, ge=0, lt=1, description="shared by the other classes alone")
    votes: int = Field(default=10, ge=0, description="draws of a test cloud whose mean logits are scored as `vote`; 0: none")
    best_of_49: bool = Field(
        default=False, description="also vote 49 times and report the best, as the authors do: chosen on the test data, so too good"
    )
    official: bool = Field(
        default=True, description="as the released code: no centres near the origin, one learning rate an epoch. false: neither"
    )


class FinetunePointsAugment(I2PAugment):
    """Of a training cloud, in this order, after its points are drawn."""

    normalise: bool = Field(default=True, description="centred on the mean, farthest point at distance 1; in validation, too")
    rotation: float = Field(
        default=0.0, ge=0, le=180, description="degrees: about y, by an angle from U(-a, a); one for a whole microbatch"
    )


class FinetunePointsConfig(MethodConfig):
    model: FinetunePointsModel
    pretext: FinetunePointsTask = FinetunePointsTask()
    loss: FinetuneLoss = FinetuneLoss()
    augment: FinetunePointsAugment = FinetunePointsAugment()

    @property
    def pool(self) -> int:
        """Farthest points of a cloud from which a draw is taken: 1,200 for 1,024 and 2,400 for 2,048, and that ratio for others."""
        return self.model.points * 75 // 64

    @model_validator(mode="after")
    def _votes(self) -> FinetunePointsConfig:
        if self.pretext.votes and self.model.points >= 2048:
            raise ValueError(
                f"pretext.votes {self.pretext.votes} with model.points {self.model.points}: the authors vote with 1,024 points alone, "
                "because clouds of 2,048 have no others to draw; use pretext.votes=0, or fewer points"
            )
        if self.pretext.best_of_49 and not self.pretext.votes:
            raise ValueError("pretext.best_of_49 is the best of 49 votes, and pretext.votes is 0; use pretext.votes=10")
        return self
