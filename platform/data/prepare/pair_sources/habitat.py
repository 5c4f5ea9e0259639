"""The layout of CroCo's Habitat release: `pairs.txt` with two paths a line, or a tree of `NNNNNNNN_1.jpeg`, `NNNNNNNN_2.jpeg`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sightline.platform.data.images import IMAGE_SUFFIXES

from ..files import Tree, below, counted, existing_folder, is_file, is_inside, suffix_of
from ..found import Found
from ..lists import numbered_lines, two_paths
from ..pairs import Pair
from ..source import PairSource

LISTING = "pairs.txt"
FIRST = "_1.jpeg"
_VIEW = re.compile(r"^(.+)_(\d+)$")


@dataclass(frozen=True)
class Habitat(PairSource):
    """Without `pairs.txt` the tree is walked; folders that contain `val` in their path count like any other (the authors' index script
    leaves out everything under a path with `val` in it, parents of the data included)."""

    reader = "habitat"
    help = "Habitat pairs as the authors of cross-view completion publish them: pairs.txt, or a tree of *_1.jpeg and *_2.jpeg"
    examples = ("./habitat_release --out ./habitat",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[Pair]:
        folder = existing_folder(place)
        found = Found[Pair](self.provenance(folder))
        listed = (folder / LISTING).is_file()
        pairs = _listed(folder, found) if listed else _walked(folder, found)
        for first, second in pairs:
            stem = first[: len(first) - len(suffix_of(first))]
            stem = stem.removesuffix("_1") if first.endswith(FIRST) or not listed else stem
            found.items.append(Pair(f"{name}/{stem}", below(name, first), f"{folder}/{first}", f"{folder}/{second}"))
        return found


def _listed(folder: Path, found: Found[Pair]) -> Iterator[tuple[str, str]]:
    more = 0
    for number, line in numbered_lines(folder / LISTING):
        names = two_paths(line, lambda name: is_inside(name) and is_file(folder / name))
        if names is None:
            found.skips.append((f"{LISTING} line {number}", "a line is not two paths"))
        elif not (is_inside(names[0]) and is_inside(names[1])):
            found.skips.append((f"{LISTING} line {number}", "a path leaves the folder"))
        else:
            more += names[2]
            yield names[0], names[1]
    if more:
        found.notes.append(f"{more:,} line(s) of {LISTING} have more than two columns; the others are not read")


def _walked(folder: Path, found: Found[Pair]) -> Iterator[tuple[str, str]]:
    tree = Tree.of(folder)
    views: dict[str, dict[int, str]] = {}
    others: Counter[str] = Counter()
    for path in tree.take(IMAGE_SUFFIXES):
        suffix = suffix_of(path)
        view = _VIEW.match(path[: len(path) - len(suffix)])
        if view is None:
            others[f"{suffix} without _1 or _2 in its name"] += 1
        elif int(view[2]) not in (1, 2):
            others[f"_{view[2]}{suffix}"] += 1
        else:
            views.setdefault(f"{view[1]}_1{suffix}", {})[int(view[2])] = path
    for of_view in (views[key] for key in sorted(views)):
        if len(of_view) == 2:
            yield of_view[1], of_view[2]
        else:
            there, missing = (1, 2) if 1 in of_view else (2, 1)
            path = of_view[there]
            found.skips.append((path, f"the other image of the pair (_{missing}{suffix_of(path)}) is missing"))
    if others:
        found.notes.append(f"not read in {folder.name}, because a pair is made of _1 and _2: {counted(others)}")
    found.count(tree)
