"""Reads the files that others publish. The one place where a pickle is read, and only as tensors and plain values.

What a file is, is told by its first bytes, not by its name: Flax's checkpoints have no suffix, and a failed download is often a web page
named `.pth`.
"""

from __future__ import annotations

import argparse
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.budget import UNPACKED, OverBudgetError, check_members, check_unpacked, parse_json

from .format import FOREIGN, KEY, read_safetensors

if TYPE_CHECKING:
    import torch

MAX_BYTES = 64 << 30
"""A larger file is no encoder's checkpoint; one of ViT-H with its optimiser has 8 GiB."""
MAX_SETTINGS = 16 << 20
"""Of the JSON beside a safetensors file."""
MAX_PICKLE = 64 << 20
"""Of the pickle inside a PyTorch file, which holds names and shapes; 100,000 tensors take 20 MiB."""
MAX_STEPS = 2_000_000
"""Steps of a pickle. A tensor takes about 25, a number in a list one; each may make an object of 64 bytes."""
MAX_VALUES = 5_000_000
"""Lists and maps of a file."""
WHOLE = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
"""One part of weights that are spread over several files."""
INDEX = ".index.json"
OTHER = {
    b"\x1f\x8b": "it is compressed with gzip; unpack it first",
    b"\xfd7zXZ": "it is compressed with xz; unpack it first",
    b"BZh": "it is compressed with bzip2; unpack it first",
    b"\x28\xb5\x2f\xfd": "it is compressed with zstd; unpack it first",
    b"7z\xbc\xaf": "it is a 7z archive; unpack it first",
    b"Rar!": "it is a RAR archive; unpack it first",
    b"GGUF": "it is a GGUF file of llama.cpp, whose tensors are quantised",
    b"\x89HDF": "it is HDF5 (Keras or TensorFlow), which is not read",
    b"\x93NUMPY": "it is one NumPy array without a name; save a dict of arrays with numpy.savez",
    b"\x08": "it may be an ONNX model, which is not read",
}
ODD = (".metadata", "manifest.ocdbt", "_METADATA", "d")
STATE_DICT = "load it where it was made, and save its state_dict() with torch.save or safetensors"
AGAIN = "get the file again; its download or copy was cut short or altered"
_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""Near the beginning of what torch.save wrote before it wrote archives."""
_NUMPY = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")


def read(path: Path) -> dict[str, Any]:
    """The content of a published file: nested dicts of tensors and plain values.

    PyTorch's files (zip or the older pickle) are read with `weights_only=True`; besides what torch allows, an `argparse.Namespace`, which
    becomes a dict, paths, which become text, and NumPy's numbers are taken. A safetensors file gives `{"model": tensors}` and what a JSON
    file of the same stem, or else timm's `config.json`, says; Flax's msgpack gives its own maps, NumPy's `.npz` its arrays by name. Weights
    in several files are read by their index (`model.safetensors.index.json`) or the folder that holds it. Raises `CallError` for what is no
    such file, `SightlineError` for one that is not whole, that asks for more memory than it may, or that holds an object that only running
    its code could make; it names the class.
    """
    path = _file(path)
    if path.name.endswith(INDEX):
        return _parts(path)
    head = _head(path)
    if (part := WHOLE.fullmatch(path.name)) and int(part[3]) > 1:
        raise CallError(
            f"{path} is part {int(part[2])} of {int(part[3])}: it holds some of the tensors",
            f"name the index of them all, {part[1]}{part[4]}{INDEX}, or its folder",
        )
    try:
        return _content(path, head)
    except OverBudgetError as error:
        raise SightlineError(f"{path} asks for more than it may: {error}", "get the file from its publisher") from None


def _content(path: Path, head: bytes) -> dict[str, Any]:
    if head[8:10] == b'{"':
        return _safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        if _is_npz(path):
            return _npz(path)
        return _torch(path, mmap=True)
    if head[0] == 0x80 and head[1] in (2, 3, 4, 5):
        if head[1] > 2 and _MAGIC not in head[:40]:
            raise CallError(f"{path} is a pickle that PyTorch did not write", "name a file of torch.save, or safetensors")
        return _torch(path, mmap=False)
    if (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)) and not head.startswith(tuple(OTHER)):
        return _msgpack(path)
    raise CallError(
        f"{path} holds no published weights: {_guess(head)}",
        "name a PyTorch (.pth, .pt, .bin), safetensors, NumPy (.npz) or Flax (msgpack) file",
    )


def held_bytes(content: Mapping[str, Any]) -> int:
    """Bytes of the tensors in `content`, what several share counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _plain(content)}.values())


def _file(path: Path) -> Path:
    """The file itself, or of a folder the index or the only file of weights in it."""
    if not path.is_dir():
        return path
    there = sorted(p for p in path.iterdir() if p.is_file())
    if len(found := [p for p in there if p.name.endswith(INDEX)]) == 1 or len(found := [p for p in there if _is_weights(p)]) == 1:
        return found[0]
    what = "a checkpoint of torch.distributed or Orbax, which is not read" if any((path / n).exists() for n in ODD) else "a folder"
    names = ", ".join(p.name for p in found[:6])
    raise CallError(f"{path} is {what}", f"name the file of weights in it: {names}" if found else "name a file of weights; it holds none")


def _is_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", *FOREIGN) and not path.name.startswith(".")


def _parts(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names."""
    try:
        places = parse_json(index.read_bytes())["weight_map"]
        names = sorted(set(places.values()))
        if not names or not all(isinstance(name, str) and Path(name).name == name and name != index.name for name in names):
            raise ValueError("it names files outside its folder, or none")
    except FileNotFoundError:
        raise CallError(f"there is no file {index}") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SightlineError(f"{index} is no index of weights: {_first(error)}", AGAIN) from None
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise SightlineError(f"{len(absent)} of the {len(names)} files of {index} are missing, the first is {absent[0]}", "get them, too")
    tensors: dict[str, Any] = {}
    for name in names:
        part = index.parent / name
        content = _content(part, _head(part))
        tensors |= content["model"] if isinstance(content.get("model"), dict) else content
    if lost := [name for name in places if name not in tensors]:
        raise SightlineError(f"{len(lost)} tensors of {index} are in none of its files, the first is {lost[0]}", AGAIN)
    return {"model": tensors}


def _head(path: Path) -> bytes:
    """The first bytes. Raises `CallError` for no file, an empty one and one that is too large."""
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
    for start, what in OTHER.items():
        if head.startswith(start):
            return what
    return "its first bytes are of no format that is known"


def _safetensors(path: Path) -> dict[str, Any]:
    tensors, metadata = read_safetensors(path)
    if KEY in metadata:
        raise CallError(
            f"{path} is in Sightline's own form already", "use it as it is: init=FILE, sightline evaluate FILE, encode FILE, export FILE"
        )
    beside = path.with_suffix(".json")
    if not beside.is_file():
        beside = path.with_name("config.json")  # as timm has it
    settings: Any = {}
    if beside.is_file():
        if beside.stat().st_size > MAX_SETTINGS:
            raise CallError(f"{beside} has more than {MAX_SETTINGS:,} bytes: it is no settings", "move it away from beside the weights")
        try:
            settings = parse_json(beside.read_bytes())
        except ValueError as error:
            raise SightlineError(f"{beside}, the settings beside {path.name}, is no JSON: {error}", AGAIN) from None
        if not isinstance(settings, dict):
            raise SightlineError(f"{beside}, the settings beside {path.name}, is no JSON object", AGAIN)
        if beside.stem != path.stem and "architecture" not in settings:
            settings = {}  # of another program
    return {**settings, "model": tensors}


def _is_npz(path: Path) -> bool:
    """Whether a zip archive is NumPy's. Raises `SightlineError` for one that is neither NumPy's nor of PyTorch's weights.

    PyTorch stores its members as they are. A compressed one could unpack to any size, so it is not read.
    """
    try:
        with path.open("rb") as file:
            check_members(file)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                pickles = [member for member in members if member.filename.endswith("data.pkl")]
                stored = all(member.compress_type == zipfile.ZIP_STORED for member in pickles)
                if pickles and stored and pickles[0].file_size <= MAX_PICKLE:
                    with archive.open(pickles[0]) as pickle:
                        _check_steps(path, pickle, several=False)
    except OverBudgetError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise SightlineError(f"{path} is not whole: {error}", AGAIN) from None
    if not pickles:
        if members and all(member.filename.endswith(".npy") for member in members):
            return True
        if any(member.filename.endswith(("archive_format", "serialized_exported_program.json")) for member in members):
            raise CallError(f"{path} is a program of torch.export, not weights alone", STATE_DICT)
        raise CallError(f"{path} is a zip archive without PyTorch weights", "unpack it and name the file of weights in it")
    if any(member.filename.endswith("constants.pkl") for member in members):
        raise CallError(f"{path} is a TorchScript archive: code with its weights", STATE_DICT)
    if pickles[0].file_size > MAX_PICKLE:
        raise OverBudgetError(f"its pickle has {pickles[0].file_size:,} bytes; at most {MAX_PICKLE:,} are read")
    if packed := [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]:
        raise CallError(f"{path} holds compressed members ({packed[0]}), which PyTorch does not write", "get the file from its publisher")
    return False


def _check_steps(path: Path, stream: IO[bytes], several: bool) -> None:
    """Counts the steps of a pickle without taking them; `several`: a file before PyTorch 1.6 is five of them, one after the other."""
    steps = 0
    for _ in range(5 if several else 1):
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                steps += 1
                if steps > MAX_STEPS:
                    raise OverBudgetError(f"its pickle takes more than {MAX_STEPS:,} steps")
                if opcode.name in ("GLOBAL", "STACK_GLOBAL") and str(argument).endswith(" bytearray"):
                    raise _refusal(path, "GLOBAL builtins.bytearray")  # its length may be any number
        except OverBudgetError:
            raise
        except (ValueError, IndexError, OverflowError):
            return  # it is not whole: torch says so


def _npz(path: Path) -> dict[str, Any]:
    """The arrays of an `.npz`, as JAX's trainers write them: names with slashes, bfloat16 as two bytes without a type."""
    import torch

    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                check_unpacked(member.compress_size, member.file_size, f"the array {member.filename!r}")
        with np.load(path, allow_pickle=False) as content:
            for name in content.files:
                array = content[name]
                if array.dtype.kind in "fiub":
                    arrays[name] = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
                elif array.dtype == np.dtype("V2"):
                    arrays[name] = torch.from_numpy(np.ascontiguousarray(array).view(np.int16)).view(torch.bfloat16)
    except OverBudgetError:
        raise
    except Exception as error:  # NumPy and zlib raise many for files that are cut
        if "pickle" in str(error):
            raise SightlineError(f"{path} holds objects of Python, which are never made", "save arrays of numbers alone") from None
        raise SightlineError(f"{path} is not whole: {_first(error)}", AGAIN) from None
    return arrays


def _torch(path: Path, mmap: bool) -> dict[str, Any]:
    import torch

    if not mmap:
        with path.open("rb") as file:
            _check_steps(path, file, several=True)
    try:
        with torch.serialization.safe_globals(_allowed()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about quantised tensors, which are refused by name
            content = plain(torch.load(path, map_location="cpu", weights_only=True, mmap=mmap))
    except OverBudgetError:
        raise
    except RecursionError:
        raise OverBudgetError("its values lie in each other more deeply than is read") from None
    except Exception as error:  # a file cut at any byte breaks the reader in as many ways
        if type(error).__name__ == "UnpicklingError":
            raise _refusal(path, str(error)) from None
        if "magic number" in str(error):
            raise CallError(f"{path} is a pickle that PyTorch did not write", "name a file of torch.save, or safetensors") from None
        raise SightlineError(f"{path} is not whole: {_first(error)}", AGAIN) from None
    if not isinstance(content, dict):
        raise CallError(f"{path} holds a {type(content).__name__}, not a dict of weights", "name a checkpoint that holds a state dict")
    _check_shapes(content)
    return content


def _check_shapes(content: Mapping[str, Any]) -> None:
    """A tensor can repeat one value over any shape, or have none. Raises `OverBudgetError` where tensors would take much more than the file
    holds, and `SightlineError` for those without values."""
    if empty := sum(tensor.is_meta for tensor in _tensors(content)):
        raise SightlineError(f"{empty} of its tensors have no values (device meta)", "save the weights after they were loaded")
    repeated = sum(max(0, t.numel() * t.element_size() - t.untyped_storage().nbytes()) for t in _plain(content))
    if repeated > UNPACKED:
        raise OverBudgetError(f"its tensors repeat values up to {repeated:,} bytes beyond those in the file; at most {UNPACKED:,} are made")


def _plain(content: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Those that have values in memory, one after another."""
    import torch

    return (t for t in _tensors(content) if t.layout == torch.strided and not t.is_meta and not t.is_nested)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in a content."""
    import torch

    waiting, seen = [value], set()
    while waiting:
        here = waiting.pop()
        if isinstance(here, torch.Tensor):
            yield here
        elif isinstance(here, Mapping | list | tuple) and id(here) not in seen:
            seen.add(id(here))
            waiting.extend(here.values() if isinstance(here, Mapping) else here)


def _allowed() -> list[Any]:
    """What an old trainer puts beside its tensors: its arguments, and best scores as NumPy numbers. They run no code of the file."""
    scalar = np.float64(0).__reduce__()[0]
    return [
        argparse.Namespace,
        *((_path_text, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
        np.dtype,
        *{type(np.dtype(name)) for name in _NUMPY},
        *((scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    ]


def _path_text(*parts: str) -> str:
    return "/".join(map(str, parts)).replace("//", "/")


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


def plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """Namespaces as dicts and NumPy numbers as Python's, at any depth; tensors and the rest as they are.

    What lies at several places is made once, and lies at several places again: written out, two kilobytes of lists of lists take
    gigabytes. Raises `OverBudgetError` for more than `MAX_VALUES` values.
    """
    known = {} if known is None else known
    if isinstance(value, argparse.Namespace | Mapping | list | tuple):
        if id(value) in known:
            return known[id(value)][0]
        made: Any = [] if isinstance(value, list) else {}
        known[id(value)] = (made, value)  # kept, so that its id stays its own
        if len(known) > MAX_VALUES:
            raise OverBudgetError(f"it holds more than {MAX_VALUES:,} lists and maps")
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            made.update((key, plain(item, known)) for key, item in value.items())
        elif isinstance(value, list):
            made.extend(plain(item, known) for item in value)
        else:
            made = tuple(plain(item, known) for item in value)
            known[id(value)] = (made, value)
        return made
    return value.item() if isinstance(value, np.generic) else value


def _msgpack(path: Path) -> dict[str, Any]:
    from .flax_msgpack import decode

    try:
        content: dict[str, Any] = decode(path.read_bytes())
    except OverBudgetError:
        raise
    except ValueError as error:
        raise SightlineError(f"{path} is no whole msgpack file: {error}", AGAIN) from None
    return content


def _first(error: BaseException | str) -> str:
    return " ".join((str(error).splitlines() or ["it ends too early"])[0].split())[:200]
