"""The objects that a method gives to the platform: views, a stage, a pretext and an encoder, each with its optional abilities.

A class with the required members will do; nothing is inherited. An optional ability is a protocol of its own. The platform asks for it with
`isinstance` and does without it where it is absent. `check.py` reports a member whose name is nearly one of these.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from .optim import Clock, OptimConfig, ParamGroup, Schedule
from .random import MicrobatchRng

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor

    from .ops.tiling import Passes

Sample = Mapping[str, Any]
"""One decoded row: images as uint8 H x W x 3 arrays, the other columns as they are stored."""
Batch = dict[str, "torch.Tensor"]
"""One microbatch on the training device, each tensor with the samples along dimension 0."""


@dataclass(frozen=True)
class Visualisation:
    """An image for a person to look at: uint8 H x W x 3, with a caption that says what it shows."""

    title: str
    caption: str
    image: np.ndarray


class _Ability(type(Protocol)):  # type: ignore[misc]
    """`isinstance` by `hasattr`: from Python 3.12 on a protocol's own check does not see the submodules of an `nn.Module`."""

    def __instancecheck__(cls, thing: object) -> bool:
        return all(hasattr(thing, name) for name in members(cls))


def members(protocol: type) -> set[str]:
    """The public names that a protocol asks for."""
    own = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    return {name for base in own for name in {**vars(base), **vars(base).get("__annotations__", {})} if not name.startswith("_")}


# Views: what a data worker makes of a sample. NumPy in, NumPy out, without torch.


class Views(Protocol):
    """A pure function from a decoded sample to arrays of fixed shapes. It sees the images of its kind, and the columns it asks for.

    All draws come from `rng`. Raises `BrokenSampleError` for a sample that it cannot use.
    """

    def __call__(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]: ...


@runtime_checkable
class NeedsColumns(Protocol, metaclass=_Ability):
    columns: tuple[str, ...]
    """Further columns that the views read, such as `label`. A row that lacks one is a broken sample."""


@runtime_checkable
class HasEvaluationViews(Protocol, metaclass=_Ability):
    evaluation: Views
    """What validation and tests see, such as a centre crop."""


@runtime_checkable
class HasWholeViews(Protocol, metaclass=_Ability):
    whole: Views
    """What control metrics, and test metrics of segmentation, see in place of `evaluation`: samples of their own sizes, one at a time."""


@runtime_checkable
class HasSmallestImage(Protocol, metaclass=_Ability):
    smallest: tuple[int, int]
    """The smallest (height, width) of a stored image that can be used; `Method.image_shape` where the views do not say."""


@runtime_checkable
class HasFewestPoints(Protocol, metaclass=_Ability):
    least: int
    """The fewest distinct points of a cloud that can be used."""


@runtime_checkable
class HasVoting(Protocol, metaclass=_Ability):
    voting: Views | None
    """Several draws of a test sample, rounds x draws x one input, on which a `Predictor` votes. None: switched off by the settings."""


@runtime_checkable
class Stage(Protocol):
    """A fixed step between views and training, on the arrays of several samples, in the data workers: a render and a 2-D teacher, say.

    Returns further columns, samples first. What a sample gets must not depend on its neighbours.
    """

    def __call__(self, columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]: ...


# Pretext: the torch half.


class Pretext(Protocol):
    """The module that is trained: an `nn.Module` with the methods below."""

    def to_device(self, batch: Batch) -> Batch:
        """Prepare a microbatch on the training device: uint8 -> float, colour jitter with the drawn parameters, normalisation."""

    def forward(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Scalars by name: each term of `config.loss`, not weighted, and diagnostics under other names. All draws come from `rng`."""

    def after_step(self, step: int, steps: int) -> None:
        """Update what follows the weights, such as an EMA teacher. Called after every step, also when the update was skipped."""

    def param_groups(self, optim: OptimConfig) -> list[ParamGroup]:
        """The parameters that are trained, by weight decay and by the factor on their learning rate."""

    def schedules(self, optim: OptimConfig, clock: Clock) -> dict[str, Schedule]:
        """`lr` and `weight_decay` by step."""

    def encoder(self) -> torch.nn.Module:
        """The exported module, an `ImageEncoder` or a `PointEncoder`. It shares no storage with this one."""

    # What `nn.Module` brings along.
    def __call__(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True) -> object: ...
    def modules(self) -> Iterator[torch.nn.Module]: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]: ...
    def buffers(self) -> Iterator[Tensor]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def train(self, mode: bool = True) -> Pretext: ...
    def eval(self) -> Pretext: ...
    def compile(self) -> None: ...
    def to(self, device: torch.device | str) -> Pretext: ...


@runtime_checkable
class HasTargets(Protocol, metaclass=_Ability):
    def targets(self, batches: list[Batch], rngs: list[MicrobatchRng]) -> list[Batch]:
        """Compute what needs the whole batch. Called once a step without gradient, with all microbatches of this rank after `to_device`.

        Returns them with what `forward` needs added. Every rank has as many microbatches, so `collective` may be used here, and in
        `forward` only on a batch that this call has marked. On a batch that it has not seen (validation, visualisations) `forward` takes
        the microbatch for the whole batch.
        """


@runtime_checkable
class HasSampleLosses(Protocol, metaclass=_Ability):
    sample_losses: Mapping[str, Tensor]
    """After `forward`: for each term of `config.loss` one value a sample, without gradient, as far as the term is a mean over samples.
    A run on several data sets tells by them how it does on each."""


@runtime_checkable
class HasHealth(Protocol, metaclass=_Ability):
    def health(self, batch: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """Metrics of the representation, such as its effective rank. `Method.alarms` says which values mean collapse.

        Called now and then on one microbatch, in evaluation mode without gradient, on rank 0 alone.
        """


@runtime_checkable
class HasEmbeddings(Protocol, metaclass=_Ability):
    def embeddings(self, batch: Batch) -> Float[Tensor, "b d"]:
        """One vector for each sample of a batch after `to_device`: what probes pool of the kept encoder, of one augmented view, whole.

        `health/rankme` and `health/lidar` are of them, and `Method.alarms` may judge these. The batch has no columns of a `Stage`.
        Called now and then in evaluation mode without gradient, on rank 0 alone.
        """


@runtime_checkable
class HasVisualisations(Protocol, metaclass=_Ability):
    def visualisations(self, batch: Batch, rng: MicrobatchRng) -> list[Visualisation]:
        """Images for the report, of a batch after `to_device`."""


@runtime_checkable
class HasControlMetrics(Protocol, metaclass=_Ability):
    def control_metrics(self, batch: Batch, other: Batch, rng: MicrobatchRng) -> dict[str, Tensor]:
        """How well the pretext task is solved, one value a sample, with the right input and under control conditions.

        `other` holds as many samples, of other scenes; both are after `to_device`. `MetricInfo.family` says which metrics are compared.
        """


@runtime_checkable
class HasEncoderParts(Protocol, metaclass=_Ability):
    encoder_prefixes: tuple[str, ...]
    """The parts of the `state_dict` that hold a copy of the encoder, such as `("student.", "teacher.")`: each prefix + a name of
    `encoder().state_dict()` is a name of this one. A run that begins from an encoder alone fills all of them."""


@runtime_checkable
class HasOtherParts(Protocol, metaclass=_Ability):
    other_parts: Mapping[str, str]
    """Besides the encoder: beginnings of names in the whole state of another method's pretext -> beginnings of the names here that they
    fill, such as {"decoder.": "decoder."}. What has no place, or is not there, is left out."""


@runtime_checkable
class HasEncoderForm(Protocol, metaclass=_Ability):
    def encoder_form(self, encoder: torch.nn.Module) -> torch.nn.Module:
        """What those parts hold where it is not the encoder itself, such as another method's encoder with its tables resized."""


@runtime_checkable
class Predictor(Protocol, metaclass=_Ability):
    """A fine-tuned network as it is used and registered."""

    task: Literal["classification", "segmentation", "part_segmentation"]
    classes: int

    def logits(self, inputs: Tensor) -> Tensor:
        """b x classes, b x classes x h x w for segmentation, or b x points x classes for parts."""


@runtime_checkable
class HasClassNames(Protocol, metaclass=_Ability):
    class_names: tuple[str, ...]
    """Of a predictor, in the order of its logits; empty where the names are not known."""


@runtime_checkable
class HasPredictor(Protocol, metaclass=_Ability):
    predictor: Predictor
    """What it predicts is scored on `data.val`, in place of control metrics."""


@runtime_checkable
class HasKeptWeights(Protocol, metaclass=_Ability):
    kept_weights: str
    """Which weights `encoder` gives, where the pretext has two sets, in a few words such as "the teacher's"; empty where it has one."""


@runtime_checkable
class HasInputName(Protocol, metaclass=_Ability):
    input: str
    """Name of a predictor's inputs in a batch; `image` where it does not say."""


# Encoder: what is kept after training.


@runtime_checkable
class ImageEncoder(Protocol, metaclass=_Ability):
    """The exported encoder of images. Input: float32 RGB in [0, 1], b x 3 x h x w; normalisation is inside."""

    dim: int
    patch_size: int
    image_size: tuple[int, int]

    def tokens(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Patch tokens of the last block after the final norm, raster order, without a class token."""

    def saliency(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n"]:
        """How much attention each patch receives in the last block; rows sum to 1."""


@runtime_checkable
class HasTokensAndSaliency(Protocol, metaclass=_Ability):
    def tokens_and_saliency(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Both from one pass."""


@runtime_checkable
class HasTokensAndAttention(Protocol, metaclass=_Ability):
    def tokens_and_attention(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        """Tokens, and the class token's attention to each patch as the last block's softmax has it, mean over heads: what it gives itself
        is left out, so rows sum to less than 1. Without a class token as `tokens_and_saliency`."""


@runtime_checkable
class HasLevels(Protocol, metaclass=_Ability):
    """An encoder that gives the feature maps of its blocks or stages."""

    level_dims: list[int]
    """Channels of each."""

    def watching(self, level: int) -> AbstractContextManager[list[Float[Tensor, "b c y x"]]]:
        """The maps of one of them in every pass meanwhile. `level` counts from the end: -1 is the last."""


@runtime_checkable
class HasColourStatistics(Protocol, metaclass=_Ability):
    """An encoder that normalises images by `(images - mean) / std`; one that has no such attributes does it by ImageNet's."""

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]


@runtime_checkable
class PointEncoder(Protocol, metaclass=_Ability):
    """The exported encoder of clouds. Input: float32, b x `points` x 3, centred on the mean, the farthest point at distance 1."""

    dim: int
    points: int
    least: int
    """Fewest distinct points of a cloud that it can use."""
    groups: int
    """Tokens of a cloud."""

    def tokens(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b g d"]:
        """Tokens of the coarsest scale after the final norm."""

    def pooled(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b d"]:
        """One feature a cloud, as the method pools its tokens."""

    def at_points(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n e"]:
        """A feature of each point."""


@runtime_checkable
class TakesImages(Protocol, metaclass=_Ability):
    image_size: tuple[int, int]
    """(height, width) in pixels of the images that an encoder or a predictor takes."""


@runtime_checkable
class TakesPairs(Protocol, metaclass=_Ability):
    pair: tuple[str, str]
    """What the two images are that a predictor takes, b x 2 x 3 x h x w, such as ("left image", "right image")."""


@runtime_checkable
class PredictsAnySize(Protocol, metaclass=_Ability):
    def of_any_size(self, *images: Float[Tensor, "b 3 h w"], overlap: float | None = None) -> tuple[Tensor, Tensor | None]:
        """Maps of images of any size, one image or a pair: b x channels x h x w, and b x h x w of how unsure each pixel is, if known.

        `overlap`: share of a tile that its neighbours see, too; the predictor's own where it is None.
        """


@runtime_checkable
class PredictsLabels(Protocol, metaclass=_Ability):
    classes: int
    palette: tuple[tuple[int, int, int], ...]
    """Red, green and blue of each class in pictures; empty for any."""

    def labels(self, images: Float[Tensor, "b 3 h w"], passes: Passes | None = None) -> Int[Tensor, "b h w"]:
        """The class of each pixel of images of any size. `passes`: tiles, scales and flips; None: one pass."""


@runtime_checkable
class TakesPoints(Protocol, metaclass=_Ability):
    points: int
    """Points of a cloud that an encoder or a predictor takes."""


@runtime_checkable
class GroupsPoints(Protocol, metaclass=_Ability):
    """Of an encoder of clouds. Its `tokens`, `pooled` and `at_points` take `scales`, too, so that networks that group alike share them."""

    grouping: Hashable
    """All that `scales` depends on besides the points. Equal: the groups are equal."""

    def scales(self, points: Float[Tensor, "b n 3"]) -> Any:
        """The groups of the points, which no weight decides."""


@runtime_checkable
class HasPooled(Protocol, metaclass=_Ability):
    def pooled(self, inputs: Tensor) -> Float[Tensor, "b d"]:
        """One feature a sample; the mean token where the encoder does not say."""


@runtime_checkable
class HasImageFeature(Protocol, metaclass=_Ability):
    def image_feature(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d"]:
        """What its authors take for a whole image, such as the class token after the final norm; the mean of the patch tokens where the
        encoder does not say."""


@runtime_checkable
class HasOutputName(Protocol, metaclass=_Ability):
    output: str
    """What `forward` gives, such as `logits`; `tokens` where the encoder does not say."""


@runtime_checkable
class HasOutputUnit(Protocol, metaclass=_Ability):
    output_unit: str
    """Of what `forward` gives, such as `metres`; none where the encoder does not say."""


@runtime_checkable
class HasNormalised(Protocol, metaclass=_Ability):
    normalised: bool
    """Whether the clouds that it was trained on are centred, the farthest point at distance 1; True where the encoder does not say."""


@runtime_checkable
class HasLayers(Protocol, metaclass=_Ability):
    depth: int

    def layer_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning rates: 0 (embedding), 1 .. depth (blocks), depth + 1 (what follows)."""


@runtime_checkable
class HasBlockTokens(Protocol, metaclass=_Ability):
    """What heads for dense tasks read, which look at several depths of an encoder of images."""

    dim: int
    depth: int
    patch_size: int
    image_size: tuple[int, int]

    def block_tokens(self, images: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b n d"]]:
        """Patch tokens after each of the `depth` blocks, the last one after the final norm: as `tokens` gives them."""


@runtime_checkable
class HasBranches(Protocol, metaclass=_Ability):
    branches: Sequence[tuple[torch.nn.Module, torch.nn.Module]]
    """Of each block the modules whose outputs are added to the tokens: attention and MLP. Stochastic depth drops them."""


class Backbone(HasLayers, Protocol):
    """An encoder in its form for fine-tuning."""

    dim: int
    patch_size: int

    def __call__(self, images: Float[Tensor, "b 3 h w"], kept: Tensor | None = None) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b d"]]:
        """(patch tokens, pooled features). `kept`: the branches that stochastic depth keeps; None: all."""


@runtime_checkable
class HasFinetuning(Protocol, metaclass=_Ability):
    def finetuning(self, image_size: tuple[int, int], drop_path: float) -> Backbone:
        """The network that the authors fine-tune, with this encoder's weights; the tokens and their mean where the encoder does not say."""


VIEWS_ABILITIES: tuple[type, ...] = (NeedsColumns, HasEvaluationViews, HasWholeViews, HasSmallestImage, HasFewestPoints, HasVoting)
PRETEXT_ABILITIES: tuple[type, ...] = (
    *(HasTargets, HasHealth, HasEmbeddings, HasVisualisations, HasControlMetrics),
    *(HasEncoderParts, HasOtherParts, HasEncoderForm, HasPredictor, HasKeptWeights),
)
ENCODER_ABILITIES: tuple[type, ...] = (
    *(
        HasTokensAndSaliency,
        TakesImages,
        TakesPairs,
        PredictsAnySize,
        PredictsLabels,
        TakesPoints,
        GroupsPoints,
        HasPooled,
        HasImageFeature,
        HasOutputName,
        HasOutputUnit,
        HasNormalised,
    ),
    *(HasLayers, HasBlockTokens, HasBranches, HasFinetuning, HasInputName, HasClassNames),
)
