"""Reads the files that others publish. The one place where a pickle is read, and only as tensors and plain values.

What a file is, is told by its first bytes, not by its name: Flax's checkpoints have no suffix, and a failed download is often a web page
named `.pth`.
"""

from __future__ import annotations

import argparse
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import CallError, SightlineError

from .format import KEY, read_safetensors

MAX_BYTES = 64 << 30
"""A larger file is no encoder's checkpoint; one of ViT-H with its optimiser has 8 GiB."""
MAX_SETTINGS = 16 << 20
"""Of the JSON beside a safetensors file."""
AGAIN = "get the file again; its download or copy was cut short or altered"
_NUMPY = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


def read(path: Path) -> dict[str, Any]:
    """The content of a published file: nested dicts of tensors and plain values.

    PyTorch's files (zip or the older pickle) are read with `weights_only=True`; besides what torch allows, an `argparse.Namespace`, which
    becomes a dict, and NumPy's numbers are taken. A safetensors file gives `{"model": tensors}` and what a JSON file of the same stem
    says; Flax's msgpack gives its own maps. Raises `CallError` for what is no such file, `SightlineError` for one that is not whole, or
    that holds an object that only running its code could make; it names the class.
    """
    head = _head(path)
    if head[8:10] == b'{"':
        return _safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return _torch(path, mmap=True)
    if head[0] == 0x80 and head[1] in (2, 3, 4, 5):
        return _torch(path, mmap=False)
    if 0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return _msgpack(path)
    raise CallError(
        f"{path} holds no published weights: {_guess(head)}", "name a PyTorch (.pth, .pt, .bin), safetensors or Flax (msgpack) file"
    )


def _head(path: Path) -> bytes:
    """The first bytes. Raises `CallError` for no file, an empty one and one that is too large."""
    if path.is_dir():
        raise CallError(f"{path} is a folder", "name the file of weights in it")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise CallError(f"there is no file {path}") from None
    except OSError as error:
        raise CallError(f"cannot read {path}: {error.strerror}") from None
    if size < 16:
        raise CallError(f"{path} has only {size} bytes: it holds no weights", AGAIN)
    if size > MAX_BYTES:
        raise CallError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read", "name a file of weights")
    return head


def _guess(head: bytes) -> str:
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page; the address it came from shows a page and is not the file's own"
    if text.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself (`git lfs pull` gets that)"
    if head[257:262] == b"ustar":
        return "it is a tar archive (unpack it), or a file of PyTorch before 0.1.10, which is not read"
    if head.startswith(b"\x1f\x8b"):
        return "it is compressed with gzip; unpack it first"
    return "its first bytes are of no format that is known"


def _safetensors(path: Path) -> dict[str, Any]:
    tensors, metadata = read_safetensors(path)
    if KEY in metadata:
        raise CallError(
            f"{path} is in Sightline's own form already", "use it as it is: init=FILE, sightline evaluate FILE, encode FILE, export FILE"
        )
    beside = path.with_suffix(".json")
    settings: Any = {}
    if beside.is_file():
        if beside.stat().st_size > MAX_SETTINGS:
            raise CallError(f"{beside} has more than {MAX_SETTINGS:,} bytes: it is no settings", "move it away from beside the weights")
        try:
            settings = json.loads(beside.read_text())
        except ValueError as error:
            raise SightlineError(f"{beside}, the settings beside {path.name}, is no JSON: {error}", AGAIN) from None
        if not isinstance(settings, dict):
            raise SightlineError(f"{beside}, the settings beside {path.name}, is no JSON object", AGAIN)
    return {**settings, "model": tensors}


def _check_archive(path: Path) -> None:
    """PyTorch stores its members as they are. A compressed one could unpack to any size, so it is not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise SightlineError(f"{path} is not whole: {error}", AGAIN) from None
    if not any(member.filename.endswith("data.pkl") for member in members):
        raise CallError(f"{path} is a zip archive without PyTorch weights", "unpack it and name the file of weights in it")
    if packed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
        raise CallError(f"{path} holds compressed members ({packed[0]}), which PyTorch does not write", "get the file from its publisher")


def _torch(path: Path, mmap: bool) -> dict[str, Any]:
    import torch

    try:
        with torch.serialization.safe_globals(_allowed()):
            content = plain(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))
    except Exception as error:  # a file cut at any byte breaks the reader in as many ways
        if type(error).__name__ == "UnpicklingError":
            raise _refusal(path, str(error)) from None
        raise SightlineError(f"{path} is not whole: {_first(error)}", AGAIN) from None
    if not isinstance(content, dict):
        raise CallError(f"{path} holds a {type(content).__name__}, not a dict of weights", "name a checkpoint that holds a state dict")
    return content


def _allowed() -> list[Any]:
    """What an old trainer puts beside its tensors: its arguments, and best scores as NumPy numbers. They run no code of the file."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        np.dtype,
        *{type(np.dtype(name)) for name in _NUMPY},
        *((scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    ]


def _refusal(path: Path, text: str) -> SightlineError:
    """torch's pages of advice as one sentence that names the class."""
    match = re.search(r"GLOBAL ([\w.]+)|class[: ]+`?([\w.]+)|call of ([\w.]+)", text)
    if match is None:
        return SightlineError(f"{path} is not whole, or is no file of PyTorch: {_first(text)}", AGAIN)
    name = next(group for group in match.groups() if group)
    return SightlineError(
        f"{path} holds an object of the class {name}; making it would run code that the file chooses, so it is not read",
        "ask its publisher for a file of tensors alone (safetensors); if you trust it, load it where nothing can be harmed and save its "
        "`model` dict with safetensors",
    )


def plain(value: Any) -> Any:
    """Namespaces as dicts and NumPy numbers as Python's, at any depth; tensors and the rest as they are."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value] if isinstance(value, list) else tuple(plain(item) for item in value)
    return value.item() if isinstance(value, np.generic) else value


def _msgpack(path: Path) -> dict[str, Any]:
    from .flax_msgpack import decode

    try:
        content: dict[str, Any] = decode(path.read_bytes())
    except ValueError as error:
        raise SightlineError(f"{path} is no whole msgpack file: {error}", AGAIN) from None
    return content


def _first(error: BaseException | str) -> str:
    return " ".join((str(error).splitlines() or ["it ends too early"])[0].split())[:200]
