"""Depth maps, masks and smaller copies are left out and counted; photos that only look like them stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import CallError
from sightline.platform.data.prepare.companions import companions, take_photos
from sightline.platform.data.prepare.files import Tree
from sightline.platform.data.prepare.pair_sources.frames import sequences


def _photo(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def _made(kind: str, seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    photo = _photo(seed, size)
    if kind == "deep":
        return Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 200)
    return {"photo": photo, "palette": photo.quantize(5), "grey": photo.convert("L")}[kind]


def _write(root: Path, **files: str | tuple[str, int, tuple[int, int]]) -> None:
    for name, what in files.items():
        kind, seed, size = what if isinstance(what, tuple) else (what, sum(name.encode()), (96, 64))
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _made(kind, seed, size).save(path)


def _kept(root: Path) -> list[str]:
    return take_photos(Tree.of(root))


MAPS = {
    "7-Scenes and 3DMatch": ["f0.color.png photo", "f1.color.png photo", "f0.depth.png deep", "f1.depth.png deep"],
    "depth as 8 bits beside its photo": ["IMG_1.jpg photo", "IMG_2.jpg photo", "IMG_1_depth.jpg grey", "depth_IMG_2.jpg grey"],
    "TUM: other names in depth/": ["rgb/1.17.png photo", "rgb/1.20.png photo", "depth/1.16.png deep", "depth/1.19.png deep"],
    "TUM with 8-bit depth": ["rgb/1.17.png photo", "rgb/1.20.png photo", "depth/1.16.png grey", "depth/1.19.png grey"],
    "ScanNet below scenes": ["s1/color/0.jpg photo", "s2/color/0.jpg photo", "s1/depth/0.png deep", "s2/depth/0.png deep"],
    "depth without a name": ["a/1.png photo", "a/2.png photo", "b/7.png deep"],
    "VOC": ["JPEGImages/1.jpg photo", "JPEGImages/2.jpg photo", "SegmentationClass/1.png palette", "SegmentationObject/2.png palette"],
    "palette masks without a name": ["a/1.jpg photo", "a/2.jpg photo", "b/1.png palette", "b/2.png palette"],
    "masks with the same stem": ["1.jpg photo", "2.jpg photo", "1.png grey", "2.png palette"],
    "coloured masks by name": ["0001TP_1.png photo", "0001TP_2.png photo", "0001TP_1_mask.png photo", "0001TP_2-labels.png photo"],
    "several masks of a photo": ["tumour (1).png photo", "tumour (2).png photo", "tumour (1)_mask.png grey", "tumour (2)_mask_1.png photo"],
    "ground truth": ["1.png photo", "2.png photo", "1_gt.png grey", "2_gt.png grey"],
    "normals beside rgb": ["rgb/1.jpg photo", "rgb/2.jpg photo", "normal/1.jpg photo", "normal/2.jpg photo"],
    "Middlebury": ["left.png photo", "right.png photo", "disp_left.png grey", "mask_nonocc.png grey"],
    "Washington RGB-D": ["apple_1_crop.png photo", "apple_2_crop.png photo", "apple_1_depth_crop.png deep", "apple_2_mask_crop.png grey"],
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_photos_are_left_out(tmp_path: Path, name: str) -> None:
    _write(tmp_path, **dict(line.rsplit(" ", 1) for line in MAPS[name]))
    assert sorted(_kept(tmp_path)) == sorted(line.rsplit(" ", 1)[0] for line in MAPS[name][:2])


PHOTOS = {
    "words that photos may have": ["normal/1.jpg photo", "normal/2.jpg photo", "tumour/1.jpg photo", "tumour/2.jpg photo"],
    "16-bit throughout": ["a.png deep", "b.png deep"],
    "palette throughout": ["a.png palette", "b.gif palette"],
    "mostly 16-bit": ["a.png deep", "b.png deep", "c.png deep", "d.jpg photo"],
    "16-bit and 8-bit grey": ["a.png deep", "b.png grey"],
    "palette photos among others": ["a.jpg photo", "b.png palette", "c.gif palette"],
    "numbers in two folders": ["cat/1.jpg photo", "cat/2.jpg photo", "dog/1.png photo", "dog/2.png palette"],
    "a name that says mask and has no photo": ["mask.jpg photo", "depth.jpg photo", "carnival_mask.jpg photo", "label_1.jpg photo"],
    "folders that all say mask": ["with_mask/1.jpg photo", "without_mask/1.jpg photo"],
    "sequences with the same names": ["seq_1/1.jpg photo", "seq_2/1.jpg photo"],
}


@pytest.mark.parametrize("name", PHOTOS)
def test_photos_stay(tmp_path: Path, name: str) -> None:
    _write(tmp_path, **dict(line.rsplit(" ", 1) for line in PHOTOS[name]))
    assert sorted(_kept(tmp_path)) == sorted(line.rsplit(" ", 1)[0] for line in PHOTOS[name])


def test_smaller_copies_are_left_out_the_largest_stays(tmp_path: Path) -> None:
    sizes = {"images_2": (96, 64), "images_4": (48, 32), "images_8": (24, 16)}
    _write(tmp_path, **{f"{name}/{i}.png": ("photo", i, size) for name, size in sizes.items() for i in range(3)})
    assert _kept(tmp_path) == [f"images_2/{i}.png" for i in range(3)]
    _write(tmp_path, **{f"images/IMG_{i}.png": ("photo", i, (192, 128)) for i in range(3)})  # LLFF: other names, the same order
    assert _kept(tmp_path) == [f"images/IMG_{i}.png" for i in range(3)]


def test_thumbnails_are_left_out(tmp_path: Path) -> None:
    _write(
        tmp_path, **{"a/1.jpg": ("photo", 1, (96, 64)), "a/thumbs/1.jpg": ("photo", 1, (48, 32)), "thumbs/1.jpg": ("photo", 1, (24, 16))}
    )
    _write(tmp_path, **{"w.jpg": ("photo", 3, (96, 64)), "w-48x32.jpg": ("photo", 3, (48, 32)), "w-30x30.jpg": ("photo", 3, (30, 30))})
    assert _kept(tmp_path) == ["a/1.jpg", "w.jpg"]


def test_smaller_pictures_of_something_else_stay(tmp_path: Path) -> None:
    _write(tmp_path, **{f"seq_{n}/{i}.png": ("photo", 10 * n + i, (96 // n, 64 // n)) for n in (1, 2) for i in range(3)})
    assert len(_kept(tmp_path)) == 6


def test_what_is_left_out_is_counted_and_can_be_kept(tmp_path: Path) -> None:
    _write(tmp_path, **dict(line.rsplit(" ", 1) for line in MAPS["7-Scenes and 3DMatch"]))
    tree = Tree.of(tmp_path)
    take_photos(tree)
    (note,) = tree.notes
    assert "2 depth map(s) or mask(s) by name (first: f0.depth.png)" in note and "--all-images" in note
    kept = Tree.of(tmp_path)
    assert len(take_photos(kept, all_images=True)) == 4 and not kept.notes


def test_a_sequence_in_folders_is_not_paired_with_its_depth(tmp_path: Path) -> None:
    _write(tmp_path, **{f"rgb/{i}.png": "photo" for i in range(3)}, **{f"depth/{i}.png": "deep" for i in range(3)})
    assert {scene: len(files) for scene, files in sequences(Tree.of(tmp_path), "room").items()} == {"room/rgb": 3}
    with pytest.raises(CallError, match="holds no images"):
        sequences(Tree.of(tmp_path / "rgb" / ".." / "nothing"), "room")


def test_a_damaged_header_is_no_reason_to_leave_an_image_out(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "b.tif"):
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4))
    assert companions(tmp_path, ["a.png", "a.jpg", "b.tif"]) == {}
