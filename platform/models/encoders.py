"""Opens encoders, wherever they lie: `load_encoder("my-run").tokens(images)` in a notebook, `open_encoder` for probes and commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext, MethodConfig
from sightline.platform.weights.format import Weights, digest

from .resolve import find_weights

if TYPE_CHECKING:
    import torch

    from .loaded import LoadedEncoder


@dataclass(frozen=True)
class OpenedEncoder:
    """An encoder with its weights, and what it is."""

    encoder: Any
    """An `ImageEncoder` or `PointEncoder` in evaluation mode, on the CPU."""
    weights: Weights
    """What it was opened from: the whole pretext's state where the place holds it."""

    @property
    def method(self) -> str:
        """Id of the method that made it."""
        return self.weights.method

    @property
    def config(self) -> MethodConfig:
        return self.weights.config

    @property
    def source(self) -> str:
        """Where it comes from, in words."""
        return self.weights.source

    @cached_property
    def sha256(self) -> str:
        """Of the encoder's tensors: the same for a run, its registered version and its exported file."""
        return digest(self.encoder.state_dict())

    def pretext(self) -> Any:
        """The method's whole module with these weights in evaluation mode; what the encoder has no part of keeps fresh ones."""
        whole: Any = self.weights.pretext()
        state, held = whole.state_dict(), dict(self.weights.tensors)
        if self.weights.part == "encoder":
            first = next(iter(held))
            prefix = next(name.removesuffix(first) for name in state if name.endswith(first) and state.keys() >= _under(name, first, held))
            held = {prefix + name: tensor for name, tensor in held.items()}
        whole.load_state_dict({**state, **held})
        return whole.eval()

    def random(self, seed: int) -> torch.nn.Module:
        """The same architecture with fresh random weights: a control."""
        module: torch.nn.Module = find_method(self.method).build(self.config, BuildContext(seed=seed)).encoder()
        return module.eval()


def _under(name: str, first: str, tensors: Mapping[str, Any]) -> set[str]:
    """The names of all tensors where the one called `first` is called `name`."""
    return {name.removesuffix(first) + one for one in tensors}


def open_encoder(model: str, tracking_uri: str | None = None) -> OpenedEncoder:
    """`model`: a run (name, folder or MLflow run id), a folder with `encoder.json`, a file made by `sightline import` or `export`, or
    `models:/NAME@alias` or `models:/NAME/3` in the registry at `tracking_uri` (default: `$MLFLOW_TRACKING_URI`, else the local one).

    Raises `CallError` where there is none, naming the nearest run, and `SightlineError` where the weights do not verify.
    """
    found = find_weights(model, tracking_uri)
    return OpenedEncoder(found.encoder(), found)


def load_encoder(model: str, tracking_uri: str | None = None) -> LoadedEncoder:
    """The encoder for notebooks; `model` as in `open_encoder`.

    `load_encoder("my-run").pooled(pictures)` gives one feature each, `tokens(pictures)` b x patches x dim; see `LoadedEncoder`.
    """
    from .loaded import LoadedEncoder

    opened = open_encoder(model, tracking_uri)
    return LoadedEncoder(opened.encoder, opened.method, opened.source)
