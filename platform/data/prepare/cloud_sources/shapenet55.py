"""ShapeNet-55, as the community shares it for pre-training on clouds."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.methods.errors import CallError

from ..clouds import CloudFile, CloudItem
from ..files import existing_folder, inside, lines_of
from ..found import ClassList, Found
from ..packed import Packed
from ..source import CloudSource


@dataclass(frozen=True)
class ShapeNet55(CloudSource):
    """`shapenet_pc/<synset>-<model>.npy` and the lists `ShapeNet-55/{train,test}.txt`; classes are the synsets."""

    reader = "shapenet55"
    help = "shapenet_pc/*.npy with the lists of ShapeNet-55"
    examples = ("./shapenet --out ./shapenet55",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        folder = existing_folder(place)
        clouds = next((sub for sub in (folder / "shapenet_pc", folder / "ShapeNet55-34" / "shapenet_pc") if sub.is_dir()), None)
        lists = next((sub for sub in (folder / "ShapeNet-55", folder / "ShapeNet55-34" / "ShapeNet-55") if sub.is_dir()), None)
        if clouds is None or lists is None:
            raise CallError(
                f"{folder} has no shapenet_pc/ and ShapeNet-55/ with train.txt and test.txt",
                "the lists lie in the Point-BERT repository, not in the archive of the clouds; put both folders side by side",
            )
        found = Found[CloudItem](self.provenance(folder), {})
        names = {part: list(inside(lines_of(lists / f"{part}.txt"), found.skips)) for part in ("train", "test")}
        found.classes = ClassList(tuple(sorted({line.partition("-")[0] for lines in names.values() for line in lines})))
        number = {synset: i for i, synset in enumerate(found.classes.names)}
        for part, lines in names.items():
            found.parts[part] = Packed(
                CloudFile(f"{name}/{line}", self.drawn(seed), label=number[line.partition("-")[0]], file=f"{clouds}/{line}")
                for line in lines
            )
        return found
