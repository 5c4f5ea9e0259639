"""The layouts in which the community shares its clouds, and by which word `prepare points` knows each source."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.manifest import Source

from .cloud_arrays import array_names, cloud_count, find_arrays, labels_of
from .cloud_folders import find_classes, find_depth, find_folder
from .clouds import CloudFile, CloudInArray, Drawn, FoundClouds, existing_file
from .images import SPLITS
from .items import existing_folder, is_inside


def find_shapenet55(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """`shapenet_pc/<synset>-<model>.npy` and the lists `ShapeNet-55/{train,test}.txt`; classes are the synsets."""
    folder = existing_folder(place)
    clouds = next((sub for sub in (folder / "shapenet_pc", folder / "ShapeNet55-34" / "shapenet_pc") if sub.is_dir()), None)
    lists = next((sub for sub in (folder / "ShapeNet-55", folder / "ShapeNet55-34" / "ShapeNet-55") if sub.is_dir()), None)
    if clouds is None or lists is None:
        raise CallError(
            f"{folder} has no shapenet_pc/ and ShapeNet-55/ with train.txt and test.txt",
            "the lists lie in the Point-BERT repository, not in the archive of the clouds; put both folders side by side",
        )
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="shapenet55"))
    names = {part: list(_inside(_lines(lists / f"{part}.txt"), found)) for part in ("train", "test")}
    found.classes = tuple(sorted({line.partition("-")[0] for lines in names.values() for line in lines}))
    number = {synset: i for i, synset in enumerate(found.classes)}
    for part, lines in names.items():
        found.parts[part] = [
            CloudFile(f"{name}/{line}", drawn, label=number[line.partition("-")[0]], file=f"{clouds}/{line}") for line in lines
        ]
    return found


def find_modelnet40(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """`modelnet40_normal_resampled`: `<class>/<id>.txt` and the lists `modelnet40_{train,test}.txt` of ids."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="modelnet40"))
    found.classes = tuple(_lines(folder / "modelnet40_shape_names.txt"))
    number = {one: i for i, one in enumerate(found.classes)}
    for part in ("train", "test"):
        found.parts[part] = []
        for line in _inside(_lines(folder / f"modelnet40_{part}.txt"), found):
            one = line.rpartition("_")[0]
            if one not in number:
                found.skips.append((line, "a class that modelnet40_shape_names.txt does not list"))
                continue
            found.parts[part].append(CloudFile(f"{name}/{line}", drawn, label=number[one], file=f"{folder}/{one}/{line}.txt"))
    return found


SCANOBJECTNN = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
VARIANTS = {
    "obj_bg": ("main_split", "_objectdataset.h5"),
    "obj_only": ("main_split_nobg", "_objectdataset.h5"),
    "pb_t50_rs": ("main_split", "_objectdataset_augmentedrot_scale75.h5"),
}


def find_scanobjectnn(place: str, name: str, licence: str, drawn: Drawn, *, variant: str = "obj_bg") -> FoundClouds:
    """`main_split/{training,test}_objectdataset.h5` and its like: `data`, `label`."""
    folder = existing_folder(place)
    sub, ending = VARIANTS[variant]
    note = f"variant {variant}; as they are stored: neither centred nor scaled"
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="scanobjectnn", notes=(note,)), classes=SCANOBJECTNN)
    for part, theirs in (("train", "training"), ("test", "test")):
        path = existing_file(folder / sub / f"{theirs}{ending}")
        names = array_names(path)
        if lacking := [key for key in ("data", "label") if key not in names]:
            raise CallError(f"{path} has no array {lacking[0]!r}; it has {', '.join(sorted(names)) or 'none'}", "download it again")
        count = cloud_count(path, "data")
        labels = labels_of(path, "label", names, count, SCANOBJECTNN)
        found.parts[part] = [
            CloudInArray(f"{name}/{part}/{i:06d}", drawn, None, labels[i], file=str(path), points_key="data", index=i) for i in range(count)
        ]
    return found


SHAPENETPART = {
    **{"Airplane": 4, "Bag": 2, "Cap": 2, "Car": 4, "Chair": 4, "Earphone": 3, "Guitar": 3, "Knife": 2},
    **{"Lamp": 4, "Laptop": 2, "Motorbike": 6, "Mug": 2, "Pistol": 3, "Rocket": 3, "Skateboard": 3, "Table": 3},
}
"""Parts of each class; they are numbered through, in this order."""


def find_shapenetpart(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """`shapenetcore_partanno_segmentation_benchmark_v0_normal`: `<synset>/<id>.txt` with x y z, normal and part, and lists of files."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="shapenetpart"))
    rows = [line.split() for line in _lines(folder / "synsetoffset2category.txt")]
    if wrong := [row for row in rows if len(row) != 2 or row[0] not in SHAPENETPART]:
        raise CallError(f"{folder}/synsetoffset2category.txt: {' '.join(wrong[0])!r} is no class of ShapeNetPart", "get the file again")
    found.classes = tuple(one for one, _ in rows)
    number = {synset: label for label, (_, synset) in enumerate(rows)}
    ends = itertools.accumulate(SHAPENETPART.values())
    of_class = {one: range(end - count, end) for (one, count), end in zip(SHAPENETPART.items(), ends, strict=True)}
    found.part_names = tuple(f"{one}/{value}" for one, values in of_class.items() for value in values)
    for part in SPLITS:
        found.parts[part] = []
        for path in _inside(_listed(folder / "train_test_split" / f"shuffled_{part}_file_list.json"), found):
            label = number.get(path.split("/")[0])
            if label is None:
                found.skips.append((path, "a class that synsetoffset2category.txt does not list"))
                continue
            same = tuple((value, value) for value in of_class[found.classes[label]])
            found.parts[part].append(CloudFile(f"{name}/{path}", drawn, label=label, file=f"{folder}/{path}.txt", parts=same))
    return found


def _listed(path: Path) -> list[str]:
    """`shape_data/<synset>/<id>` -> `<synset>/<id>`."""
    try:
        return [entry.removeprefix("shape_data/") for entry in json.loads(existing_file(path).read_text())]
    except (ValueError, AttributeError, TypeError) as error:
        raise CallError(f"{path} is no list of files: {error}", "download it again") from None


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in existing_file(path).read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise CallError(f"{path} is no list of names: it is not text", "get the file again") from None


def _inside(lines: list[str], found: FoundClouds) -> Iterator[str]:
    for line in lines:
        if is_inside(line):
            yield line
        else:
            found.skips.append((line, "a path that leaves the folder"))


Finder = Callable[..., FoundClouds]
FINDERS: dict[str, Finder] = {
    "folder": find_folder,
    "classes": find_classes,
    "arrays": find_arrays,
    "depth": find_depth,
    "shapenet55": find_shapenet55,
    "modelnet40": find_modelnet40,
    "scanobjectnn": find_scanobjectnn,
    "shapenetpart": find_shapenetpart,
}
