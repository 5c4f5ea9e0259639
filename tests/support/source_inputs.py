"""Something small to prepare for every source of `sightline prepare`, by its kind and name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from tests.support.truth_files import pfm, tagged

RECORDS = 60
Words = list[str]


def photos(folder: Path, names: list[str], size: int = 40) -> None:
    """Photos that differ."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(noise, (number % 8, number // 8), axis=(0, 1))
        Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(folder / name)


def _numbered(count: int = RECORDS, form: str = "{:04d}.png") -> list[str]:
    return [form.format(number) for number in range(count)]


def _folder(folder: Path) -> Words:
    photos(folder, _numbered())
    return [str(folder)]


def _habitat(folder: Path) -> Words:
    photos(folder, [name for number in range(RECORDS) for name in (f"{number:08d}_1.jpeg", f"{number:08d}_2.jpeg")])
    return [str(folder)]


def _crops(folder: Path) -> Words:
    photos(folder, [f"{number}_{view}.jpg" for number in range(RECORDS) for view in (1, 2)])
    (folder / "listing.txt").write_text("\n".join(map(str, range(RECORDS))))
    return [str(folder)]


def _mine(folder: Path) -> Words:
    """A model of COLMAP: a camera that walks and turns, and sees points before it."""
    names, model = _numbered(), folder / "sparse/0"
    photos(folder / "images", names)
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 PINHOLE 40 40 30 30 20 20\n")
    lines = []
    for number, name in enumerate(names):
        angle = np.radians(10 * number) / 2
        seen = " ".join(f"16 16 {point}" for point in range(8 * number, 8 * number + 64))
        lines.append(f"{number + 1} {np.cos(angle):.8f} 0 {np.sin(angle):.8f} 0 {0.1 * number:.4f} 0 0 1 {name}\n{seen}\n")
    (model / "images.txt").write_text("".join(lines))
    (model / "points3D.txt").write_text("")
    return [str(folder)]


def _walk(folder: Path) -> Words:
    """RGB-D: a camera that slides along a wall."""
    names = _numbered()
    photos(folder, [f"i{name}" for name in names], 64)
    frames = []
    for number, name in enumerate(names):
        Image.fromarray(np.full((64, 64), 2000 + number, np.uint16)).save(folder / f"d{name}")
        pose = np.eye(4)
        pose[0, 3] = 0.05 * number
        known = {"file": f"i{name}", "depth": f"d{name}", "width": 64, "height": 64, "K": [[60, 0, 31.5], [0, 60, 31.5], [0, 0, 1]]}
        frames.append({**known, "cam_to_world": pose.tolist(), "time_s": number / 10})
    (folder / "cameras.json").write_text(json.dumps({"unit": "metres", "frames": frames}))
    return [str(folder)]


def _room(folder: Path) -> Words:
    """A box seen from inside."""
    room = trimesh.creation.box((5, 4, 3)).subdivide().subdivide()
    room.invert()
    room.visual.vertex_colors = np.random.default_rng(0).integers(0, 255, (len(room.vertices), 3))
    folder.mkdir(parents=True)
    room.export(folder / "room.ply")
    return [str(folder), "--pairs-per-scene", "40", "--size", "32", "--up", "z"]


def _stereo(folder: Path) -> Words:
    for view in ("left", "right"):
        photos(folder / view, _numbered())
    (folder / "disparity").mkdir()
    for name in _numbered(form="{:04d}.pfm"):
        (folder / "disparity" / name).write_bytes(pfm(np.full((40, 40), 2.0, np.float32)))
    return [str(folder), "--accept-misfit"]


def _flow(folder: Path) -> Words:
    photos(folder, [f"{number:05d}_img{view}.png" for number in range(1, RECORDS) for view in (1, 2)])
    for number in range(1, RECORDS):
        (folder / f"{number:05d}_flow.flo").write_bytes(tagged(np.ones((40, 40, 2), np.float32)))
    return [str(folder), "--accept-misfit"]


def _classes(folder: Path) -> Words:
    photos(folder, [f"{name}/{number}.png" for name in ("ant", "bee") for number in range(RECORDS // 2)])
    return [str(folder), "--split", "train=0.7,val=0.3"]


def _masks(folder: Path) -> Words:
    photos(folder / "images", _numbered())
    (folder / "masks").mkdir()
    for number, name in enumerate(_numbered()):
        Image.fromarray(np.full((40, 40), number % 2, np.uint8)).save(folder / "masks" / name)
    (folder / "classes.txt").write_text("ground\nsky\n")
    return [str(folder), "--images", "images", "--masks", "masks"]


def _listed(folder: Path) -> Words:
    photos(folder, _numbered())
    (folder / "list.txt").write_text("\n".join(f"{name}\t{'ab'[number % 2]}" for number, name in enumerate(_numbered())))
    return [str(folder / "list.txt")]


def _pairs(folder: Path) -> Words:
    from sightline.pipelines.__main__ import main

    assert main(["prepare", "pairs", "frames", *_folder(folder / "photos"), "--out", str(folder / "set"), "--json"]) == 0
    return [str(folder / "set")]


def _cloud(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(40, 3))


def _clouds(folder: Path) -> Words:
    folder.mkdir(parents=True)
    for name in _numbered(form="{:04d}.npy"):
        np.save(folder / name, _cloud(int(name[:4])))
    return [str(folder)]


def _cloud_classes(folder: Path) -> Words:
    for name in ("cone", "cube"):
        _clouds(folder / name)
    return [str(folder)]


def _arrays(folder: Path) -> Words:
    folder.mkdir(parents=True)
    xyz = np.stack([_cloud(number) for number in range(RECORDS)])
    np.savez(folder / "clouds.npz", xyz=xyz, label=np.arange(RECORDS) % 3, split=np.arange(RECORDS) % 2)
    return [str(folder / "clouds.npz")]


def _shapenet55(folder: Path) -> Words:
    names = [f"{synset}-{number}.npy" for synset in ("02691156", "03001627") for number in range(RECORDS // 2)]
    for part in ("shapenet_pc", "ShapeNet-55"):
        (folder / part).mkdir(parents=True)
    for number, name in enumerate(names):
        np.save(folder / "shapenet_pc" / name, _cloud(number))
    (folder / "ShapeNet-55/train.txt").write_text("\n".join(names[::2]))
    (folder / "ShapeNet-55/test.txt").write_text("\n".join(names[1::2]))
    return [str(folder)]


def _modelnet40(folder: Path) -> Words:
    (folder / "cone").mkdir(parents=True)
    (folder / "modelnet40_shape_names.txt").write_text("cone\n")
    for part in ("train", "test"):
        names = [f"cone_{part}{number}" for number in range(RECORDS // 2)]
        (folder / f"modelnet40_{part}.txt").write_text("\n".join(names))
        for number, name in enumerate(names):
            cloud = _cloud(number)
            normals = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
            np.savetxt(folder / "cone" / f"{name}.txt", np.c_[cloud, normals], delimiter=",")
    return [str(folder)]


def _scanobjectnn(folder: Path) -> Words:
    import h5py

    (folder / "main_split").mkdir(parents=True)
    for part in ("training", "test"):
        for end in ("_objectdataset.h5", "_objectdataset_augmentedrot_scale75.h5"):
            with h5py.File(folder / "main_split" / f"{part}{end}", "w") as file:
                file["data"] = np.stack([_cloud(number) for number in range(RECORDS // 2)]).astype("f4")
                file["label"] = np.arange(RECORDS // 2) % 15
    return [str(folder)]


def _shapenetpart(folder: Path) -> Words:
    (folder / "train_test_split").mkdir(parents=True)
    (folder / "02773838").mkdir()
    (folder / "synsetoffset2category.txt").write_text("Bag 02773838\n")
    for part in ("train", "val", "test"):
        names = [f"{part}{number}" for number in range(RECORDS // 3)]
        for number, name in enumerate(names):
            cloud = _cloud(number)
            normals = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
            np.savetxt(folder / "02773838" / f"{name}.txt", np.c_[cloud, normals, 4 + np.arange(40) % 2])
        listed = [f"shape_data/02773838/{name}" for name in names]
        (folder / "train_test_split" / f"shuffled_{part}_file_list.json").write_text(json.dumps(listed))
    return [str(folder)]


INPUTS: dict[str, Callable[[Path], Words]] = {
    "pairs.habitat": _habitat,
    "pairs.crops": _crops,
    "pairs.mine": _mine,
    "pairs.rgbd": _walk,
    "pairs.frames": _folder,
    "pairs.rendered": lambda folder: ["--scenes", "6", "--pairs-per-scene", "3", "--size", "32", "--split", "train=0.5,val=0.5"],
    "pairs.scans": _room,
    "pairs.stereo": _stereo,
    "pairs.flow": _flow,
    "images.folder": _folder,
    "images.classes": _classes,
    "images.masks": _masks,
    "images.list": _listed,
    "images.frames": _walk,
    "images.pairs": _pairs,
    "points.folder": _clouds,
    "points.classes": _cloud_classes,
    "points.arrays": _arrays,
    "points.depth": _walk,
    "points.shapenet55": _shapenet55,
    "points.modelnet40": _modelnet40,
    "points.scanobjectnn": _scanobjectnn,
    "points.shapenetpart": _shapenetpart,
}


def run_command(words: Words, home: str, processes: bool) -> None:
    """`sightline prepare` in a process of its own group, with small shards; `processes`: shards are made in processes, however few."""
    os.setsid()
    os.environ["SIGHTLINE_HOME"] = home
    from sightline.pipelines.__main__ import main
    from sightline.platform.data.prepare import job

    job.ROWS_PER_GROUP = 4
    job.FEW_ROWS = 0 if processes else 10**9
    raise SystemExit(main(["prepare", *words]))
