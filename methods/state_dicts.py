"""The weights in a checkpoint of whatever trainer, under the names of their own layout. Dicts in, dicts out; one for all methods.

Trainers wrap a state dict in two ways: in a dict beside other things (`model`, `state_dict`, `model_ema`, `teacher`), and by what stands
before the names (`module.` of DDP, `_orig_mod.` of torch.compile, `model.backbone.` of a Lightning module). A layout says the names of a
few tensors that it always has, its *anchors*. Names of it begin where an anchor begins, whatever stands before.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import SightlineError

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts of names that DDP, torch.compile, FSDP and activation checkpointing put in, at any place."""
_STATES = re.compile(r"optim|sched|scaler|callbacks|loops|rng|hyper_param|(^|_)(loss|args|config|amp|grads?)($|_)", re.IGNORECASE)
"""Parts of a checkpoint that hold tensors, and no weights of the network."""
_RANKS = (
    (re.compile(r"(^|[._/])(student|online)"), 3),
    (re.compile(r"(^|[._/])(\w*_)?(ema|averaged?|swa|polyak)(_\w*)?($|[._/])", re.IGNORECASE), 0),
    (re.compile(r"(^|[._/])teacher"), 2),
    (re.compile(r"(^|[._/])(momentum|target)"), 3),
)
"""Which of several places is taken first; what matches none of them has rank 1."""
_COMMON = ("model.", "net.", "network.", "backbone.", "encoder.", "teacher.", "student.")
"""Before all names of a checkpoint that has none of the anchors: it may be of another layout that a method understands."""
_DEPTH = 6
APART = re.compile(r"attention\.(query|key)\.|self_attn\.[qk]_proj\.")
"""In the names of Hugging Face's transformers."""


@dataclass(frozen=True)
class StateDict:
    """`tensors` by the names of their layout. `taken`: where in the checkpoint they lie, in words; `others`: what else could have been
    taken; `outside`: names beside them that do not lie where the layout's names begin."""

    tensors: dict[str, Tensor]
    taken: str = ""
    others: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def find(content: Mapping[str, Any], anchors: Iterable[str], least: int = 1) -> StateDict:
    """The one state dict of `content` that is taken. No tensor at all gives an empty one.

    Where there are several: an average of the weights (EMA) before the weights themselves, as timm's loader has it; a teacher before its
    student; then the one with the most tensors. A place with fewer than `least` anchors is none. Raises `SightlineError` for tensors that
    are no plain numbers (quantised, sparse).
    """
    wanted = frozenset(anchors)
    places: list[_Place] = []
    rest: list[_Place] = []
    for entry, tensors in entries(content):
        names = unwrapped(tensors)
        counts = Counter(prefix for name in names for prefix in _prefixes(name, wanted))
        places += [_Place(_rank(f"{entry}.{prefix}"), hits, entry, prefix, names) for prefix, hits in counts.items()]
        common = _common(names)
        rest.append(_Place(_rank(f"{entry}.{common}"), len(names), entry, common, names))
    most = max((place.hits for place in places), default=0)
    places = [place for place in places if 2 * place.hits >= most >= least]
    chosen = sorted(places or rest, key=lambda place: (place.rank, -place.hits, -len(place.names)))
    if not chosen:
        return StateDict({})
    _, _, entry, prefix, names = chosen[0]
    inside = {name.removeprefix(prefix): tensor for name, tensor in names.items() if name.startswith(prefix)}
    _check_plain(inside)
    outside = tuple(name for name in names if not name.startswith(prefix))
    others = tuple(_words(place.entry, place.prefix) for place in chosen[1:]) if places else ()
    return StateDict(inside, _words(entry, prefix), others, outside)


def below(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    """`content` with the tensors below `key` alone, under `model`: `model_ema`, or `state_dict.teacher` for names that begin so.

    Raises `SightlineError` that lists what there is.
    """
    found: dict[str, Tensor] = {}
    for entry, tensors in entries(content, all_of_them=True):
        for name, tensor in tensors.items():
            full = f"{entry}.{name}" if entry else name
            if full.startswith(f"{key}."):
                found[full.removeprefix(f"{key}.")] = tensor
    if not found:
        there = [f"{entry or 'the file itself'} ({len(tensors)} tensors)" for entry, tensors in entries(content, all_of_them=True)]
        raise SightlineError(f"the file has no tensors under {key!r}", f"it has {', '.join(there[:12]) or 'none at all'}")
    return {**{name: value for name, value in content.items() if name != "model" and not _holds_tensors(value)}, "model": found}


def entries(content: Mapping[str, Any], all_of_them: bool = False) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(path, tensors) of every dict that holds tensors, its path joined with dots; those of optimisers and the like where asked for."""
    seen: set[int] = set()
    waiting: list[tuple[str, Mapping[str, Any]]] = [("", content)]
    while waiting:
        path, here = waiting.pop(0)
        if id(here) in seen:
            continue
        seen.add(id(here))
        if tensors := {str(name): value for name, value in here.items() if isinstance(value, Tensor)}:
            yield path, tensors
        for name, value in here.items():
            if isinstance(value, Mapping) and path.count(".") < _DEPTH and (all_of_them or not _STATES.search(str(name))):
                waiting.append((f"{path}.{name}" if path else str(name), value))


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without `WRAPPERS` in their names; as they are where two would get one name."""
    names = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in tensors}
    if len(set(names.values())) < len(names):
        return dict(tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def fitted(name: str, tensor: Tensor, wanted: Tensor) -> Tensor:
    """`tensor` in the type of `wanted`. Raises `SightlineError` for whole numbers where real ones belong: codes of a quantised network."""
    real = tensor.is_floating_point() and tensor.element_size() > 1
    if wanted.is_floating_point() and not real:
        raise SightlineError(
            f"{name} holds {str(tensor.dtype).removeprefix('torch.')} where the network has real numbers: it is quantised",
            "take the weights before they were quantised (float32, float16 or bfloat16)",
        )
    return tensor.to(wanted.dtype)


def nothing(content: Mapping[str, Any], found: StateDict, layout: str, example: str) -> SightlineError:
    """What is said of a checkpoint in which no tensor has a name of `layout`."""
    if not found.tensors and any(True for _ in entries(content, all_of_them=True)):
        return SightlineError(
            f"none of the 0 tensors has a {layout} name: the file holds the state of an optimiser or the like, no weights",
            "name the file of weights; trainers often write them beside it",
        )
    if any(APART.search(name) for name in found.tensors):
        return SightlineError(
            f"none of the {len(found.tensors)} tensors has a {layout} name: they have the names of Hugging Face's transformers, "
            "with query, key and value apart",
            f"name a checkpoint of {layout}, or the same weights as timm publishes them (--method timm)",
        )
    return SightlineError(
        f"none of the {len(found.tensors)} tensors has a {layout} name; the first is {next(iter(found.tensors), 'absent')!r}",
        f"name a checkpoint of {layout}: names like {example!r}, whatever stands before them; or choose an entry with --key",
    )


class _Place(NamedTuple):
    rank: int
    hits: int
    entry: str
    prefix: str
    names: dict[str, Tensor]


def _prefixes(name: str, anchors: frozenset[str]) -> Iterator[str]:
    start = 0
    while True:
        if name[start:] in anchors:
            yield name[:start]
        start = name.find(".", start) + 1
        if not start:
            return


def _common(names: Mapping[str, Tensor]) -> str:
    prefix = ""
    while names and (more := next((p for p in _COMMON if all(name.startswith(prefix + p) for name in names)), "")):
        prefix += more
    return prefix


def _rank(place: str) -> int:
    return next((rank for pattern, rank in _RANKS if pattern.search(place)), 1)


def _words(entry: str, prefix: str) -> str:
    return f"{entry or 'the file itself'}{f', names after {prefix!r}' if prefix else ''}"


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()))


def _check_plain(tensors: Mapping[str, Tensor]) -> None:
    for what, wrong in (
        ("quantised", lambda t: t.is_quantized),
        ("sparse", lambda t: t.layout != torch.strided),
        ("nested", lambda t: t.is_nested),
    ):
        if named := [name for name, tensor in tensors.items() if wrong(tensor)]:  # type: ignore[no-untyped-call]
            raise SightlineError(
                f"{len(named)} tensors are {what}, the first is {named[0]!r}", "save the weights as plain tensors of float32 or bfloat16"
            )
