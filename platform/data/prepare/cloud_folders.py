"""Where clouds lie: folders, class folders, arrays, depth images, and the layouts that the community uses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sightline.methods.errors import CallError

from ..manifest import Source
from .cameras import read_cameras
from .clouds import CloudFile, CloudFromDepth, CloudInArray, Drawn, FoundClouds, existing_file, read_array
from .folders import own_splits
from .images import SPLITS, WHOLE
from .items import existing_folder, is_inside, natural
from .meshes import PICKLES, SUFFIXES


def clouds_below(folder: Path) -> list[str]:
    """The clouds in a folder and in all folders below it, as relative paths in natural order; hidden ones are left out."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted((path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)), key=natural)


def find_folder(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """Every cloud in a folder and below it, without labels."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="folder"), {WHOLE: []})
    found.parts[WHOLE] = [CloudFile(f"{name}/{path}", drawn, file=f"{folder}/{path}") for path in clouds_below(folder)]
    return found


def find_classes(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """`CLASS/...`, `train/CLASS/...` or ModelNet's `CLASS/train/...`. Raises `CallError` for fewer than two classes."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="classes"))
    splits = own_splits(folder)
    classes = sorted({sub.name for top in [folder / s for s in splits] or [folder] for sub in _folders(top)})
    if len(classes) < 2:
        raise CallError(
            f"{folder} has {'a single class folder: ' + classes[0] if classes else 'no class folders'}; labels need two classes or more",
            f"for clouds without labels: sightline prepare points folder {place} ...",
        )
    found.classes = tuple(classes)
    for label, one in enumerate(classes):
        inner = () if splits else tuple(s for s in SPLITS if (folder / one / s).is_dir())
        places = (
            {split: folder / split / one for split in splits} or {split: folder / one / split for split in inner} or {WHOLE: folder / one}
        )
        for part, where in places.items():
            found.parts.setdefault(part, [])
            if where.is_dir():
                below = where.relative_to(folder).as_posix()
                found.parts[part] += [
                    CloudFile(f"{name}/{below}/{path}", drawn, label=label, file=f"{where}/{path}") for path in clouds_below(where)
                ]
    if WHOLE in found.parts and len(found.parts) > 1:
        raise CallError(f"some classes of {folder} have folders of splits, others have none", "give all of them train/ and test/, or none")
    return found


def _folders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def find_arrays(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """An `.npz` or HDF5 file of clouds side by side: `xyz`, `points` or `data` (clouds x points x 3), with `label`, `part`, `split`, and
    names in `classes` and `parts`; or one such array for each split, `train_xyz` and `test_xyz`."""
    path = existing_file(place)
    if path.suffix.lower() in PICKLES:
        raise CallError(f"{path.name} is a pickle, which is never opened", "convert it to .npz or HDF5")
    names = _arrays(path)
    found = FoundClouds(Source(where=str(path), licence=licence, reader="arrays"))
    found.classes = _texts(path, "classes", names)
    found.part_names = _texts(path, "parts", names)
    whole = next((key for key in ("xyz", "points", "data") if key in names), None)
    if whole:
        labels = _labels(path, "label", names)
        split = read_array(str(path), "split").reshape(-1) if "split" in names else None
        part = "part" if "part" in names and found.part_names else ""
        for index in range(len(read_array(str(path), whole))):
            where = WHOLE if split is None else ("train", "test")[int(split[index])]
            label = None if labels is None else labels[index]
            item = CloudInArray(f"{name}/{index:06d}", drawn, None, label, file=str(path), points_key=whole, part_key=part, index=index)
            found.parts.setdefault(where, []).append(item)
        return found
    for split_name in SPLITS:
        key = next((f"{split_name}_{end}" for end in ("xyz", "points", "data") if f"{split_name}_{end}" in names), None)
        if key is None:
            continue
        labels = _labels(path, f"{split_name}_label", names)
        found.parts[split_name] = [
            CloudInArray(
                f"{name}/{split_name}/{index:06d}",
                drawn,
                None,
                None if labels is None else labels[index],
                file=str(path),
                points_key=key,
                index=index,
            )
            for index in range(len(read_array(str(path), key)))
        ]
    if not found.parts:
        raise CallError(
            f"{path} has no array of clouds; it has {', '.join(sorted(names)[:8])}",
            "name it xyz, points or data, or train_xyz and test_xyz",
        )
    return found


def _arrays(path: Path) -> set[str]:
    if path.suffix.lower() == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return set(archive.files)
    import h5py

    try:
        with h5py.File(path, "r") as archive:
            return {key for key in archive if isinstance(archive.get(key), h5py.Dataset)}
    except OSError as error:
        raise CallError(f"{path} cannot be read as HDF5: {error}", "name an .npz or HDF5 file") from None


def _texts(path: Path, key: str, names: set[str]) -> tuple[str, ...]:
    if key not in names:
        return ()
    values = read_array(str(path), key)
    return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist())


def _labels(path: Path, key: str, names: set[str]) -> list[int] | None:
    return [int(value) for value in read_array(str(path), key).reshape(-1)] if key in names else None


def find_depth(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """One cloud for each frame of `cameras.json` that names a depth image, in the axes of its camera."""
    folder = existing_folder(place)
    cameras = read_cameras(folder)
    frames = [frame for frame in cameras.frames if frame.depth] if cameras else []
    if not frames:
        raise CallError(f"{folder} has no cameras.json whose frames name depth images", "docs/data.md describes the format")
    notes = ("seen from the camera: x right, y up, z towards it; metres",)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="depth", notes=notes), {WHOLE: []})
    for number, frame in enumerate(sorted(frames, key=lambda f: natural(f.file))):
        if frame.intrinsics is None:
            found.skips.append((frame.file, "no intrinsics"))
            continue
        item = CloudFromDepth(f"{name}/{frame.file}", drawn, name, None, number, depth=f"{folder}/{frame.depth}", K=frame.intrinsics)
        found.parts[WHOLE].append(item)
    return found


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
        labels = _labels(path, "label", _arrays(path))
        if labels is None:
            raise CallError(f"{path} has no array 'label'; it has {', '.join(sorted(_arrays(path)))}", "download it again")
        found.parts[part] = [
            CloudInArray(f"{name}/{part}/{i:06d}", drawn, None, labels[i], file=str(path), points_key="data", index=i)
            for i in range(len(read_array(str(path), "data")))
        ]
    return found


def find_shapenetpart(place: str, name: str, licence: str, drawn: Drawn) -> FoundClouds:
    """`shapenetcore_partanno_segmentation_benchmark_v0_normal`: `<synset>/<id>.txt` with x y z, normal and part, and lists of files."""
    folder = existing_folder(place)
    found = FoundClouds(Source(where=str(folder), licence=licence, reader="shapenetpart"))
    rows = [line.split() for line in _lines(folder / "synsetoffset2category.txt")]
    synsets = {synset: one for one, synset in rows}
    found.classes = tuple(one for one, _ in rows)
    number = {synset: i for i, (_, synset) in enumerate(rows)}
    files = {part: _listed(folder / "train_test_split" / f"shuffled_{part}_file_list.json") for part in SPLITS}
    used = _parts_of(folder, files["train"], set(synsets))
    names = [(synset, value) for _, synset in rows for value in sorted(used.get(synset, ()))]
    found.part_names = tuple(f"{synsets[synset]}/{value}" for synset, value in names)
    index = {pair: i for i, pair in enumerate(names)}
    of_class = {synset: tuple((value, i) for (s, value), i in index.items() if s == synset) for synset in synsets}
    for part, listed in files.items():
        found.parts[part] = [
            CloudFile(
                f"{name}/{path}", drawn, label=number[path.split("/")[0]], file=f"{folder}/{path}.txt", parts=of_class[path.split("/")[0]]
            )
            for path in _inside(listed, found)
            if path.split("/")[0] in number
        ]
    return found


def _parts_of(folder: Path, listed: list[str], synsets: set[str]) -> dict[str, set[int]]:
    """The part numbers of each class: those of a hundred of its training shapes."""
    used: dict[str, set[int]] = {}
    seen: dict[str, int] = {}
    for path in listed:
        synset = path.split("/")[0]
        if synset in synsets and seen.get(synset, 0) < 100 and is_inside(path) and (folder / f"{path}.txt").is_file():
            seen[synset] = seen.get(synset, 0) + 1
            used.setdefault(synset, set()).update(int(v) for v in np.unique(np.loadtxt(folder / f"{path}.txt", usecols=-1, ndmin=1)))
    return used


def _listed(path: Path) -> list[str]:
    """`shape_data/<synset>/<id>` -> `<synset>/<id>`."""
    try:
        return [entry.removeprefix("shape_data/") for entry in json.loads(existing_file(path).read_text())]
    except (ValueError, AttributeError) as error:
        raise CallError(f"{path} is no list of files: {error}", "download it again") from None


def _lines(path: Path) -> list[str]:
    return [line for line in existing_file(path).read_text().splitlines() if line.strip()]


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
