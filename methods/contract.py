"""The contract of a method: what the trainer, the sweeper, the evaluator and the report may ask of it, and nothing else.

A method has two halves. `views` is NumPy in, NumPy out, runs in the data workers and imports no torch. `build` gives the torch
half, a `Pretext`, that runs where the training runs. A fifth method is a `Method` published under the entry point group
`sightline.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import SerializeAsAny

from .optim import Clock, OptimConfig, ParamGroup, Schedule
from .random import MicrobatchRng
from .settings import Settings

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

Kind = str
"""The name of a kind of data, such as "pairs", "images" or "points"; the platform knows them (`platform/data/kinds.py`)."""
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
    """A pure function from a decoded sample to fixed-shape arrays. Raises `BrokenSampleError` for a sample it cannot use.

    It sees the images of its kind. Optional attributes: `columns: tuple[str, ...]`, further columns it needs, such as
    `label` (a row that lacks one is a broken sample); `evaluation: Views`, what validation sees in its place, such as a centre crop;
    `smallest: tuple[int, int]`, the smallest (height, width) of a stored image it can use, `image_shape` where it is absent: views
    whose crops enlarge say for example (32, 32); `least: int`, the fewest points of a cloud it can use; `voting: Views`, several draws of
    a test sample for a `predictor` to vote on, or None.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]: ...


@runtime_checkable
class Stage(Protocol):
    """A frozen step between views and training, on the arrays of several samples, in the data workers: a render and a 2-D teacher, say.

    Returns further columns, samples first. What a sample gets must not depend on its neighbours.
    """

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class ImageEncoder(Protocol):
    """The exported encoder of images. Input: float32 RGB in [0, 1], B x 3 x H x W; normalisation is inside.

    An optional `tokens_and_saliency(images)` gives both from one pass.
    """

    dim: int
    patch_size: int
    image_size: tuple[int, int]

    def tokens(self, images: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b n d"]:
        """Patch tokens of the last block after the final norm, raster order; no class token."""
        ...

    def saliency(self, images: Float[torch.Tensor, "b 3 h w"]) -> Float[torch.Tensor, "b n"]:
        """How much each patch is looked at in the last block; rows sum to 1."""
        ...


class PointEncoder(Protocol):
    """The exported encoder of clouds. Input: float32, B x `points` x 3, centred on the mean, the farthest point at distance 1."""

    dim: int
    points: int
    least: int
    """Fewest distinct points of a cloud that it can use."""
    groups: int
    """Tokens of a cloud."""

    def tokens(self, points: Float[torch.Tensor, "b n 3"]) -> Float[torch.Tensor, "b g d"]:
        """Tokens of the coarsest scale after the final norm."""
        ...

    def pooled(self, points: Float[torch.Tensor, "b n 3"]) -> Float[torch.Tensor, "b d"]:
        """One feature a cloud, as the method pools its tokens."""
        ...

    def at_points(self, points: Float[torch.Tensor, "b n 3"]) -> Float[torch.Tensor, "b n e"]:
        """A feature of each point."""
        ...


@dataclass(frozen=True)
class Visualisation:
    """Something a person would want to look at: uint8 H x W x 3, with a caption that says what it shows."""

    title: str
    caption: str
    image: np.ndarray


@dataclass(frozen=True)
class MetricInfo:
    """What a metric means, for tables, charts and sentences. One type for losses, diagnostics, control metrics, probes and tests."""

    means: str = ""
    """A sentence part, such as "share of test images whose class is found"."""
    label: str = ""
    """Short name in tables; the metric's key, in words, where it is empty."""
    unit: str = ""
    """`%`: a share in [0, 1], which is shown times 100. Otherwise such as `dB`, `m`, `nats`; empty for none."""
    better: Literal["higher", "lower"] = "higher"
    family: str = ""
    """Metrics of one family are measured on the same samples under other conditions: the first is compared with each of the others."""
    group: str = ""
    """Heading of the table of details that the metric belongs to, such as the IoU of each class; empty for a main metric."""


@dataclass(frozen=True)
class Alarm:
    """A figure of `Pretext.health` beyond a limit means that the representation collapses; `cause` names the likely cause and the hint."""

    figure: str
    cause: str
    below: float = float("-inf")
    above: float = float("inf")
    after: float = 0.0
    """Share of the run before which the figure is not judged: some are low at first in every run."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a foreign checkpoint found a place: names as the checkpoint has them, `missing` as it would have them."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    resized: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Known, and not of this network: another network that the authors keep in the same file."""


@runtime_checkable
class Official(Protocol):
    """The authors' published layout, both ways: dicts in, dicts out; reads and writes no file. A module with these functions will do.

    `content` is what lies in a published file: nested dicts of tensors and plain values. A file that `save` made comes back as
    `{"model": tensors, **settings}`, which `settings_of` and `load` must take, too.
    """

    def settings_of(self, content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Our sections (`model`, `pretext`, ...) as far as the file tells them, by its settings or by the shapes of its tensors."""
        ...

    def load(self, content: Mapping[str, Any], into: Mapping[str, torch.Tensor], config: Any) -> tuple[dict[str, torch.Tensor], LoadReport]:
        """State for a pretext of `config` whose present state is `into`. Raises `SightlineError` where nothing fits."""
        ...

    def save(self, state: Mapping[str, torch.Tensor], config: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """(tensors under the official names, the authors' settings) of a pretext's state."""
        ...


@dataclass(frozen=True)
class TimmForm:
    """An encoder as a timm model: `timm.create_model(architecture, num_classes=0, **arguments)` takes `state` strictly."""

    architecture: str
    arguments: Mapping[str, Any]
    state: Mapping[str, torch.Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prefix_tokens: int = 0
    """Tokens that timm's `forward_features` gives before the patch tokens."""


class Pretext(Protocol):
    """The torch half: an `nn.Module` (state_dict, parameters, train, to) with the methods below.

    Optional methods, which a pretext may leave out:

    `targets(batches, noises) -> list[Batch]`: what needs the whole batch. Called once a step without gradient, with all groups of this
    rank after `to_device`; returns them with what `forward` needs added. Every rank has as many groups, so `collective` may be used
    here, and in `forward` only on a batch that this call has marked. On a batch that it has not seen (validation, pictures) `forward`
    takes the group for the whole batch.

    `health(batch, noise) -> dict[str, Tensor]`: figures of the representation, such as effective rank; called now and then on one group
    in evaluation mode without gradient, on rank 0 alone. `Method.alarms` says which values mean collapse.

    `encoder_prefixes: tuple[str, ...]`: the parts of its `state_dict` that hold a copy of the encoder, such as `("student.", "teacher.")`:
    each prefix + a name of `encoder().state_dict()` is a name of this one. A run that begins from an encoder alone fills all of them.

    `encoder_form(encoder) -> nn.Module`: what those parts hold where it is not the encoder itself: another method's encoder, say,
    with its tables resized.

    `predictor`, an attribute: a module with `task` (`classification` or `segmentation`), `classes` and `logits(inputs)`. What it predicts
    is then scored on `data.val` in place of claims. `input` names its inputs in a batch; `image` where it is absent. Where its views have
    `voting`, whose inputs are rounds x draws x one input, a round's mean logits are scored, too.

    `pictures` and `claims` below may be left out, too.
    """

    def to_device(self, batch: Batch) -> Batch:
        """On the training device: uint8 -> float, colour jitter with the drawn parameters, normalisation."""
        ...

    def forward(self, batch: Batch, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
        """Scalars by name: each term of `config.loss` (unweighted), and diagnostics under other names."""
        ...

    def after_step(self, step: int, steps: int) -> None:
        """EMA teachers and the like; called after every step, also when the update was skipped."""
        ...

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]: ...

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]: ...

    def encoder(self) -> torch.nn.Module:
        """The exported module (`ImageEncoder` or `PointEncoder`), sharing no storage with this one."""
        ...

    def visualisations(self, batch: Batch, noise: MicrobatchRng) -> list[Visualisation]:
        """`batch` after `to_device`."""
        ...

    def control_metrics(self, batch: Batch, other: Batch, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
        """What the method says of itself, one figure a sample. `other` holds samples of other scenes, both after `to_device`."""
        ...


@dataclass(frozen=True)
class BuildContext:
    """Live objects that a method may need when it is built; settings hold values only."""

    seed: int
    teachers: Mapping[str, Any] = field(default_factory=dict)
    """Encoders by the setting that names them (`Method.teachers`), in evaluation mode. Empty where only settings are known."""
    device: str = "cpu"
    """Where a stage computes."""


def every_setting(config: MethodConfig) -> dict[str, Any]:
    """`section.key` -> plain value, of all the method's sections."""
    return {f"{section}.{key}": value for section, values in config.model_dump(mode="json").items() for key, value in values.items()}


@dataclass(frozen=True)
class Method:
    """A method as the platform sees it. Making one imports no torch; `build` does."""

    id: str
    kind: Kind
    Config: type[MethodConfig]
    views: Callable[[Any], Views]
    build: Callable[[Any, BuildContext], Any]
    image_shape: Callable[[Any], tuple[int, int]]
    """The (height, width) in pixels that the encoder sees."""
    metric_meanings: Mapping[str, str] = field(default_factory=dict)
    """Diagnostics and claims by name -> what the figure means, for reports."""
    alarms: tuple[Alarm, ...] = ()
    official: Callable[[], Official] | None = None
    """Gives the authors' published layout; importing it may import torch."""
    teachers: Callable[[Any], Mapping[str, str]] = lambda config: {}
    """Settings -> the encoders that a run needs besides its own, by the setting that names them, such as
    {"model.teacher": "models:/it@champion"}. They are found, pinned and kept in the run's folder when the run is made, so that an alias
    which moves on changes nothing."""
    adapt: Callable[[Any, Mapping[str, Any]], Any] = lambda config, teachers: config
    """(settings, the teachers) -> the settings with what follows from them, such as a width."""
    stage: Callable[[Any, BuildContext], Stage] | None = None
    """(config, with `BuildContext.teachers`) -> what runs between `views` and training."""
    stage_settings: Callable[[Any], Mapping[str, Any]] = every_setting
    """Settings -> those that decide what `views` and `stage` give, as plain values: a cache of it is kept under them. The encoders of
    `teachers` are known by their weights, so the settings that name them need not be there."""
    search_space: Mapping[str, str] = field(default_factory=dict)
    """The paper's ablations as ranges by setting, as `sightline sweep --space` takes them: what is swept where none is named."""
    recipes: str = ""
    """The package whose folder `recipes/` holds the YAML files that the method ships; empty for none."""
    timm: Callable[[Any, Mapping[str, torch.Tensor]], TimmForm] | None = None
    """(config, the encoder's state) -> the same maths in timm. Raises `SightlineError` with the reason where timm has other maths."""
