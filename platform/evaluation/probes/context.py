"""What a probe measures: encoders with their controls and baselines, and the same decoded images for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from sightline.methods.contract import HasImageFeature, TakesPoints
from sightline.methods.errors import CallError
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.image_crops import fit_image, pixel_cells
from sightline.platform.evaluation.result_table import ResultTable
from sightline.platform.evaluation.side_by_side import is_ours, side_by_side

from .image_frames import Frame, read_frames

BATCH = 32
AT_ONCE = 8
"""Images of a part of the work on a CPU."""
KNOWN_BYTES = 256 << 20
"""Of tokens that are held for the next probe."""
Fit = Callable[[UInt8[np.ndarray, "h w 3"], tuple[int, int]], UInt8[np.ndarray, "H W 3"]]
"""(image, size) -> the image as an encoder of that size is given it."""
Change = Callable[[Frame, UInt8[np.ndarray, "h w 3"], Any], tuple[UInt8[np.ndarray, "H W 3"], Any]]
"""(where it lies, an image, its target) -> both, changed alike."""
Progress = Callable[[str, float], None]
"""Called with a description of the work and the share of it that is done, in [0, 1]."""


class ProbeSkippedError(CallError):
    """The data do not allow this probe; nothing else is wrong."""


@dataclass(frozen=True)
class EvaluatedModel:
    """An `ImageEncoder` or a `PointEncoder` under a name, and the same network with other random weights.

    Models of one architecture may share a tuple of controls, which are then measured once.
    """

    name: str
    encoder: Any
    controls: tuple[Any, ...] = ()
    seeds: tuple[Any, ...] = ()
    """The same training with other seeds; the row `name` is then the mean of `encoder` and these."""

    @property
    def modules(self) -> dict[str, Any]:
        """By the name of the row that is measured."""
        if not self.seeds:
            return {self.name: self.encoder}
        return {f"{self.name}, seed {i}": module for i, module in enumerate((self.encoder, *self.seeds))}

    @property
    def modality(self) -> Literal["images", "points"]:
        return "points" if isinstance(self.encoder, TakesPoints) else "images"


@dataclass(frozen=True)
class Controls:
    """Networks of one architecture with random weights, and the names of their rows."""

    mean: str
    names: tuple[str, ...]
    modules: tuple[Any, ...]
    given: tuple[Any, ...]
    """The `EvaluatedModel.controls` from which they come."""

    @classmethod
    def of(cls, given: tuple[Any, ...], suffix: str, modules: tuple[Any, ...] | None = None) -> Controls:
        names = tuple(f"random {i + 1}{suffix}" for i in range(len(given)))
        return cls(f"mean of {len(given)} random{suffix}", names, modules or given, given)


@dataclass(frozen=True)
class Grid:
    """The patches that an encoder cuts an image into."""

    size: tuple[int, int]
    """(height, width) of the image in pixels."""
    patch: int

    @classmethod
    def of(cls, encoder: Any) -> Grid:
        grid = cls((int(encoder.image_size[0]), int(encoder.image_size[1])), int(encoder.patch_size))
        if min(grid.shape) < 1:
            raise CallError(f"an encoder of {grid.size[0]} x {grid.size[1]} pixels holds no patch of {grid.patch} pixels")
        return grid

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def cells(self) -> int:
        return self.shape[0] * self.shape[1]

    def __str__(self) -> str:
        return f"{self.shape[0]} x {self.shape[1]} patches of {self.patch} px"


@dataclass(frozen=True)
class Batch:
    """Decoded images with their targets: for each grid the crop that its encoders see."""

    frames: list[Frame]
    images: dict[tuple[int, int], np.ndarray]
    """Size -> uint8 B x H x W x 3."""
    targets: list[Any]
    """As `read_frames` gives them."""


@dataclass
class EvalContext:
    """The models to compare, the device, and the features that several probes share."""

    evaluated: Sequence[EvaluatedModel]
    device: torch.device | str = "cpu"
    progress: Progress = lambda what, share: None
    cache: dict[Any, Any] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    """Rows of controls and of raw pixels that are not measured again."""

    def __post_init__(self) -> None:
        names = [model.name for model in self.evaluated]
        if not names or len(set(names)) != len(names):
            raise CallError(f"the encoders of a comparison need different names: {', '.join(names) or 'there is none'}")

    @cached_property
    def controls(self) -> list[Controls]:
        """Each set of controls once. Where there are several sets, the names say whose they are."""
        firsts: dict[int, EvaluatedModel] = {}
        for model in self.evaluated:
            if model.controls:
                firsts.setdefault(id(model.controls), model)
        return [Controls.of(first.controls, f" like {first.name}" if len(firsts) > 1 else "") for first in firsts.values()]

    @cached_property
    def modules(self) -> dict[str, Any]:
        """Every network that is measured, by the name of its row."""
        encoders = {name: module for model in self.evaluated for name, module in model.modules.items()}
        controls = {name: module for some in self.controls for name, module in zip(some.names, some.modules, strict=True)}
        return encoders | {name: module for name, module in controls.items() if name not in self.known}

    def rows(self, baselines: Callable[[str], Mapping[str, str]], scope: Callable[[str], str] = lambda name: "") -> ResultTable:
        """The rows of a result. `baselines(encoder)`: name -> short name; `scope(encoder)`: what encoders must share to be compared."""
        own = {model.name: dict(baselines(model.name)) for model in self.evaluated}
        means = {model.name: [some.mean for some in self.controls if some.given is model.controls] for model in self.evaluated}
        return ResultTable(
            encoders={name: (*means[name], *against) for name, against in own.items()},
            controls={some.mean: some.names for some in self.controls},
            baselines={name: short for against in own.values() for name, short in against.items()},
            scope={name: scope(name) for name in own},
            seeds={model.name: tuple(model.modules) for model in self.evaluated if model.seeds},
        )


class ImageEvalContext(EvalContext):
    """Encoders of images, their random-weights controls and raw pixels. All see the same decoded images."""

    @cached_property
    def grids(self) -> dict[str, Grid]:
        """Of every network, and of those that have several seeds by their common name."""
        return {
            name: Grid.of(module) for name, module in {**{model.name: model.encoder for model in self.evaluated}, **self.modules}.items()
        }

    def baseline(self, name: str, grid: Grid | None) -> str:
        """The row of a baseline; it names its grid where several stand beside each other."""
        return f"{name}, {grid}" if grid and len(set(self.grids.values())) > 1 else name

    def table(self, baselines: Mapping[str, str], scope: Callable[[Grid], object], of_grid: bool = True) -> ResultTable:
        """The rows of a result. `baselines`: short name -> name, one a grid if `of_grid`. `scope`: what compared encoders must share."""

        def own(encoder: str) -> dict[str, str]:
            grid = self.grids[encoder] if of_grid else None
            return {self.baseline(name, grid): short for short, name in baselines.items()}

        return self.rows(own, lambda name: str(scope(self.grids[name])))

    def batches(
        self,
        dataset: Dataset,
        frames: Sequence[Frame],
        counts: dict[str, int],
        extra: Sequence[tuple[int, int]] = (),
        fit: Fit = fit_image,
        change: Change | None = None,
    ) -> Iterator[Batch]:
        """The frames (in stored order) with their targets, decoded once and cut to every size that is needed. Broken ones are counted.

        `change`: what is made of an image and its target before that.
        """
        sizes = {grid.size for grid in self.grids.values()} | set(extra)
        patch = max(grid.patch for grid in self.grids.values())
        kept: list[Frame] = []
        images: dict[tuple[int, int], list[np.ndarray]] = {size: [] for size in sizes}
        targets: list[Any] = []

        def batch() -> Batch:
            return Batch(list(kept), {size: np.stack(some) for size, some in images.items()}, list(targets))

        for frame, image, target in read_frames(dataset, frames):
            if image is None or target is None:
                counts["broken_images"] += 1
                continue
            if min(image.shape[:2]) < patch:
                counts["images_smaller_than_a_patch"] += 1
                continue
            if change:
                image, target = change(frame, image, target)
            kept.append(frame)
            targets.append(target)
            for size in sizes:
                images[size].append(fit(image, size))
            if len(kept) == BATCH:
                yield batch()
                kept, targets, images = [], [], {size: [] for size in sizes}
        if kept:
            yield batch()

    def tokens(self, images: Mapping[tuple[int, int], np.ndarray]) -> Iterator[tuple[str, Grid, Float[torch.Tensor, "b n d"]]]:
        """(row name, grid, float64 patch features on the CPU) of every network and of raw pixels, for images cut to each size."""
        for name, tokens in self._all_tokens(images).items():
            yield name, self.grids[name], tokens.cpu().double()
        for grid in dict.fromkeys(self.grids.values()):
            if (name := self.baseline(PIXELS, grid)) not in self.known:
                yield name, grid, patch_pixels(images[grid.size], grid)

    def pooled(self, images: Mapping[tuple[int, int], np.ndarray]) -> Iterator[tuple[str, Float[torch.Tensor, "b d"]]]:
        """(row name, mean patch token, float64 on the CPU) of every network."""
        for name, tokens in self._all_tokens(images).items():
            yield name, tokens.mean(dim=1).cpu().double()

    def image_features(self, images: Mapping[tuple[int, int], np.ndarray]) -> Iterator[tuple[str, Float[torch.Tensor, "b d"]]]:
        """(row name, what the encoder's authors take for an image, float32 on the CPU) of every network; else the mean patch token."""
        for name, module in self.modules.items():
            cut = images[self.grids[name].size]
            if isinstance(module, HasImageFeature):
                yield name, module.image_feature(self._pixels(cut)).float().cpu()
            else:
                yield name, self._tokens(name, module, cut).mean(dim=1).cpu()

    def _all_tokens(self, images: Mapping[tuple[int, int], np.ndarray]) -> dict[str, Float[torch.Tensor, "b n d"]]:
        """Row name -> what the network gives, on the device. What an earlier probe has measured of an image is taken from there."""
        if torch.device(self.device).type != "cpu":
            return {name: self._tokens(name, module, images[self.grids[name].size]) for name, module in self.modules.items()}
        digests = {size: [blake2b(one, digest_size=16).digest() for one in some] for size, some in images.items()}
        found: dict[str, list[torch.Tensor | None]] = {}
        parts: list[tuple[str, list[int]]] = []
        for name, module in self.modules.items():
            found[name] = [self._known_tokens.get((name, digest)) for digest in digests[self.grids[name].size]]
            asked = [place for place, known in enumerate(found[name]) if known is None]
            step = AT_ONCE if is_ours(module) else max(len(asked), 1)
            parts += [(name, asked[start : start + step]) for start in range(0, len(asked), step)]

        def measure(part: tuple[str, list[int]]) -> torch.Tensor:
            name, places = part
            return self._tokens(name, self.modules[name], images[self.grids[name].size][places])

        for (name, places), tokens in zip(parts, side_by_side(measure, parts, self.device), strict=True):
            for place, one in zip(places, tokens, strict=True):
                found[name][place] = one
                self._know((name, digests[self.grids[name].size][place]), one)
        return {name: torch.stack([one for one in some if one is not None]) for name, some in found.items()}

    def _know(self, key: tuple[str, bytes], tokens: torch.Tensor) -> None:
        """The oldest go."""
        size = tokens.numel() * tokens.element_size()
        while self._known_tokens and (len(self._known_tokens) + 1) * size > KNOWN_BYTES:
            self._known_tokens.pop(next(iter(self._known_tokens)))
        self._known_tokens[key] = tokens.clone()  # not the whole batch

    @cached_property
    def _known_tokens(self) -> dict[tuple[str, bytes], torch.Tensor]:
        """(row name, digest of an image as the network sees it) -> its tokens."""
        return {}

    def _pixels(self, images: UInt8[np.ndarray, "b h w 3"]) -> Float[torch.Tensor, "b 3 h w"]:
        return torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float().div_(255)

    def _tokens(self, name: str, module: Any, images: UInt8[np.ndarray, "b h w 3"]) -> Float[torch.Tensor, "b n d"]:
        tokens: torch.Tensor = module.tokens(self._pixels(images)).float()
        if tokens.shape[1] != self.grids[name].cells:
            raise CallError(f"{name} gives {tokens.shape[1]} tokens for {self.grids[name]}", "an image encoder gives one token a patch")
        return tokens


PIXELS = "raw pixels"
POSITION = "position"


def patch_pixels(images: UInt8[np.ndarray, "b h w 3"], grid: Grid) -> Float[torch.Tensor, "b n d"]:
    """Mean colours of 8 x 8 cells of each patch, in [0, 1], float64: 192 values a patch."""
    rows, columns = grid.shape
    used = torch.from_numpy(images[:, : rows * grid.patch, : columns * grid.patch]).double().div_(255)
    patches = used.reshape(len(images), rows, grid.patch, columns, grid.patch, 3).permute(0, 1, 3, 5, 2, 4)
    return pixel_cells(patches.reshape(-1, 3, grid.patch, grid.patch)).reshape(len(images), grid.cells, -1)
