"""ModelNet40 as lists of points with normals."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.methods.errors import CallError

from ..clouds import CloudFile, CloudItem
from ..files import existing_folder, inside, lines_of
from ..found import ClassList, Found
from ..packed import Packed
from ..source import CloudSource


@dataclass(frozen=True)
class ModelNet40(CloudSource):
    """`<class>/<id>.txt` and the lists `modelnet40_{train,test}.txt` of ids."""

    reader = "modelnet40"
    help = "modelnet40_normal_resampled"
    examples = ("./modelnet40_normal_resampled --out ./modelnet40",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        folder = existing_folder(place)
        if not (folder / "modelnet40_shape_names.txt").is_file() and any(folder.glob("ply_data_train*.h5")):
            raise CallError(f"{folder} is ModelNet40 in HDF5", f"sightline prepare points arrays {place} ... reads it")
        found = Found[CloudItem](self.provenance(folder), {})
        found.classes = ClassList(tuple(lines_of(folder / "modelnet40_shape_names.txt")))
        number = {one: i for i, one in enumerate(found.classes.names)}
        for part in ("train", "test"):
            found.parts[part] = Packed()
            for line in inside(lines_of(folder / f"modelnet40_{part}.txt"), found.skips):
                one = line.rpartition("_")[0]
                if one not in number:
                    found.skips.append((line, "a class that modelnet40_shape_names.txt does not list"))
                    continue
                found.parts[part].append(
                    CloudFile(f"{name}/{line}", self.drawn(seed), label=number[one], file=f"{folder}/{one}/{line}.txt")
                )
        return found
