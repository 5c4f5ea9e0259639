"""Files of a capture that lie under another name than the one it gives: photos that were converted, copied from another system, moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from sightline.platform.data.images import IMAGE_SUFFIXES

from ..files import Tree, is_inside, suffix_of

_SMALLER = ("images_2", "images_4", "images_8")


def present(folder: Path, files: Iterable[str]) -> dict[str, str]:
    """Named file -> the file that is meant, of those that are not there as they are named; none for which there is no candidate.

    Taken are names in other case; of a path of another machine, the end that is in the folder; where `images/` is not there, a smaller copy
    in `images_2`, `images_4` or `images_8`; and, where no photo is there as named, the one image of the same name with another suffix.
    """
    missing: dict[str, None] = {}
    any_there = False
    for file in files:
        if is_inside(file) and (folder / file).is_file():
            any_there = True
        else:
            missing[file] = None
    if not missing:
        return {}
    by_path: dict[str, str] = {}
    by_stem: dict[str, list[str]] = {}
    tree = Tree.of(folder)
    for path in sorted(path for paths in tree.folders.values() for path in paths):
        by_path.setdefault(path.lower(), path)
        if suffix_of(path) in IMAGE_SUFFIXES:
            by_stem.setdefault(_stem(path), []).append(path)
    tried = ((file, [by_path[one] for one in _candidates(file) if one in by_path]) for file in missing)
    found = {file: there[0] for file, there in tried if there}
    if found or any_there:
        return found
    stems = ((file, [by_stem[_stem(one)] for one in _candidates(file) if _stem(one) in by_stem]) for file in missing)
    return {file: alike[0][0] for file, alike in stems if alike and len(alike[0]) == 1}


def _candidates(file: str) -> Iterator[str]:
    """Paths in lower case, the likeliest first."""
    parts = PurePosixPath(file.lower()).parts
    elsewhere = not is_inside(file) or parts[0].endswith(":")  # C:/scan
    for start in range(1, len(parts)) if elsewhere else (0,):
        tail = parts[start:]
        yield "/".join(tail)
        if tail[0] == "images":
            yield from ("/".join((smaller, *tail[1:])) for smaller in _SMALLER)


def _stem(path: str) -> str:
    return path.lower().rpartition(".")[0]
