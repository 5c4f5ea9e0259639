"""ShapeNetPart: clouds whose points belong to parts."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.core.budget import parse_json

from ..clouds import CloudFile, CloudItem
from ..files import existing_file, existing_folder, inside, lines_of
from ..found import SPLITS, ClassList, Found
from ..packed import Packed
from ..source import CloudSource

PARTS = {
    **{"Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3, "Knife": 2},
    **{"Lamp": 4, "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3, "Skateboard": 3, "Table": 3},
}
"""Parts of each class; they are numbered through, in this order."""


@dataclass(frozen=True)
class ShapeNetPart(CloudSource):
    """`<synset>/<id>.txt` with x y z, normal and part, and lists of files."""

    reader = "shapenetpart"
    help = "shapenetcore_partanno_segmentation_benchmark_v0_normal, with parts"
    examples = ("./shapenetcore_partanno_segmentation_benchmark_v0_normal --out ./shapenetpart",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        folder = existing_folder(place)
        found = Found[CloudItem](self.provenance(folder), {})
        rows = [line.split() for line in lines_of(folder / "synsetoffset2category.txt")]
        if wrong := [row for row in rows if len(row) != 2 or row[0] not in PARTS]:
            raise CallError(f"{folder}/synsetoffset2category.txt: {' '.join(wrong[0])!r} is no class of ShapeNetPart", "get the file again")
        found.classes = ClassList(tuple(one for one, _ in rows))
        number = {synset: label for label, (_, synset) in enumerate(rows)}
        ends = itertools.accumulate(PARTS.values())
        of_class = {one: range(end - count, end) for (one, count), end in zip(PARTS.items(), ends, strict=True)}
        found.part_names = tuple(f"{one}/{value}" for one, values in of_class.items() for value in values)
        for part in SPLITS:
            found.parts[part] = Packed()
            for path in inside(_listed(folder / "train_test_split" / f"shuffled_{part}_file_list.json"), found.skips):
                label = number.get(path.split("/")[0])
                if label is None:
                    found.skips.append((path, "a class that synsetoffset2category.txt does not list"))
                    continue
                same = tuple((value, value) for value in of_class[found.classes.names[label]])
                found.parts[part].append(
                    CloudFile(f"{name}/{path}", self.drawn(seed), label=label, file=f"{folder}/{path}.txt", parts=same)
                )
        return found


def _listed(path: Path) -> list[str]:
    """`shape_data/<synset>/<id>` -> `<synset>/<id>`."""
    try:
        return [entry.removeprefix("shape_data/") for entry in parse_json(existing_file(path).read_bytes())]
    except (ValueError, AttributeError, TypeError) as error:
        raise CallError(f"{path} is no list of files: {error}", "download it again") from None
