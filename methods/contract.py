"""What a method gives to the platform. This page and `protocols.py`, which it hands on, are all that the author of a method needs.

A method is one `Method` object, published under the entry point group `sightline.methods`. It has two halves:

- settings and views: NumPy in, NumPy out. They run in the data workers, and importing them imports no torch.
- the pretext: a torch module that runs where the training runs. `Method.build` makes it; `Lazy("package.pretext:build")` imports it late.

The platform reads rows, calls the views for each sample and the stage for several, moves microbatches to the device, calls `forward`, adds
the losses by `loss.<term>`, and takes the step. What else a method offers is optional: `protocols.py` lists the abilities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, runtime_checkable

from pydantic import SerializeAsAny
from typing_extensions import TypeVar

from . import old_names
from .check import check_encoder, check_pretext, check_views
from .lazy import Lazy as Lazy
from .protocols import *  # noqa: F403  # the second half of this page: an author imports all from here
from .protocols import Pretext, Stage, Views
from .random import MicrobatchRng as MicrobatchRng
from .settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

Kind = str
"""The name of a kind of data, such as "pairs", "images" or "points"; the platform knows them (`platform/data/kinds.py`)."""
Content = Mapping[str, Any]
"""What a published file holds: nested dicts of tensors and plain values."""
Sections = dict[str, dict[str, Any]]
"""Settings as plain values: section -> key -> value."""


class MethodConfig(Settings):
    """The sections of settings that a method owns; each method narrows their types. Loss weights are `loss.<term>`."""

    model: SerializeAsAny[Settings]
    pretext: SerializeAsAny[Settings]
    loss: SerializeAsAny[Settings]
    augment: SerializeAsAny[Settings]


C = TypeVar("C", bound=MethodConfig, default=MethodConfig)
"""A method's own settings; `Method` alone means a method of whatever settings."""


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
    claim: str = ""
    """Of the first metric of a family: what it says beside the second, with `{lead}` for how much better it is: "hidden patches are {lead}
    with the true second view". Reports begin with it; without one they name both metrics."""
    average: Literal["mean", "median"] = "mean"
    """Over the samples, of control and test metrics. The mean of AUC scores is an area; errors of poses are told as medians."""
    group: str = ""
    """Heading of the table of details that the metric belongs to, such as the IoU of each class; empty for a main metric."""


@old_names.fields(figure="metric")
@dataclass(frozen=True)
class Alarm:
    """A metric of `health` beyond a limit means that the representation collapses. `cause` names the likely cause and what to do.

    It is judged after the warm-up, and told where it is beyond the limit at two validations in a row or at the last step.
    """

    metric: str
    cause: str
    below: float = float("-inf")
    above: float = float("inf")
    fall: float | None = None
    """With it, a metric below `below` must also have fallen to this share of what it was with the weights that the run began with."""
    after_steps: int = 200
    """Optimiser steps after the warm-up before which the metric is not judged: sound runs, too, are low in their first hundred."""


RANKME_ALARM = Alarm(
    "rankme",
    "the embeddings of all samples point the same way: the encoder collapses; lower optim.lr, lengthen optim.warmup or set optim.clip",
    below=2.0,
    fall=0.2,
)
"""1 means a single direction. Sound runs of the four methods here keep a quarter of what random weights have, once they are judged."""
EFFECTIVE_RANK_ALARM = Alarm(
    "effective_rank",
    "features lie in a few directions: the encoder collapses; lower optim.lr, lengthen optim.warmup or set optim.clip",
    below=0.05,
    fall=0.2,
)
"""Of `layers.health.effective_rank`. Sound runs of the four methods here fall to a third of what random weights have, at most."""


@dataclass(frozen=True)
class LoadReport:
    """Which tensors of a published checkpoint found a place: names as the checkpoint has them, `missing` as it would have them."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    resized: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Known, but of another network that the authors keep in the same file."""
    taken: str = ""
    """Where in the file these weights lie, in words: `model_ema`."""
    others: tuple[str, ...] = ()
    """Where other weights of the same layout lie, which were not taken."""
    notes: tuple[str, ...] = ()
    """What a user should know besides, a sentence each."""


@runtime_checkable
class Official(Protocol):
    """The authors' published layout, both ways: dicts in, dicts out; reads and writes no file. A module with these functions will do.

    A file that `save` made comes back as `{"model": tensors, **settings}`, which `settings_of` and `load` must take, too.
    """

    def settings_of(self, content: Content) -> Sections:
        """Our sections (`model`, `pretext`, ...) as far as the file tells them, by its settings or by the shapes of its tensors."""

    def load(self, content: Content, into: Mapping[str, Tensor], config: MethodConfig) -> tuple[dict[str, Tensor], LoadReport]:
        """State for a pretext of `config` whose present state is `into`. Raises `SightlineError` where nothing fits."""

    def save(self, state: Mapping[str, Tensor], config: MethodConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors under the official names, the authors' settings) of a pretext's state."""


@dataclass(frozen=True)
class TimmForm:
    """An encoder as a timm model: `timm.create_model(architecture, num_classes=0, **arguments)` takes `state` strictly."""

    architecture: str
    arguments: Mapping[str, Any]
    state: Mapping[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    prefix_tokens: int = 0
    """Tokens that timm's `forward_features` gives before the patch tokens."""


@old_names.fields(frozen="teachers")
@dataclass(frozen=True)
class BuildContext:
    """Objects that a method may need when it is built; settings hold values only."""

    seed: int
    teachers: Mapping[str, nn.Module] = field(default_factory=dict)
    """Encoders by the setting that names them (`Method.teachers`), in evaluation mode. Empty where only settings are known."""
    device: str = "cpu"
    """Where a stage computes."""


def every_setting(config: MethodConfig) -> dict[str, Any]:
    """`section.key` -> plain value, of all the method's sections."""
    return {f"{section}.{key}": value for section, values in config.model_dump(mode="json").items() for key, value in values.items()}


@old_names.fields(loss_figures="metrics", frozen="teachers", fit="adapt")
@dataclass(frozen=True)
class Method(Generic[C]):
    """A method as the platform sees it. Making one imports no torch; `build` does.

    `views` and `build` check what they give: see `check.py`.
    """

    id: str
    kind: Kind
    Config: type[C]
    views: Callable[[C], Views]
    build: Callable[[C, BuildContext], Pretext]
    """The pretext on the CPU, freshly initialised: the same weights for the same `BuildContext.seed`, without any global generator."""
    image_shape: Callable[[C], tuple[int, int]]
    """The (height, width) in pixels that the encoder sees."""
    metrics: Mapping[str, MetricInfo] = field(default_factory=dict)
    """Losses, diagnostics and control metrics by name, for reports."""
    alarms: tuple[Alarm, ...] = ()
    official: Callable[[], Official] | None = None
    """Gives the authors' published layout; importing it may import torch."""
    layouts: Mapping[str, Callable[[], Official]] = field(default_factory=dict)
    """Further layouts whose files become encoders of this method, by the name that `sightline import --method` takes for each."""
    teachers: Callable[[C], Mapping[str, str]] = lambda config: {}
    """Settings -> the encoders that a run needs besides its own, by the setting that names them, such as
    {"model.teacher": "models:/it@champion"}. They are found, pinned and kept in the run's folder when the run is made, so that an alias
    which moves on changes nothing."""
    adapt: Callable[[C, Mapping[str, nn.Module]], C] = lambda config, teachers: config
    """(settings, the teachers) -> the settings with what follows from them, such as a width."""
    stage: Callable[[C, BuildContext], Stage] | None = None
    """(settings, with `BuildContext.teachers`) -> what runs between `views` and training."""
    stage_settings: Callable[[C], Mapping[str, Any]] = every_setting
    """Settings -> those that decide what `views` and `stage` give, as plain values: a cache of it is kept under them. The encoders of
    `teachers` are known by their weights, so the settings that name them need not be there."""
    search_space: Mapping[str, str] = field(default_factory=dict)
    """The paper's ablations as ranges by setting, as `sightline sweep --space` takes them: what is swept where none is named."""
    recipes: str = ""
    """The package whose folder `recipes/` holds the YAML files that the method ships; empty for none."""
    timm: Callable[[C, Mapping[str, Tensor]], TimmForm] | None = None
    """(settings, the encoder's state) -> the same function in timm. Raises `SightlineError` with the reason where timm has none."""

    def check(self, config: C, context: BuildContext) -> None:
        """Build everything once and check it, the encoder too: for the tests of a method. Raises `SightlineError` for what is wrong."""
        self.views(config)
        check_encoder(self.build(config, context).encoder())

    def __post_init__(self) -> None:
        views, build = self.views, self.build

        def checked_views(config: C) -> Views:
            made = views(config)
            check_views(made)
            return made

        def checked_build(config: C, context: BuildContext) -> Pretext:
            made = build(config, context)
            old_names.adopt_members(type(made))
            check_pretext(made)
            return made

        changed = {"views": checked_views, "build": checked_build, "metrics": old_names.metric_infos(self.metrics, MetricInfo)}
        for name, value in changed.items():
            object.__setattr__(self, name, value)


__getattr__ = old_names.module_names(globals(), Noise="MicrobatchRng", Live="BuildContext", Match="LoadReport", Picture="Visualisation")
