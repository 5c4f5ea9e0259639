"""The layout of CroCo's Habitat release: `pairs.txt` with two paths a line, or a tree of `NNNNNNNN_1.jpeg`, `NNNNNNNN_2.jpeg`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import below, existing_folder, is_inside
from .found import Found
from .items import Skip
from .pairs import Pair
from .source import PairSource

LISTING = "pairs.txt"
FIRST, SECOND = "_1.jpeg", "_2.jpeg"


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
        skip = _recorder(found)
        lines = _listed(folder, skip) if (folder / LISTING).is_file() else _walked(folder, skip)
        for first, second in lines:
            stem = first.removesuffix(FIRST) if first.endswith(FIRST) else Path(first).with_suffix("").as_posix()
            found.items.append(Pair(f"{name}/{stem}", below(name, first), f"{folder}/{first}", f"{folder}/{second}"))
        return found


def _listed(folder: Path, skip: Skip) -> Iterator[tuple[str, str]]:
    with (folder / LISTING).open() as lines:
        for number, line in enumerate(lines, 1):
            names = line.rstrip("\n").split(" ")
            if len(names) != 2:
                if line.strip():
                    skip(f"{LISTING} line {number}", "a line is not two paths with one space between")
            elif not all(is_inside(n) for n in names):
                skip(f"{LISTING} line {number}", "a path leaves the folder")
            else:
                yield names[0], names[1]


def _walked(folder: Path, skip: Skip) -> Iterator[tuple[str, str]]:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpeg")}
    for name in sorted(names):
        if name.endswith(FIRST):
            second = name.removesuffix(FIRST) + SECOND
            if second in names:
                yield name, second
            else:
                skip(name, f"the other image of the pair ({SECOND}) is missing")
        elif name.endswith(SECOND) and name.removesuffix(SECOND) + FIRST not in names:
            skip(name, f"the other image of the pair ({FIRST}) is missing")


def _recorder(found: Found[Pair]) -> Skip:
    def record(what: str, why: str) -> None:
        found.skips.append((what, why))

    return record
