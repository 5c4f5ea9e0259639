"""Checks that the objects of a method are what `protocols.py` asks for. A misspelt ability is an error, not an ability that is absent."""

from __future__ import annotations

import inspect
from collections.abc import Collection

from .errors import SightlineError
from .protocols import (
    ENCODER_ABILITIES,
    PRETEXT_ABILITIES,
    VIEWS_ABILITIES,
    HasPredictor,
    ImageEncoder,
    PointEncoder,
    Predictor,
    Pretext,
    TakesPoints,
    members,
)

LONG = 12
"""Names of so many letters may differ by two and still be taken for each other."""


def check_views(views: object) -> None:
    """Raises `SightlineError` where views cannot be called or have a member that is nearly an ability."""
    if not callable(views):
        raise SightlineError(f"{type(views).__name__} has no method '__call__', which views need", "see methods/protocols.py")
    _check_names(views, VIEWS_ABILITIES)


def check_pretext(pretext: object) -> None:
    """Raises `SightlineError` where a pretext lacks a required member, or has one that is nearly an ability."""
    _check_required(pretext, Pretext)
    _check_names(pretext, PRETEXT_ABILITIES)
    if isinstance(pretext, HasPredictor):
        _check_required(pretext.predictor, Predictor, "of a `predictor`; if it is something else, give it another name")


def check_encoder(encoder: object) -> None:
    """Raises `SightlineError` where an encoder lacks a required member, or has one that is nearly an ability."""
    if not isinstance(encoder, Predictor):
        _check_required(encoder, PointEncoder if isinstance(encoder, TakesPoints) else ImageEncoder)
    _check_names(encoder, ENCODER_ABILITIES)


def _check_required(thing: object, protocol: type, what: str = "") -> None:
    if missing := sorted(name for name in members(protocol) if not hasattr(thing, name)):
        near = [name for name in _own_names(thing) if _alike(name, missing[0])]
        hint = f"it has {near[0]!r}: did you mean {missing[0]!r}?" if near else "see methods/protocols.py"
        raise SightlineError(f"{type(thing).__name__} lacks {', '.join(missing)} {what or f'of a {protocol.__name__}'}", hint)


def _check_names(thing: object, abilities: Collection[type]) -> None:
    """Methods are compared with the methods of the contract, attributes with its attributes.

    Only an ability that lacks a single member is nearly there. An encoder with `depths` and nothing of `HasLayers` means something else.
    """
    for ability in abilities:
        missing = [name for name in members(ability) if not hasattr(thing, name)]
        if len(missing) != 1:
            continue
        (wanted,) = missing
        for name, is_method in _own_names(thing).items():
            if is_method == inspect.isfunction(getattr(ability, wanted, None)) and _alike(name, wanted):
                raise SightlineError(
                    f"{type(thing).__name__}: {name!r} is no member of the contract: did you mean {wanted!r}?",
                    f"call it {wanted!r}, or something less alike if it has nothing to do with {ability.__name__}",
                )


def _own_names(thing: object) -> dict[str, bool]:
    """Public members, without those that every `nn.Module` has -> whether it is a method."""
    classes = [kind for kind in type(thing).__mro__ if kind is not object and not kind.__module__.startswith("torch.")]
    own = getattr(thing, "__dict__", {})
    names = {name: inspect.isfunction(value) for kind in reversed(classes) for name, value in vars(kind).items()}
    names |= dict.fromkeys([*own, *own.get("_modules", ())], False)
    return {name: is_method for name, is_method in names.items() if not name.startswith("_")}


def _alike(one: str, other: str) -> bool:
    """Whether one letter is missing, added, wrong or in its neighbour's place; two such errors in long names."""
    allowed = 1 + (min(len(one), len(other)) >= LONG)
    return abs(len(one) - len(other)) <= allowed and 0 < distance(one, other) <= allowed


def distance(one: str, other: str) -> int:
    """Letters to insert, delete, replace or swap with their neighbour (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, a in enumerate(one, 1):
        rows.append([i])
        for j, b in enumerate(other, 1):
            best = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (a != b))
            if i > 1 and j > 1 and (a, b) == (other[j - 2], one[i - 2]):
                best = min(best, rows[i - 2][j - 2] + 1)
            rows[i].append(best)
    return rows[-1][-1]
