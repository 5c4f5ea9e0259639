"""What the columns of a list of points are: by their names, or, without names, by what their values can be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .shapes import MAX_SCENE, PIECE, Cloud

COORDINATES = (("x", "y", "z"), ("pos_x", "pos_y", "pos_z"), ("points:0", "points:1", "points:2"), ("easting", "northing", "height"))
NORMALS = (("nx", "ny", "nz"), ("normal_x", "normal_y", "normal_z"), ("normals:0", "normals:1", "normals:2"))
PARTS = ("part", "label")
COLOURS = {"r", "g", "b", "red", "green", "blue", "rgb", "rgba", "alpha", "diffuse_red", "diffuse_green", "diffuse_blue", "a", "color"}
LAYOUTS: dict[int, tuple[tuple[str, ...], ...]] = {
    3: ((),),
    4: (("number",),),
    6: (("normal",), ("colour",)),
    7: (("normal", "number"), ("colour", "number"), ("number", "colour")),
    9: (("colour", "normal"), ("normal", "colour")),
    10: (("normal", "colour", "number"), ("number", "colour", "normal"), ("colour", "normal", "number"), ("colour", "number", "normal")),
}
"""Number of columns -> what can follow x y z where nothing names them; the first that fits holds. A number is a part, or an intensity."""
NEARLY = 0.05
"""How far the length of a normal may be from 1: files round."""
TOLD = 4


def named_cloud(columns: Mapping[str, np.ndarray], name: str) -> Cloud:
    """The cloud in columns with names, of any letter case. Raises `BrokenSampleError` without x, y, z."""
    known = {_plain(key): value for key, value in columns.items()}
    where = _first(COORDINATES, known)
    check_names(list(columns), name)
    if where is None:
        raise BrokenSampleError(f"points without x, y and z: {name} has {', '.join(columns)[:80]}")
    points, taken, left_out = _stacked(known, where), set(where), []
    normals = None
    if (directions := _first(NORMALS, known)) is not None:
        taken |= set(directions)
        normals = _stacked(known, directions)
        if not unit(normals):
            left_out.append("normals, which are no unit vectors" if normals.any() else "normals, which are all zero")
            normals = None
    part = next((known[key] for key in PARTS if key in known), None)
    taken |= {key for key in PARTS if key in known and known[key] is part}
    if part is not None and not _whole(part):
        part = None
        left_out.append("label")
    others = [key for key in known if key not in taken]
    if any(key in COLOURS for key in others):
        left_out.append("colour")
    rest = [key for key in others if key not in COLOURS and key]
    left_out += [*rest[:TOLD], *([f"{len(rest) - TOLD} more"] if len(rest) > TOLD else [])]
    return Cloud(points, normals, part, tuple(left_out))


def nameless_cloud(table: np.ndarray, name: str) -> Cloud:
    """The cloud in the columns of `table`, n x k: x y z, and what `LAYOUTS` has for their number.

    Raises `BrokenSampleError` for other numbers of columns and for values that are none of it: three numbers after x y z are normals
    where they are unit vectors, and colours where they are 0 to 255 or 0 to 1.
    """
    if table.dtype.kind not in "fiu" or table.ndim != 2 or table.shape[1] not in LAYOUTS or not len(table):
        *most, last = LAYOUTS
        turned = "; it looks transposed" if table.ndim == 2 and table.shape[0] in (3, 6) and table.shape[1] > 10 else ""
        raise BrokenSampleError(
            f"not {', '.join(map(str, most))} or {last} columns of numbers: {name} has shape {table.shape} of {table.dtype}{turned}"
        )
    if len(table) > MAX_SCENE:
        raise BrokenSampleError(f"a list of more than {MAX_SCENE:,} points: {name} has {len(table):,}")
    if table.shape[1] > 3 and len(table) > 2 and table[0, 0] in (0, 1) and (np.diff(table[:, 0]) == 1).all():
        raise BrokenSampleError(f"its first column counts the rows: {name}; take it out, or name the columns in a first line")
    for layout in LAYOUTS[table.shape[1]]:
        at, found = 3, dict[str, np.ndarray]()
        for what in layout:
            width = 1 if what == "number" else 3
            found[what], at = table[:, at : at + width], at + width
        if ("normal" not in found or (unit(found["normal"]) and not _grey(found["normal"]))) and (
            "colour" not in found or _colour(found["colour"])
        ):
            number = found["number"][:, 0] if "number" in found else None
            part = number if number is not None and _whole(number) else None
            left_out = (["colour"] if "colour" in found else []) + (["a column of numbers"] if number is not None and part is None else [])
            return Cloud(table[:, :3], found.get("normal"), part, tuple(left_out))
    vectors = table[:, 3:6]
    raise BrokenSampleError(
        "columns 4 to 6 are neither unit normals nor colours (0 to 255, or 0 to 1): "
        f"{name}, {_lengths(vectors)}, values {vectors.min():.3g} to {vectors.max():.3g}"
        f"; {'a header that names the columns tells what they are' if table.shape[1] != 6 else 'scale normals to length 1'}"
    )


def check_names(names: Sequence[str], name: str) -> None:
    """Raises `BrokenSampleError` where two columns are called x, y or z: either could be meant."""
    plain = list(map(_plain, names))
    if twice := next((one for three in COORDINATES for one in three if plain.count(one) > 1), None):
        raise BrokenSampleError(f"two columns are named {twice}: {name} has {', '.join(names)[:80]}")


def names_coordinates(names: Iterable[str]) -> bool:
    """Whether x, y and z are among the names."""
    return _first(COORDINATES, dict.fromkeys(map(_plain, names), np.empty(0))) is not None


def _plain(name: str) -> str:
    """A name in lower case, without its unit: `X [m]`."""
    return re.sub(r"\s*[(\[].*", "", name.strip().lower())


def _first(names: tuple[tuple[str, ...], ...], known: Mapping[str, np.ndarray]) -> tuple[str, ...] | None:
    return next((three for three in names if all(key in known for key in three)), None)


def _stacked(known: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    return np.column_stack([known[key] for key in names])


def unit(vectors: np.ndarray) -> bool:
    """Whether vectors n x 3 are normals: nearly all of them have length 1; some may be zero, which means that no normal is known."""
    given = near = 0
    for part in _pieces(vectors):
        lengths = np.linalg.norm(part.astype(np.float64), axis=1)
        given += int(np.count_nonzero(lengths))
        near += int(np.count_nonzero(np.abs(lengths - 1) <= NEARLY))
    return given > 0 and near >= 0.95 * given and given * 2 > len(vectors)


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    return (values[at : at + PIECE] for at in range(0, len(values), PIECE))


def _grey(vectors: np.ndarray) -> bool:
    return all((part == part[:, :1]).all() for part in _pieces(vectors))


def _colour(vectors: np.ndarray) -> bool:
    if not all(np.isfinite(part).all() for part in _pieces(vectors)):
        return False
    return bool(vectors.min() >= 0 and (vectors.max() <= 255 or (vectors.max() <= 65535 and _whole(vectors))))


def _whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" or all(bool((np.isfinite(part) & (part == np.floor(part))).all()) for part in _pieces(values))


def _lengths(vectors: np.ndarray) -> str:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return f"lengths {lengths.min():.3g} to {lengths.max():.3g}"
