"""The contract of a method: what the trainer, the sweeper, the evaluator and the report may ask of it, and nothing else.

A method has two halves. `views` is NumPy in, NumPy out, runs in the data workers and imports no torch. `build` gives the torch
half, a `Pretext`, that runs where the training runs. A fifth method is a `Method` published under the entry point group
`sightline.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from pydantic import SerializeAsAny

from .optim import Clock, OptimConfig, ParamGroup, Schedule
from .random import Noise
from .settings import Settings

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

Kind = Literal["pairs", "images", "points"]
Sample = Mapping[str, Any]
"""One decoded row: images as uint8 H x W x 3 arrays, the other columns as they are stored."""
Batch = dict[str, "torch.Tensor"]
"""One group on the training device, each tensor with the group's samples along dimension 0."""


class MethodConfig(Settings):
    """The sections a method owns; each method narrows their types. Loss weights are `loss.<term>`."""

    model: SerializeAsAny[Settings]
    pretext: SerializeAsAny[Settings]
    loss: SerializeAsAny[Settings]
    augment: SerializeAsAny[Settings]


class Views(Protocol):
    """A pure function from a decoded sample to fixed-shape arrays. Raises `BrokenSampleError` for a sample it cannot use."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]: ...


class ImageEncoder(Protocol):
    """The exported encoder of images. Input: float32 RGB in [0, 1], B x 3 x H x W; normalisation is inside."""

    dim: int
    patch_size: int
    image_size: tuple[int, int]

    def tokens(self, images: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b n d"]:
        """Patch tokens of the last block after the final norm, raster order; no class token."""
        ...

    def saliency(self, images: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b n"]:
        """How much each patch is looked at in the last block; rows sum to 1."""
        ...


@dataclass(frozen=True)
class Picture:
    """Something a person would want to look at: uint8 H x W x 3, with a caption that says what it shows."""

    title: str
    caption: str
    image: np.ndarray


class Pretext(Protocol):
    """The torch half: an `nn.Module` (state_dict, parameters, train, to) with the methods below."""

    def to_device(self, batch: Batch) -> Batch:
        """On the training device: uint8 -> float, colour jitter with the drawn parameters, normalisation."""
        ...

    def forward(self, batch: Batch, noise: Noise) -> dict[str, torch.Tensor]:
        """Scalars by name: each term of `config.loss` (unweighted), and diagnostics under other names."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """EMA teachers and the like; called after every step, also when the update was skipped."""
        ...

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]: ...

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]: ...

    def encoder(self) -> torch.nn.Module:
        """The exported module (`ImageEncoder`), sharing no storage with this one."""
        ...

    def pictures(self, batch: Batch, noise: Noise) -> list[Picture]:
        """`batch` after `to_device`."""
        ...

    def claims(self, batch: Batch, other: Batch, noise: Noise) -> dict[str, torch.Tensor]:
        """What the method says of itself, one figure a sample. `other` holds samples of other scenes, both after `to_device`."""
        ...


@dataclass(frozen=True)
class Live:
    """Live objects a method may need when it is built; settings hold values only."""

    seed: int
    extras: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """A method as the platform sees it. Making one imports no torch; `build` does."""

    id: str
    kind: Kind
    Config: type[MethodConfig]
    views: Callable[[Any], Views]
    build: Callable[[Any, Live], Any]
    image_shape: Callable[[Any], tuple[int, int]]
    """The (height, width) in pixels that the encoder sees."""
    loss_figures: Mapping[str, str] = field(default_factory=dict)
    """Diagnostics and claims by name -> what the figure means, for reports."""
