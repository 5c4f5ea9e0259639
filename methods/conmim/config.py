"""Settings of ConMIM (defaults: ViT-B and the recipe the authors document). Imports no torch."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from ..contract import MethodConfig
from ..settings import PatchGrid, Settings


class ConMIMModel(PatchGrid):
    """A ViT in the style of BEiT and its projector. A side of the image must be a multiple of the patch."""

    dim: int = Field(default=768, ge=1)
    depth: int = Field(default=12, ge=1)
    heads: int = Field(default=12, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    position_table: bool = Field(default=False, description="a learned table of absolute positions is added to the tokens")
    relative_bias: Literal["none", "shared", "per_block", "both"] = Field(
        default="shared", description="learned bias of attention by relative position: one table for all blocks, one for each, or both"
    )
    relative_bias_lr: float = Field(
        default=1.0, gt=0, description="factor on the learning rate of the bias tables; AdamW moves a table by about the rate a step"
    )
    layer_scale: float | None = Field(default=0.1, gt=0, description="first value of the factors on each branch; null: no factors")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth of the last block, in the student and the teacher")
    projector_hidden: int = Field(default=4096, ge=1)
    projector_dim: int = Field(default=256, ge=1)
    normalise: Literal["imagenet", "half"] = Field(
        default="imagenet", description="imagenet: ImageNet's mean and standard deviation; half: 0.5 and 0.5"
    )

    @model_validator(mode="after")
    def _fits(self) -> ConMIMModel:
        if self.dim % self.heads:
            raise ValueError(f"heads {self.heads} does not divide dim {self.dim}: {self.dim} / {self.heads} = {self.dim / self.heads:.2f}")
        return self


class ConMIMTask(Settings):
    """Which patches the student does not see, and against what it is compared."""

    mask: Literal["cells", "block", "random"] = Field(
        default="cells",
        description="cells: squares of mask_cell pixels (the authors' random_mps32); block: BEiT's rectangles; random: patches",
    )
    mask_cell: int = Field(default=32, ge=1, description="side of a cell in pixels, for `cells`")
    mask_ratio: float = Field(default=0.75, gt=0, lt=1, description="hidden share; `block` hides at most this share, and may fall short")
    block_min: int = Field(default=16, ge=1, description="least area of a block in patches, for `block`")
    temperature: float = Field(default=0.1, gt=0)
    teacher_momentum: float = Field(default=0.996, ge=0, le=1, description="at the first step; rises to 1 by a cosine")
    strong_view: Literal["teacher", "student", "both"] = Field(default="teacher", description="who sees the image with changed colours")
    encoder: Literal["teacher", "student"] = Field(default="teacher", description="whose backbone is the exported encoder")


class ConMIMLoss(Settings):
    contrast: float = Field(default=1.0, ge=0)


Range = tuple[float, float]


class ConMIMAugment(Settings):
    """Crop and flip, shared by both views, and the strong view's colours. Probability 0 switches a change off."""

    area: Range = Field(default=(0.08, 1.0), description="share of the image that a crop covers")
    ratio: Range = Field(default=(3 / 4, 4 / 3), description="width / height of a crop, log-uniform")
    flip: float = Field(default=0.5, ge=0, le=1)
    jitter: float = Field(default=0.8, ge=0, le=1, description="probability of brightness, contrast, saturation and hue together")
    brightness: float = Field(default=0.4, ge=0, le=1, description="factor from U(1 - a, 1 + a)")
    contrast: float = Field(default=0.4, ge=0, le=1)
    saturation: float = Field(default=0.2, ge=0, le=1)
    hue: float = Field(default=0.1, ge=0, le=0.5, description="turns of the colour circle, from U(-a, a)")
    grey: float = Field(default=0.2, ge=0, le=1)
    blur: float = Field(default=0.1, ge=0, le=1)
    blur_radius: Range = Field(default=(0.1, 2.0), description="standard deviation in pixels")
    solarise: float = Field(default=0.2, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> ConMIMAugment:
        for name, (low, high) in (("area", self.area), ("ratio", self.ratio), ("blur_radius", self.blur_radius)):
            if not 0 < low <= high:
                raise ValueError(f"{name} [{low:g}, {high:g}] must be two positive numbers in rising order")
        if self.area[1] > 1:
            raise ValueError(f"area up to {self.area[1]:g} is more than the whole image (1)")
        return self


class ConMIMConfig(MethodConfig):
    model: ConMIMModel = ConMIMModel()
    pretext: ConMIMTask = ConMIMTask()
    loss: ConMIMLoss = ConMIMLoss()
    augment: ConMIMAugment = ConMIMAugment()

    @property
    def cells(self) -> tuple[int, int]:
        """(rows, columns) of mask cells."""
        return self.model.image_size[0] // self.pretext.mask_cell, self.model.image_size[1] // self.pretext.mask_cell

    @property
    def masked(self) -> int:
        """Hidden patches of an image; for `block` the most that can be."""
        ratio = self.pretext.mask_ratio
        if self.pretext.mask == "cells":
            return math.ceil(ratio * self.cells[0] * self.cells[1]) * (self.pretext.mask_cell // self.model.patch_size) ** 2
        return int(ratio * self.model.patches)

    @model_validator(mode="after")
    def _mask_fits(self) -> ConMIMConfig:
        model, task = self.model, self.pretext
        if task.mask == "cells":
            check_cells(model.image_size, task.mask_cell, model.patch_size)
        n = model.patches
        if not 0 < self.masked < n:
            raise ValueError(
                f"pretext.mask_ratio {task.mask_ratio} hides {self.masked} of the {n} patches ({task.mask}); "
                "at least one must be hidden and one seen: change the ratio, enlarge the image or make cells and patches smaller"
            )
        if task.mask == "block" and task.block_min > self.masked:
            raise ValueError(f"pretext.block_min {task.block_min} is more than the {self.masked} patches to hide; lower it or hide more")
        return self


def check_cells(image_size: tuple[int, int], cell: int, patch: int) -> None:
    """Raises `ValueError` with the arithmetic unless cells of `cell` pixels tile the image and patches tile a cell."""
    if cell % patch:
        near = [c for c in (cell // patch * patch, (cell // patch + 1) * patch) if c > 0]
        raise ValueError(
            f"pretext.mask_cell {cell} is no multiple of model.patch_size {patch}: {cell} / {patch} = {cell / patch:.2f} patches; "
            f"the nearest cells that work: {', '.join(map(str, near))}"
        )
    for side in image_size:
        if side % cell:
            divisors = [c for c in range(patch, side + 1, patch) if side % c == 0]
            raise ValueError(
                f"model.image_size {side} is no multiple of pretext.mask_cell {cell}: {side} / {cell} = {side / cell:.2f} cells; "
                f"cells that fit {side} pixels: {', '.join(map(str, divisors)) or 'none'}"
            )
