"""A masked autoencoder (He et al., CVPR 2022), small: a method published by another package. Importing this imports no torch."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from sightline.methods.contract import Lazy, Method, MethodConfig, MetricInfo, Sample
from sightline.methods.errors import BrokenSampleError
from sightline.methods.settings import Settings


class Model(Settings):
    image_size: int = Field(default=64, ge=1)
    patch_size: int = Field(default=16, ge=1)
    dim: int = Field(default=64, ge=4, multiple_of=4)
    depth: int = Field(default=2, ge=1)
    decoder_depth: int = Field(default=1, ge=1)
    heads: int = Field(default=2, ge=1)

    @property
    def grid(self) -> tuple[int, int]:
        return (self.image_size // self.patch_size,) * 2

    @model_validator(mode="after")
    def _fits(self) -> Model:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        return self


class PretextTask(Settings):
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)


class Loss(Settings):
    reconstruction: float = Field(default=1.0, ge=0)


class Augment(Settings):
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")


class MaeConfig(MethodConfig):
    model: Model = Model()
    pretext: PretextTask = PretextTask()
    loss: Loss = Loss()
    augment: Augment = Augment()


class MaeViews:
    """`image`: a random crop, perhaps flipped; `order`: the patches in random order, those that stay visible first."""

    def __init__(self, config: MaeConfig) -> None:
        self.config = config

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image, size, grid = sample["image"], self.config.model.image_size, self.config.model.grid
        top, left = (int(rng.random() * (side - size + 1)) for side in image.shape[:2])
        if min(image.shape[:2]) < size:
            raise BrokenSampleError(f"an image of {image.shape[0]} x {image.shape[1]} pixels is smaller than the crop of {size}")
        crop = image[top : top + size, left : left + size]
        crop = crop[:, ::-1] if rng.random() < self.config.augment.flip else crop
        return {"image": np.ascontiguousarray(crop), "order": rng.permutation(grid[0] * grid[1])}


method = Method(
    id="outside_mae",
    kind="images",
    Config=MaeConfig,
    views=MaeViews,
    build=Lazy(f"{__name__}.pretext:build"),
    image_shape=lambda config: (config.model.image_size,) * 2,
    metrics={"reconstruction": MetricInfo("mean squared error on hidden patches, against normalised pixels", better="lower")},
)
