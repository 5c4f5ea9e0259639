"""Our own form of weights: tensors in safetensors, with what rebuilds their module (method, sections) beside or inside.

A *single file* carries the description in its safetensors metadata; a *folder* (a run's `encoder/`, a registered version) carries it as
`encoder.json` beside `encoder.safetensors`. `part` says whose state it is: of the whole pretext (teacher and heads included), or of the
encoder alone.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from sightline.methods.catalog import find_method
from sightline.methods.contract import MethodConfig, Pretext
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import explain
from sightline.platform.config import METHOD_SECTIONS
from sightline.platform.core.budget import OverBudgetError, check_tensors
from sightline.platform.core.files import make_folder, replacing, write_text

if TYPE_CHECKING:
    import torch

KEY = "sightline"
"""Of the description in the metadata of a single file."""
ENCODER = "encoder"
"""Stem of the two files of a folder."""
SINGLE = "weights.safetensors"
"""Name of a single file where only its folder was named."""
FOREIGN = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".msgpack", ".npz")

Part = Literal["pretext", "encoder"]


@dataclass(frozen=True)
class Weights:
    """A state with what rebuilds its module. `place` names where it lies for good; `sha256` is that of the tensors, in whatever file."""

    method: str
    sections: Mapping[str, Any]
    part: Part
    tensors: Mapping[str, torch.Tensor]
    source: str
    """Where the weights come from in the first place: a run, or a published file."""
    place: str
    sha256: str

    @classmethod
    def of(
        cls, method: str, sections: Mapping[str, Any], part: Part, tensors: Mapping[str, torch.Tensor], source: str, place: str
    ) -> Weights:
        return cls(method, {name: sections[name] for name in METHOD_SECTIONS}, part, tensors, source, place, digest(tensors))

    @property
    def config(self) -> MethodConfig:
        """Raises `CallError` where this Sightline's method has other settings than the one that wrote the weights."""
        model = find_method(self.method).Config
        try:
            return model.model_validate(self.sections)
        except ValidationError as error:
            raise CallError(
                f"the settings in {self.place} are not those of this version's {self.method}:\n{explain(error, model)}",
                "use the version of Sightline that wrote them, or correct the settings and import the weights again",
            ) from None

    def describe(self) -> dict[str, Any]:
        return {"part": self.part, "method": self.method, **self.sections, "source": self.source, "sha256": self.sha256}

    def pretext(self, seed: int = 0) -> Pretext:
        """A pretext of these settings with fresh weights."""
        from .building import build_within  # imports torch

        held = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
        return build_within(find_method(self.method), self.config, self.place, held, seed)

    def encoder(self) -> torch.nn.Module:
        """The encoder with these weights, in evaluation mode. Raises `SightlineError` where they do not fit their own settings."""
        pretext: Any = self.pretext()
        if self.part == "pretext":
            self._fill(pretext)
        encoder: torch.nn.Module = pretext.encoder()
        if self.part == "encoder":
            self._fill(encoder)
        return encoder.eval()

    def _fill(self, module: torch.nn.Module) -> None:
        try:
            module.load_state_dict(dict(self.tensors))
        except RuntimeError as error:
            raise SightlineError(
                f"the weights in {self.place} do not fit the settings beside them: {_shorten(str(error))}",
                "they were altered, or written by another version of the method; export or import them again",
            ) from None


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and values in the order of the names: the same in whatever file the tensors lie."""
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def write_file(weights: Weights, path: Path) -> Path:
    """The single-file form, whole or not at all."""
    return _save(weights.tensors, path, {KEY: json.dumps(weights.describe()), "format": "pt"})


def write_folder(weights: Weights, folder: Path) -> Path:
    """The folder form: `encoder.json` and `encoder.safetensors`; an encoder only."""
    _save(weights.tensors, folder / f"{ENCODER}.safetensors", {"format": "pt"})
    write_text(folder / f"{ENCODER}.json", json.dumps(weights.describe(), indent=1))
    return folder


def _save(tensors: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> Path:
    from safetensors.torch import save_file

    try:
        make_folder(path.parent)
        with replacing(path) as part:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part, metadata)
    except OSError as error:
        raise SightlineError(f"cannot write {path}: {error.strerror or error}", "name a place you may write to, with space left") from None
    return path


def read_file(path: Path) -> Weights:
    """The single-file form, its tensors compared with the SHA-256 in it. Raises `SightlineError`."""
    tensors, metadata = read_safetensors(path)
    if KEY not in metadata:
        raise CallError(
            f"{path} was not written by Sightline: it does not say which method and settings it belongs to",
            f"if it holds published weights: sightline import {path} --method METHOD --out FILE",
        )
    return _described(tensors, metadata[KEY], str(path.absolute()))


def read_folder(folder: Path, place: str) -> Weights:
    tensors, _ = read_safetensors(folder / f"{ENCODER}.safetensors")
    return _described(tensors, (folder / f"{ENCODER}.json").read_text(), place)


def _described(tensors: dict[str, torch.Tensor], text: str, place: str) -> Weights:
    try:
        says = json.loads(text)
        weights = Weights.of(says["method"], says, says["part"], tensors, says["source"], place)
        expected = says["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise SightlineError(
            f"the description of the weights in {place} is not readable ({error!r})", "export or import them again"
        ) from None
    if weights.sha256 != expected:
        raise SightlineError(
            f"the weights in {place} were altered: their SHA-256 is not the recorded one", "get the file again from its source"
        )
    return weights


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata). Raises `SightlineError` for a file that is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        check_tensors(path)
        with safe_open(os.fspath(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CallError(f"there is no file {path}") from None
    except OverBudgetError as error:
        raise SightlineError(f"{path} asks for more than it may: {error}", "get the file from its publisher") from None
    except (SafetensorError, OSError) as error:
        raise SightlineError(
            f"{path} is not a whole safetensors file: {error}", "get it again; its download or copy was cut short"
        ) from None


def _shorten(text: str) -> str:
    return " ".join(text.split())[:300]
