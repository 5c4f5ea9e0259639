"""Reads recorded vectors, finds out what they are from their tensor names, and checks every number in them.

A method's test module lists its `Kind`s. A file is a failure unless exactly one kind recognises *all* its tensor names; a kind
that is not built yet has no check and is reported as pending. JSON files have a `JsonKind`, which makes the same document with our
values; files of another format have a `BytesKind`. Run it alone: `pytest -k "parity and <method>"`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sightline.methods.errors import SightlineError

ROOT = Path(__file__).resolve().parents[2]
PROSE = {"README.md"}


class ParityError(AssertionError):
    """A vector that disagrees, or that cannot be judged."""


@dataclass(frozen=True)
class Vector:
    """One file: tensors by full name, the settings they were made with, and how closely they must be met."""

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    tolerance: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors named `prefix.<rest>` by <rest>."""
        return {name.removeprefix(f"{prefix}."): t for name, t in self.tensors.items() if name.startswith(f"{prefix}.")}

    def limits(self, name: str) -> tuple[float, float]:
        """(absolute, relative) tolerance of a tensor: its own where `per_tensor` lists it, the gradients' or the general one."""
        table: Mapping[str, float] = self.tolerance
        prefix = "grad_" if name.startswith("grad.") and "grad_atol" in table else ""
        if own := self.tolerance.get("per_tensor", {}).get(name):
            table, prefix = own, ""
        return table[f"{prefix}atol"], table[f"{prefix}rtol"]


Limits = tuple[float, float] | tuple[float, float, float]
"""Of an element: (absolute, relative to the recorded value[, relative to the largest recorded value of the tensor])."""


@dataclass(frozen=True)
class Kind:
    """What a file may hold. `names`: one pattern for each admissible tensor name. `needs`: patterns of which each must be met.

    `compute` returns our value for every name that starts with one of `compares` (more is fine: the file must then hold them, too).
    None: not built yet, and `pending` says where it belongs. `limits` reads the tolerance of a tensor from the file.
    """

    name: str
    names: tuple[str, ...]
    needs: tuple[str, ...]
    compute: Callable[[Vector], Mapping[str, Tensor]] | None = None
    pending: str = ""
    compares: tuple[str, ...] = ("output.", "grad.")
    limits: Callable[[Vector, str], Limits] = Vector.limits

    def recorded(self, vector: Vector) -> dict[str, Tensor]:
        """The tensors that are results."""
        return {n: t for n, t in vector.tensors.items() if n.startswith(self.compares)}

    def strangers(self, names: Iterable[str]) -> list[str]:
        return [n for n in names if not any(re.fullmatch(p, n) for p in self.names)]

    def lacks(self, names: Iterable[str]) -> list[str]:
        names = list(names)
        return [p for p in self.needs if not any(re.fullmatch(p, n) for n in names)]


@dataclass(frozen=True)
class JsonKind:
    """A JSON file, known by its content. `compute` makes the same document with our values, which are compared leaf by leaf.

    A leaf may be a `Within`; numbers agree to `rtol`, everything else must be equal. What is given, not computed, is copied over.
    """

    name: str
    recognises: Callable[[Any], bool]
    compute: Callable[[Any], Any]
    rtol: float = 1e-12


@dataclass(frozen=True)
class BytesKind:
    """A file of another format, known by its first bytes. `check` adds what it compares and what disagrees to the report.

    Whatever it raises means that the file is not as it should be.
    """

    name: str
    recognises: Callable[[bytes], bool]
    check: Callable[[Path, bytes, Report], None]


@dataclass(frozen=True)
class Within:
    """Our statement about a recorded number that no one can repeat exactly, such as a statistic of random draws."""

    low: float
    high: float


@dataclass
class Report:
    """What was checked in one file. `worst`: the largest |ours - theirs| / (atol + rtol |theirs|), 1 is the limit.

    `tensors` counts the tensors that were compared, `values` the leaves of a JSON file.
    """

    path: Path
    kind: str
    pending: str = ""
    tensors: int = 0
    values: int = 0
    worst: float = 0.0
    worst_name: str = ""
    largest_error: float = 0.0
    problems: list[str] = field(default_factory=list)


def parity_folder(method: str) -> Path:
    """$SIGHTLINE_PARITY_DIR/<method>, else ../shared/parity/<method> where it exists, else our copies."""
    if given := os.environ.get("SIGHTLINE_PARITY_DIR"):
        return Path(given) / method
    shared = ROOT.parent / "shared" / "parity" / method
    return shared if shared.is_dir() else ROOT / "tests" / "parity" / method


def parity_files(folder: Path) -> list[Path]:
    """Every file under `parity/<method>` but the prose, and under `parity_next/<method>` beside it, if that is there.

    Raises `ParityError` where there is none.
    """
    later = folder.parents[1] / "parity_next" / folder.name
    files = [p for place in (folder, later) for p in sorted(place.rglob("*")) if p.is_file() and p.name not in PROSE]
    if not files:
        raise ParityError(f"no parity vector under {folder}")
    return files


def read_vector(path: Path) -> Vector:
    try:
        with safe_open(path, "pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - the handle is no dict
    except (SafetensorError, OSError, ValueError) as error:
        raise ParityError(f"{path.name} cannot be read as safetensors: {error}") from error
    try:
        return Vector(path, tensors, json.loads(metadata["config"]), json.loads(metadata["tolerance"]))
    except (KeyError, json.JSONDecodeError) as error:
        raise ParityError(f"{path.name} has no readable {error} in its metadata") from error


def recognise(vector: Vector, kinds: Iterable[Kind]) -> Kind:
    """The one kind that has a place for each tensor and finds what it needs. Raises `ParityError` with the nearest miss."""
    names = list(vector.tensors)
    kinds = list(kinds)
    fits = [k for k in kinds if not k.strangers(names) and not k.lacks(names)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ParityError(f"{vector.path.name} could be any of {[k.name for k in fits]}")
    near = min(kinds, key=lambda k: len(k.strangers(names)) + len(k.lacks(names)))
    raise ParityError(
        f"{vector.path.name} is of no known kind; the nearest is {near.name!r}: unknown tensors {near.strangers(names)[:5]}, "
        f"missing {near.lacks(names)[:5]}"
    )


def smallest_of_each_kind(files: Iterable[Path], kinds: Iterable[Kind]) -> list[Path]:
    """For what a file's kind decides, not its numbers."""
    found: dict[str, Path] = {}
    for path in sorted(files, key=lambda path: path.stat().st_size):
        found.setdefault(recognise(read_vector(path), kinds).name, path)
    return list(found.values())


def check_file(path: Path, kinds: Iterable[Kind | JsonKind | BytesKind]) -> Report:
    """Every result in the file against ours. Raises `ParityError` with all disagreements."""
    kinds = list(kinds)
    documents = [k for k in kinds if isinstance(k, JsonKind)]
    if documents and (content := read_json(path)) is not None:
        return check_json(path, content, documents)
    data = path.read_bytes()
    if other := [k for k in kinds if isinstance(k, BytesKind) and data[8:10] != b'{"' and data and k.recognises(data)]:
        return check_bytes(path, data, other[0])
    vector = read_vector(path)
    kind = recognise(vector, [k for k in kinds if isinstance(k, Kind)])
    report = Report(path, kind.name, kind.pending)
    if kind.compute is None:
        return report
    expected = kind.recorded(vector)
    try:
        ours = kind.compute(vector)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ParityError(f"{path.name} ({kind.name}) cannot be computed: {type(error).__name__}: {error}") from error
    for name in sorted(ours.keys() - expected.keys()):
        report.problems.append(f"{name} is missing from the file")
    for name, theirs in expected.items():
        if name not in ours:
            report.problems.append(f"{name} is a tensor we do not know")
        else:
            compare(report, name, ours[name].detach(), theirs, *kind.limits(vector, name))
    if report.problems:
        raise ParityError(f"{path.name} ({kind.name}): " + "; ".join(report.problems))
    return report


def compare(report: Report, name: str, ours: Tensor, theirs: Tensor, atol: float, rtol: float, max_rel: float = 0.0) -> None:
    if ours.shape != theirs.shape:
        report.problems.append(f"{name} has shape {tuple(theirs.shape)}, ours {tuple(ours.shape)}")
        return
    a, b = ours.double(), theirs.double()
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        report.problems.append(f"{name} is not finite")
        return
    error = (a - b).abs()
    limit = atol + rtol * b.abs() + (max_rel * b.abs().max() if b.numel() else 0.0)
    ratio = (error / limit.clamp_min(1e-300)).max().item() if error.numel() else 0.0
    report.tensors += 1
    report.largest_error = max(report.largest_error, error.max().item() if error.numel() else 0.0)
    if ratio >= report.worst:
        report.worst, report.worst_name = ratio, name
    if ratio > 1:
        report.problems.append(f"{name} differs by {error.max().item():.3g}, {ratio:.3g} times the tolerance")


def read_json(path: Path) -> Any:
    """The document, or None where the file is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        return None


def recognise_json(path: Path, content: Any, kinds: Sequence[JsonKind]) -> JsonKind:
    fits = [k for k in kinds if k.recognises(content)]
    if len(fits) == 1:
        return fits[0]
    shown = f"its keys: {list(content)[:8]}" if isinstance(content, dict) else f"a {type(content).__name__}"
    raise ParityError(f"{path.name} is JSON of {'several kinds' if fits else 'no known kind'} ({shown}); known: {[k.name for k in kinds]}")


def check_json(path: Path, content: Any, kinds: Sequence[JsonKind]) -> Report:
    """Every leaf of the document against ours. Raises `ParityError` with the disagreements."""
    kind = recognise_json(path, content, kinds)
    report = Report(path, kind.name)
    try:
        ours = kind.compute(content)
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise ParityError(f"{path.name} ({kind.name}) cannot be computed: {type(error).__name__}: {error}") from error
    compare_json(report, "", ours, content, kind.rtol)
    if report.problems:
        raise ParityError(f"{path.name} ({kind.name}): " + "; ".join(report.problems[:20]))
    return report


def check_bytes(path: Path, data: bytes, kind: BytesKind) -> Report:
    report = Report(path, kind.name)
    try:
        kind.check(path, data, report)
    except (LookupError, ValueError, RuntimeError, TypeError, AttributeError, SightlineError) as error:
        raise ParityError(f"{path.name} cannot be read as {kind.name}: {type(error).__name__}: {error}") from error
    if report.problems:
        raise ParityError(f"{path.name} ({kind.name}): " + "; ".join(report.problems[:20]))
    return report


def compare_json(report: Report, where: str, ours: Any, theirs: Any, rtol: float) -> None:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() ^ theirs.keys()):
            report.problems.append(f"{where}.{name} is {'missing from the file' if name in ours else 'unknown to us'}")
        for name in [n for n in theirs if n in ours]:
            compare_json(report, f"{where}.{name}", ours[name], theirs[name], rtol)
    elif isinstance(ours, list | tuple) and isinstance(theirs, list):
        if len(ours) != len(theirs):
            report.problems.append(f"{where} has {len(theirs)} entries, ours {len(ours)}")
        for index, (a, b) in enumerate(zip(ours, theirs, strict=False)):
            compare_json(report, f"{where}[{index}]", a, b, rtol)
    else:
        report.values += 1
        report.problems += _leaf(report, where.lstrip("."), ours, theirs, rtol)


def _leaf(report: Report, where: str, ours: Any, theirs: Any, rtol: float) -> list[str]:
    number = isinstance(theirs, int | float) and not isinstance(theirs, bool)
    if isinstance(ours, Within):
        return [] if number and ours.low <= theirs <= ours.high else [f"{where} = {theirs!r}, ours from {ours.low!r} to {ours.high!r}"]
    if not (number and isinstance(ours, int | float) and not isinstance(ours, bool)):
        return [] if ours == theirs and type(ours) is type(theirs) else [f"{where} = {theirs!r}, ours {ours!r}"]
    error = abs(ours - theirs)
    ratio = error / (rtol * abs(theirs) or 1e-300) if error else 0.0
    report.largest_error = max(report.largest_error, error)
    if ratio >= report.worst:
        report.worst, report.worst_name = ratio, where
    return [] if ratio <= 1 else [f"{where} = {theirs!r}, ours {ours!r}"]


def same_names(what: str, ours: Iterable[str], theirs: Iterable[str]) -> None:
    """Raises `ParityError` unless both are the same names: nothing of a file may be left unread."""
    ours, theirs = set(ours), set(theirs)
    if ours != theirs:
        raise ParityError(f"{what}: the file lacks {sorted(ours - theirs)[:5]} and has unknown {sorted(theirs - ours)[:5]}")


def guarded(compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Settings that ours refuse are a file that cannot be judged."""

    def inner(given: Any) -> Any:
        try:
            return compute(given)
        except (SightlineError, AssertionError, IndexError) as error:
            if isinstance(error, ParityError):
                raise
            raise ParityError(f"cannot be computed: {type(error).__name__}: {error}") from error

    return inner
