"""Masks and labels of VOC, Cityscapes, ADE20K and COCO, and masks whose colours are classes, as their publishers lay them out."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_images import DATA, needs, write_image, write_mask
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import Resize, decode_segmentation
from sightline.platform.data.prepare.found import Found
from sightline.platform.data.prepare.image_sources.classes import ImageClasses
from sightline.platform.data.prepare.image_sources.masks import Masks
from sightline.platform.data.prepare.images import ImageFile
from sightline.platform.data.prepare.label_tables import CAMVID, CITYSCAPES, VOC, voc_colours
from sightline.platform.data.prepare.mask_codes import packed_counts
from sightline.platform.data.prepare.whole_folder import Wish, choose

SHAPE = (40, 60)
SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]]


def find(folder: Path, **options: Any) -> Found[ImageFile]:
    return Masks(**options).find(str(folder), folder.name)


def mask_of(image: ImageFile) -> np.ndarray:
    stored = image.row(Resize())["segmentation"]
    assert isinstance(stored, bytes)
    return decode_segmentation(stored)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def lists(folder: Path, **of_part: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, text in of_part.items():
        (folder / f"{part}.txt").write_text(text)


def indices(*values: int) -> np.ndarray:
    """Vertical stripes of these values."""
    return np.repeat(np.array(values, np.uint8)[np.arange(SHAPE[1]) * len(values) // SHAPE[1]][None], SHAPE[0], 0)


def test_voc_has_its_names_its_lists_and_its_border(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    for number in range(4):
        write_image(root / f"JPEGImages/2007_00000{number}.jpg", seed=number)
    palette = Image.fromarray(indices(0, 15, 255), "P")
    palette.putpalette([value for colour in voc_colours(256) for value in colour])
    for number in range(2):
        (root / "SegmentationClass").mkdir(exist_ok=True)
        palette.save(root / f"SegmentationClass/2007_00000{number}.png")
    lists(root / "ImageSets/Segmentation", train="2007_000000\n", val="2007_000001\n2007_000009\n", test="2007_000003\n")
    found = find(tmp_path)
    assert (found.classes.names, found.classes.ignore_index) == (VOC, 255) and len(VOC) == 21
    assert {part: [one.id for one in images] for part, images in found.parts.items()} == {
        "train": [f"{tmp_path.name}/2007_000000"],
        "val": [f"{tmp_path.name}/2007_000001"],
    }
    np.testing.assert_array_equal(mask_of(found.parts["train"][0]), indices(0, 15, 255))
    assert found.skips == [("2007_000009", "an image of the list is missing")] and "2 images without a published mask" in " ".join(
        found.notes
    )
    assert voc_colours(22)[15] == (192, 128, 128) and voc_colours(256)[255] == (224, 224, 192)


def test_a_folder_in_the_layout_of_voc_with_other_names_is_not_taken_for_voc(tmp_path: Path) -> None:
    write_image(tmp_path / "JPEGImages/street.jpg")
    write_mask(tmp_path / "SegmentationClass/street.png", indices(0, 1))
    with pytest.raises(CallError, match=r"has no classes\.txt"):
        find(tmp_path)
    (tmp_path / "names.txt").write_text("road\ncar\n")
    assert find(tmp_path, classes=str(tmp_path / "names.txt")).classes.names == ("road", "car")
    with pytest.raises(CallError, match="is not laid out as cityscapes"):
        find(tmp_path, layout="cityscapes")


def test_cityscapes_by_ids_train_ids_or_colours_is_the_same(tmp_path: Path) -> None:
    ids, train_ids = (7, 26, 4, 33), (0, 13, 255, 18)
    colours = {one.id: one.colour for one in CITYSCAPES}
    kinds = {
        "labelIds": indices(*ids),
        "labelTrainIds": indices(*train_ids),
        "color": np.array([colours[one] for one in range(34)])[indices(*ids)],
    }
    for number, (kind, pixels) in enumerate(kinds.items()):
        stem = f"{('train/ulm', 'train/bonn', 'val/lindau')[number]}/x_00000{number}_000019"
        write_image(tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png", seed=number)
        save(tmp_path / f"gtFine/{stem}_gtFine_{kind}.png", pixels)
    write_image(tmp_path / "leftImg8bit/test/berlin/x_leftImg8bit.png")
    found = find(tmp_path)
    assert len(found.classes.names) == 19 and found.classes.names[13] == "car" and found.classes.ignore_index == 255
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 2, "val": 1} and "test: 1 images" in found.notes[0]
    assert {one.scene for one in found.parts["train"]} == {f"{tmp_path.name}/ulm", f"{tmp_path.name}/bonn"}
    for image in (*found.parts["train"], *found.parts["val"]):
        np.testing.assert_array_equal(mask_of(image), indices(*train_ids))


def test_ade20k_of_the_challenge_and_the_full_release(tmp_path: Path) -> None:
    challenge = tmp_path / "challenge"
    for part, stem in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        write_image(challenge / f"images/{part}/{stem}.jpg")
        write_mask(challenge / f"annotations/{part}/{stem}.png", indices(0, 1, 2))
    with pytest.raises(CallError, match="objectInfo150"):
        find(challenge)
    (challenge / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t1\twall\n2\t0.1\t1\t1\tbuilding, edifice\n")
    found = find(challenge)
    assert found.classes.names == ("wall", "building, edifice") and set(found.parts) == {"train", "val"}
    np.testing.assert_array_equal(mask_of(found.parts["val"][0]), indices(255, 0, 1))

    full = tmp_path / "full/images/ADE/training/street/ADE_train_2"
    write_image(full.with_suffix(".jpg"))
    numbers = np.array([0, 2836, 401])[indices(0, 1, 2)]
    save(full.parent / "ADE_train_2_seg.png", np.stack([numbers // 256 * 10, numbers % 256, indices(0, 1, 2)], -1))
    with pytest.raises(CallError, match=r"no .json files that name their objects"):
        find(tmp_path / "full")
    objects = [{"name_ndx": 2836, "name": "traffic light"}, {"name_ndx": 401, "name": "car, auto"}]
    full.with_suffix(".json").write_text(json.dumps({"annotation": {"object": objects}}))
    found = find(tmp_path / "full")
    assert found.classes.names == ("car, auto", "traffic light") and found.classes.ignore_index == 65535
    np.testing.assert_array_equal(mask_of(found.parts["train"][0]), np.array([65535, 1, 0])[indices(0, 1, 2)])


def coco(folder: Path, annotations: list[dict[str, Any]], kind: str = "instances") -> Path:
    """One image of two categories."""
    write_image(folder / "val2017/1.jpg")
    categories = [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}]
    image = {"id": 1, "file_name": "1.jpg", "height": SHAPE[0], "width": SHAPE[1]}
    (folder / "annotations").mkdir(exist_ok=True)
    text = json.dumps({"images": [image], "annotations": [{"image_id": 1, **one} for one in annotations], "categories": categories})
    (folder / f"annotations/{kind}_val2017.json").write_text(text)
    return folder


def test_outlines_of_coco_are_drawn_as_pycocotools_draws_them(tmp_path: Path) -> None:
    reference = pytest.importorskip("pycocotools.mask")
    blobs = np.kron(np.random.default_rng(0).random((8, 12)) > 0.6, np.ones((5, 5))).astype(np.uint8)
    packed = reference.encode(np.asfortranarray(blobs))["counts"].decode()
    counts = packed_counts(packed)
    triangle = [[33.5, 2.25, 58.0, 20.5, 40.0, 38.0]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, in pycocotools
        drawn = [reference.decode(reference.merge(reference.frPyObjects(one, *SHAPE))) for one in (SQUARE, triangle)]
    for segmentation in ({"counts": packed, "size": SHAPE}, {"counts": counts, "size": SHAPE}):
        folder = coco(tmp_path, [{"category_id": 18, "segmentation": segmentation}, {"category_id": 3, "segmentation": SQUARE}])
        found = find(folder)
        assert found.classes.names == ("background", "car", "dog") and set(found.parts) == {"val"}
        expected = np.where(drawn[0] & blobs, 255, np.where(drawn[0], 1, 2 * blobs))
        np.testing.assert_array_equal(mask_of(found.parts["val"][0]), expected)
    folder = coco(tmp_path, [{"category_id": 18, "segmentation": triangle}])
    np.testing.assert_array_equal(mask_of(find(folder).parts["val"][0]), 2 * drawn[1])


@pytest.mark.parametrize(
    ("segmentation", "why"),
    [
        ({"counts": [10, 10], "size": SHAPE}, "do not add up"),
        ({"counts": [2400], "size": [60, 40]}, "of another size"),
        ({"counts": "P", "size": SHAPE}, "end within a number"),
        ([[1.0, 1.0, 5.0, 5.0]], "fewer than 3 points"),
        ([[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]], "far beyond the image"),
    ],
)
def test_outlines_that_make_no_sense_are_broken(segmentation: Any, why: str, tmp_path: Path) -> None:
    image = find(coco(tmp_path, [{"category_id": 3, "segmentation": segmentation}])).parts["val"][0]
    with pytest.raises(BrokenSampleError, match=why):
        image.row(Resize())


def test_segments_of_coco_and_files_that_are_damaged(tmp_path: Path) -> None:
    segments = {"file_name": "1.png", "segments_info": [{"id": 70000, "category_id": 3}, {"id": 5, "category_id": 18}]}
    folder = coco(tmp_path, [segments], "panoptic")
    with pytest.raises(CallError, match="no folder panoptic_val2017 of masks"):
        find(folder)
    ids = np.array([0, 70000, 5])[indices(0, 1, 2)]
    save(folder / "annotations/panoptic_val2017/1.png", np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1))
    found = find(folder)
    assert found.classes.names == ("car", "dog")
    np.testing.assert_array_equal(mask_of(found.parts["val"][0]), indices(255, 0, 1))
    for text, why in (("{", "holds no annotations of COCO"), ('{"images": []}', "holds no annotations of COCO")):
        (folder / "annotations/panoptic_val2017.json").write_text(text)
        with pytest.raises(CallError, match=why):
            find(folder)
    (folder / "annotations/panoptic_val2017.json").unlink()
    with pytest.raises(CallError, match="category 99, which it does not name"):
        find(coco(tmp_path, [{"category_id": 99}]))
    assert (
        find(coco(tmp_path, [{"category_id": 3, "bbox": [0, 0, 9, 9]}]))
        .notes[-1]
        .startswith("1 images of instances_val2017.json have boxes")
    )


def test_colours_by_a_palette(tmp_path: Path) -> None:
    colours = dict(CAMVID)
    write_image(tmp_path / "701_StillsRaw_full/0001.png")
    pixels = np.array([colours["Road"], colours["Void"], colours["Car"]])[indices(0, 1, 2)]
    pixels[0, 0] = (1, 2, 3)
    save(tmp_path / "LabeledApproved_full/0001_L.png", pixels)
    found = find(tmp_path, palette="camvid")
    assert len(found.classes.names) == 31 and "Void" not in found.classes.names
    road, car = (found.classes.names.index(name) for name in ("Road", "Car"))
    expected = indices(road, 255, car)
    expected[0, 0] = 255
    np.testing.assert_array_equal(mask_of(found.parts[""][0]), expected)
    for name, text in (
        ("label_colors.txt", "128 64 128\tRoad\n0 0 0\t\tVoid\n64 0 128 Car\n"),
        ("class_dict.csv", "name,r,g,b\nRoad,128,64,128\nVoid,0,0,0\nCar,64,0,128\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nRoad:128,64,128::\nVoid:0,0,0::\nCar:64,0,128::\n"),
    ):
        (tmp_path / name).write_text(text)
        found = find(tmp_path)
        assert found.classes.names == ("Road", "Car"), name
        np.testing.assert_array_equal(mask_of(found.parts[""][0])[1:], indices(0, 255, 1)[1:])
        (tmp_path / name).unlink()
    (tmp_path / "own.txt").write_text("0 0 0 Void\n64 0 128 Car\n9 9 9 Tram\n")
    with pytest.raises(BrokenSampleError, match=r"the palette lacks: \(128, 64, 128\)"):
        mask_of(find(tmp_path, palette=str(tmp_path / "own.txt")).parts[""][0])
    for text, why in (("0 0 0 a\n0 0 0 b\n", "'a' and 'b' one colour"), ("1 2 3 a\nword\n", "line 2"), ("1 2 3 a\n", "names 1 class")):
        (tmp_path / "own.txt").write_text(text)
        with pytest.raises(CallError, match=why):
            find(tmp_path, palette=str(tmp_path / "own.txt"))


def test_labels_from_objects_are_of_images_that_show_one_class(tmp_path: Path) -> None:
    voc = tmp_path / "voc"
    shown = {"1": ("cat",), "2": ("dog", "dog"), "3": ("cat", "dog"), "4": ("cat",)}
    (voc / "Annotations").mkdir(parents=True)
    for stem, names in shown.items():
        write_image(voc / f"JPEGImages/{stem}.jpg")
        objects = "".join(f"<object><name>{name}</name></object>" for name in names)
        (voc / f"Annotations/{stem}.xml").write_text(f"<annotation>{objects}</annotation>")
    (voc / "Annotations/4.xml").write_text("<annotation><object>")
    found = ImageClasses(layout="voc").find(str(voc), "voc")
    assert found.classes.names == ("cat", "dog") and [(one.id, one.label) for one in found.parts[""]] == [("voc/1", 0), ("voc/2", 1)]
    assert "1 images show several classes and 1 none" in found.notes[0] and "cannot be read" in found.skips[0][1]
    lists(voc / "ImageSets/Main", cat_train="1  1\n2 -1\n", dog_train="1 -1\n2  1\n", cat_val="4  1\n", dog_val="4  0\n")
    found = ImageClasses(layout="voc").find(str(voc), "voc")
    assert {part: [one.label for one in images] for part, images in found.parts.items()} == {"train": [0, 1], "val": [0]}

    boxes = coco(tmp_path / "coco", [{"category_id": 3, "bbox": [0, 0, 9, 9]}])
    with pytest.raises(CallError, match=r"annotations of 1 class\(es\)"):
        ImageClasses(layout="coco").find(str(boxes), "coco")


@needs("camvid-320")
def test_masks_of_real_bytes_as_colours_are_the_indices_that_they_were(tmp_path: Path) -> None:
    mask = sorted((DATA / "camvid-320/valannot").glob("*.png"))[0]
    numbers = decode_segmentation(mask.read_bytes())
    colours = np.array(voc_colours(12))
    save(tmp_path / "masks/a.png", colours[numbers])
    write_image(tmp_path / "images/a.png", size=numbers.shape)
    lines = [f"{' '.join(map(str, colour))} class {index}" for index, colour in enumerate(colours.tolist())]
    (tmp_path / "label_colors.txt").write_text("\n".join(lines))
    np.testing.assert_array_equal(mask_of(find(tmp_path).parts[""][0]), numbers)


def test_a_last_class_that_is_called_none_is_told_and_ignored_by_a_run(tmp_path: Path) -> None:
    write_image(tmp_path / "images/a.png")
    write_mask(tmp_path / "masks/a.png", indices(0, 1, 2))
    (tmp_path / "classes.txt").write_text("0 sky\n1 road\n2 Unlabelled(ignore)\n")
    assert "class 2 is called 'Unlabelled(ignore)'" in find(tmp_path).notes[-1] and not find(tmp_path, ignore=2).notes
    choice = choose(str(tmp_path), Wish("images", ("segmentation",)), "out")
    assert "--ignore 2" in choice.command("out") and choice.outputs[0].classes == ("sky", "road")
