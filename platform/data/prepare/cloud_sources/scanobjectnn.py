"""ScanObjectNN: scans of real objects in HDF5 files."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.methods.errors import CallError

from ..clouds import CloudInArray, CloudItem
from ..files import existing_file, existing_folder
from ..found import ClassList, Found
from ..options import option
from ..packed import Packed
from ..source import CloudSource
from .arrays import array_names, cloud_count, labels_of

CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
VARIANTS = {
    "obj_bg": ("main_split", "_objectdataset.h5"),
    "obj_only": ("main_split_nobg", "_objectdataset.h5"),
    "pb_t50_rs": ("main_split", "_objectdataset_augmentedrot_scale75.h5"),
}


@dataclass(frozen=True)
class ScanObjectNN(CloudSource):
    """`main_split/{training,test}_objectdataset.h5` and its like: `data`, `label`."""

    reader = "scanobjectnn"
    help = "main_split/*.h5"
    examples = ("./h5_files --variant pb_t50_rs --out ./scans",)

    variant: str = option("obj_bg", "default: %(default)s", choices=tuple(VARIANTS))

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        folder = existing_folder(place)
        sub, ending = VARIANTS[self.variant]
        note = f"variant {self.variant}; as they are stored: neither centred nor scaled"
        found = Found[CloudItem](self.provenance(folder, note), {}, ClassList(CLASSES))
        for part, theirs in (("train", "training"), ("test", "test")):
            path = existing_file(folder / sub / f"{theirs}{ending}")
            names = array_names(path)
            if lacking := [key for key in ("data", "label") if key not in names]:
                raise CallError(f"{path} has no array {lacking[0]!r}; it has {', '.join(sorted(names)) or 'none'}", "download it again")
            count = cloud_count(path, "data")
            labels = labels_of(path, "label", names, count, CLASSES)
            found.parts[part] = Packed(
                CloudInArray(f"{name}/{part}/{i:06d}", self.drawn(seed), None, labels[i], file=str(path), points_key="data", index=i)
                for i in range(count)
            )
        return found
