"""`prepare images`: folders, classes, masks, lists and frames become a data set of single images, and what does not fit is named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_images import DATA, needs, prepare, rows_of, write_image, write_mask
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import Resize, decode_image, encode_depth, encode_image, encode_segmentation
from sightline.platform.data.prepare.found import WHOLE, joined
from sightline.platform.data.prepare.image_sources import classes as image_classes
from sightline.platform.data.prepare.image_sources import folder as image_folder
from sightline.platform.data.prepare.image_sources import frames as image_frames
from sightline.platform.data.prepare.image_sources import listed
from sightline.platform.data.prepare.images import with_scenes
from sightline.platform.data.prepare.job import Output, item_shards, run_job
from sightline.platform.data.prepare.merge import merged, merged_classes
from sightline.platform.data.prepare.pair_sources import frames
from sightline.platform.data.prepare.pair_sources.frame_pairs import frames_of
from sightline.platform.data.prepare.split import split_images, split_time
from sightline.platform.data.schema import decode_row
from sightline.platform.data.writer import ShardWriter

# Folders -----------------------------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_with_all_below_it_in_natural_order(tmp_path: Path) -> None:
    for i, name in enumerate(("10.jpg", "2.png", "sub/deep/a.webp", ".hidden/x.jpg")):
        write_image(tmp_path / "in" / name, seed=i)
    (tmp_path / "in/notes.txt").write_text("no image")
    found = image_folder.ImageFolder().find(str(tmp_path / "in"), "photos")
    assert [image.id for image in found.parts[WHOLE]] == ["photos/2.png", "photos/10.jpg", "photos/sub/deep/a.webp"]
    dataset = prepare(found, tmp_path / "out")[WHOLE]
    assert dataset.manifest.scenes == {"photos": 2, "photos/sub/deep": 1}
    assert dataset.manifest.columns == ("id", "scene", "image")
    assert rows_of(dataset)["photos/10.jpg"]["image"] == (tmp_path / "in/10.jpg").read_bytes(), (
        "an image that need not shrink keeps its bytes"
    )


def test_a_folder_without_images_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="no images were found in"):
        joined([image_folder.ImageFolder().find(str(tmp_path), "x")], "images", "images")


def test_images_of_32_px_are_stored_and_smaller_and_broken_ones_are_counted(tmp_path: Path) -> None:
    for i in range(5):
        write_image(tmp_path / f"in/{i}.png", seed=i, size=(32, 32))
    write_image(tmp_path / "in/5.png", size=(31, 80))
    (tmp_path / "in/6.jpg").write_bytes(b"not an image")
    (tmp_path / "in/7.png").write_bytes((tmp_path / "in/0.png").read_bytes()[:-60])
    found = image_folder.ImageFolder().find(str(tmp_path / "in"), "x")
    with pytest.raises(SightlineError, match="3 of 8 rows had to be skipped"):
        prepare(found, tmp_path / "out")
    dataset = prepare(found, tmp_path / "out", max_skipped=0.5)[WHOLE]
    assert dataset.rows == 5 and dataset.manifest.image_min == (32, 32)
    reasons = {item.reason: item.examples for item in dataset.manifest.provenance.skipped}
    assert set(reasons) == {"tiny image (a side under 32 px)", "not a readable image", "damaged PNG image"}
    assert reasons["tiny image (a side under 32 px)"] == ("x/5.png (80 x 31)",)


def test_scenes_and_frame_numbers_are_found_in_names(tmp_path: Path) -> None:
    for i, name in enumerate(("A_007.jpg", "A_020.jpg", "B_001.jpg", "readme.jpg")):
        write_image(tmp_path / "in" / name, seed=i)
    found = image_folder.ImageFolder().find(str(tmp_path / "in"), "x")
    placed = with_scenes(found.parts[WHOLE], "x", WHOLE, re.compile(r"^([^_]+)_(\d+)"), found.skips)
    assert [(image.scene, image.frame, image.time) for image in placed] == [("x/A", 0, 7.0), ("x/A", 1, 20.0), ("x/B", 0, 1.0)]
    assert found.skips == [("x/readme.jpg", "--scenes finds nothing in the name")]
    placed = with_scenes(found.parts[WHOLE], "x", WHOLE, re.compile("[AB]"), [])
    assert [(image.scene, image.time) for image in placed] == [("x/A", 0.0), ("x/A", 1.0), ("x/B", 0.0)], "places stand in for numbers"


# Classes -----------------------------------------------------------------------------------------------------------------------------


def _classes(folder: Path, counts: dict[str, int], seed: int = 0) -> None:
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write_image(folder / f"{name}/{i}.png", seed=seed + 100 * number + i)


def test_class_folders_are_labels_in_sorted_order(tmp_path: Path) -> None:
    _classes(tmp_path / "in", {"dog": 3, "cat": 2, "train": 2})
    dataset = prepare(image_classes.ImageClasses().find(str(tmp_path / "in"), "pets"), tmp_path / "out")[WHOLE]
    assert dataset.manifest.classes == ("cat", "dog", "train"), "a class may be called train"
    assert dataset.manifest.labels == {0: 2, 1: 3, 2: 2}
    assert all(row["label"] == ("cat", "dog", "train").index(name.split("/")[1]) for name, row in rows_of(dataset).items())
    assert dataset.manifest.scenes == {}, "a class is no scene"


def test_split_folders_share_one_list_of_classes(tmp_path: Path) -> None:
    _classes(tmp_path / "in/train", {"a": 2, "b": 2, "c": 2})
    _classes(tmp_path / "in/val", {"c": 1, "a": 1}, seed=500)
    sets = prepare(image_classes.ImageClasses().find(str(tmp_path / "in"), "x"), tmp_path / "out")
    assert sets["train"].manifest.classes == sets["val"].manifest.classes == ("a", "b", "c")
    assert sets["val"].manifest.labels == {0: 1, 2: 1}
    assert "val has no image of class b" in sets["val"].manifest.provenance.notes


def test_class_folders_that_make_no_sense_are_wrong_calls(tmp_path: Path) -> None:
    _classes(tmp_path / "one", {"only": 2})
    with pytest.raises(CallError, match="a single class folder: only") as caught:
        image_classes.ImageClasses().find(str(tmp_path / "one"), "x")
    assert "images folder" in caught.value.hint
    write_image(tmp_path / "flat/a.jpg")
    with pytest.raises(CallError, match="no class folders"):
        image_classes.ImageClasses().find(str(tmp_path / "flat"), "x")
    _classes(tmp_path / "new/train", {"a": 1, "b": 1})
    _classes(tmp_path / "new/val", {"a": 1, "z": 1})
    with pytest.raises(CallError, match="class 'z' has images in another split, but none in"):
        image_classes.ImageClasses().find(str(tmp_path / "new"), "x")
    (tmp_path / "new/extra").mkdir()
    with pytest.raises(CallError, match=r"folders of splits \(train, val\) and others \(extra\)"):
        image_classes.ImageClasses().find(str(tmp_path / "new"), "x")


@pytest.mark.parametrize("names", [("training", "validation"), ("Train", "Val"), ("train", "valid")])
def test_splits_go_by_other_names_too(tmp_path: Path, names: tuple[str, str]) -> None:
    """They were two classes, `training` and `validation`."""
    for name in names:
        _classes(tmp_path / name, {"a": 1, "b": 1})
    found = image_classes.ImageClasses().find(str(tmp_path), "x")
    assert {part: len(images) for part, images in found.parts.items()} == {"train": 2, "val": 2} and found.classes.names == ("a", "b")
    assert found.parts["val"][0].image == f"{tmp_path}/{names[1]}/a/0.png"


@pytest.mark.parametrize(
    ("folders", "says"),
    [
        (("val/a", "val/b", "test/a"), r"has val, test and no train"),
        (("train/a", "train/b", "more"), r"has folders of splits \(train\) and others \(more\)"),
        (("train/a", "train/b", "val/a", "valid/a"), r"has two folders of one split: "),
    ],
)
def test_splits_that_are_incomplete_are_no_classes(tmp_path: Path, folders: tuple[str, ...], says: str) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(CallError, match=says):
        image_classes.ImageClasses().find(str(tmp_path), "x")


def test_depth_and_masks_and_smaller_copies_are_no_classes(tmp_path: Path) -> None:
    _classes(tmp_path / "rgbd", {"color": 2})
    for i in range(2):
        (tmp_path / "rgbd/depth").mkdir(exist_ok=True)
        (tmp_path / f"rgbd/depth/{i}.png").write_bytes(encode_depth(np.full((40, 60), 1.5)))
    with pytest.raises(CallError, match=r"a single class folder: color;.*: 2 depth map.* \(first: depth/0.png\); --all-images"):
        image_classes.ImageClasses().find(str(tmp_path / "rgbd"), "x")
    assert image_classes.ImageClasses(all_images=True).find(str(tmp_path / "rgbd"), "x").classes.names == ("color", "depth")
    _classes(tmp_path / "in", {"cat": 2, "dog": 2})
    for i in range(2):
        write_mask(tmp_path / f"in/cat_mask/{i}.png", np.zeros((40, 60), np.uint8))
        (tmp_path / "in/dog_small").mkdir(exist_ok=True)
        Image.open(tmp_path / f"in/dog/{i}.png").reduce(2).save(tmp_path / f"in/dog_small/{i}.png")
    found = image_classes.ImageClasses().find(str(tmp_path / "in"), "x")
    assert found.classes.names == ("cat", "dog") and len(found.items) == 4
    assert "2 depth map(s) or mask(s) by name (first: cat_mask/0.png), 2 smaller copies (first: dog_small/0.png)" in found.notes[0]
    _classes(tmp_path / "gt", {"images": 2})
    for i in range(2):
        write_mask(tmp_path / f"gt/outlines/{i}.png", np.zeros((40, 60), np.uint8))
    with pytest.raises(CallError, match=r"a single class folder: images;.*2 mask\(s\) with the names of photos"):
        image_classes.ImageClasses().find(str(tmp_path / "gt"), "x")
    _classes(tmp_path / "worn", {"mask": 2, "face": 2, "no_mask": 2})
    assert len(image_classes.ImageClasses().find(str(tmp_path / "worn"), "x").items) == 6, "colour photos under the same names"


def test_an_image_beside_the_class_folders_is_skipped(tmp_path: Path) -> None:
    _classes(tmp_path / "in", {"a": 1, "b": 1})
    write_image(tmp_path / "in/stray.jpg")
    assert image_classes.ImageClasses().find(str(tmp_path / "in"), "x").skips == [("stray.jpg", "an image lies beside the class folders")]


def test_a_drawn_split_takes_the_same_share_of_every_class() -> None:
    ids = [f"{name}/{i}" for name, count in (("a", 50), ("b", 10), ("c", 2)) for i in range(count)]
    assigned = split_images(ids, [name[0] for name in ids], {"train": 0.8, "val": 0.2}, seed=0)
    in_val = [name[0] for name, split in zip(ids, assigned, strict=True) if split == "val"]
    assert {name: in_val.count(name) for name in "abc"} == {"a": 10, "b": 2, "c": 1} and len(assigned) == 62
    assert assigned != split_images(ids, [name[0] for name in ids], {"train": 0.8, "val": 0.2}, seed=1)
    with pytest.raises(CallError, match=r"1 sample\(s\) of class 'z' cannot be split 2 ways"):
        split_images(["z/1"], ["z"], {"train": 0.8, "val": 0.2}, seed=0)


def test_an_image_in_two_splits_is_told(tmp_path: Path) -> None:
    _classes(tmp_path / "in/train", {"a": 3, "b": 3})
    _classes(tmp_path / "in/val", {"a": 1, "b": 2}, seed=500)
    (tmp_path / "in/val/a/0.png").write_bytes((tmp_path / "in/train/b/1.png").read_bytes())
    sets = prepare(image_classes.ImageClasses().find(str(tmp_path / "in"), "x"), tmp_path / "out")
    for dataset in sets.values():
        assert dataset.manifest.provenance.notes == ("in more than one of these splits, byte for byte: 1 sample(s)",)


# Lists -------------------------------------------------------------------------------------------------------------------------------


def _list(tmp_path: Path, *lines: str) -> str:
    for i in range(4):
        write_image(tmp_path / f"in/{i}.jpg", seed=i)
    write_image(tmp_path / "in/with space.jpg", seed=9)
    (tmp_path / "in/list.txt").write_text("\n".join(lines))
    return str(tmp_path / "in/list.txt")


def test_a_list_without_labels_keeps_paths_with_spaces(tmp_path: Path) -> None:
    found = listed.ListedImages().find(_list(tmp_path, "# two", "1.jpg", "", "with space.jpg", "1.jpg", "../out.jpg", "/etc/x.jpg"), "l")
    assert [image.id for image in found.parts[WHOLE]] == ["l/1.jpg", "l/with space.jpg"]
    assert [why for _, why in found.skips] == ["a file is listed twice", "a path leaves the folder", "a path leaves the folder"]
    assert not found.classes.names


def test_labels_of_a_list_are_names_or_numbers(tmp_path: Path) -> None:
    found = listed.ListedImages().find(_list(tmp_path, "0.jpg dog", "1.jpg\tcat", "with space.jpg cat", "2.jpg\thot dog"), "l")
    assert found.classes.names == ("cat", "dog", "hot dog")
    assert [image.label for image in found.parts[WHOLE]] == [1, 0, 0, 2]
    found = listed.ListedImages().find(_list(tmp_path, "0.jpg 10", "1.jpg 2", "2.jpg 10"), "l")
    assert found.classes.names == ("2", "10") and [image.label for image in found.parts[WHOLE]] == [1, 0, 1]
    (tmp_path / "names.txt").write_text("ant\nbee\ncow\n")
    found = listed.ListedImages(classes=str(tmp_path / "names.txt")).find(_list(tmp_path, "0.jpg 2", "1.jpg bee"), "l")
    assert [image.label for image in found.parts[WHOLE]] == [2, 1]
    assert found.notes == ["the data set has no image of class ant"]
    with pytest.raises(CallError, match=r"list\.txt line 2: label 'elk' is none of the 3 classes"):
        listed.ListedImages(classes=str(tmp_path / "names.txt")).find(_list(tmp_path, "0.jpg 2", "1.jpg elk"), "l")


def test_lines_without_label_among_others_are_skipped_and_one_class_is_refused(tmp_path: Path) -> None:
    found = listed.ListedImages().find(_list(tmp_path, "0.jpg a", "1.jpg b", "2.jpg"), "l")
    assert found.skips == [("l/2.jpg", "no label, where other lines have one")]
    with pytest.raises(CallError, match="single class: a"):
        listed.ListedImages().find(_list(tmp_path, "0.jpg a", "1.jpg a"), "l")
    with pytest.raises(CallError, match="there is no list"):
        listed.ListedImages().find(str(tmp_path / "none.txt"), "l")


def test_a_finished_data_set_is_no_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CallError, match="no images were found") as caught:
        joined([image_folder.ImageFolder().find(str(tmp_path), "x")], "images", "images")
    assert caught.value.hint.startswith("it is a data set already")


def test_a_line_whose_file_is_missing_makes_no_class(tmp_path: Path) -> None:
    """The head line of a table was a class of its own."""
    path = _list(tmp_path, "image label", "0.jpg b", ".\\1.jpg a", f"{'x' * 300} c", "gone.jpg d")
    found = listed.ListedImages().find(path, "l")
    assert found.classes.names == ("a", "b") and [image.image for image in found.items] == [
        f"{tmp_path}/in/0.jpg",
        f"{tmp_path}/in/./1.jpg",
    ]
    assert [why for _, why in found.skips] == ["file is missing"] * 3 and found.skips[0][0] == "list.txt line 1 (image)"


# Frames and pairs --------------------------------------------------------------------------------------------------------------------


def test_frames_keep_time_and_depth_and_split_by_blocks_of_time(tmp_path: Path) -> None:
    entries = []
    for i in range(40):
        write_image(tmp_path / f"in/color/{i}.jpg", seed=i)
        (tmp_path / "in/depth").mkdir(exist_ok=True)
        (tmp_path / f"in/depth/{i}.png").write_bytes(encode_depth(np.full((40, 60), 1 + i / 100)))
        entries.append({"file": f"color/{i}.jpg", "depth": f"depth/{i}.png", "time_s": i / 10})
    (tmp_path / "in/cameras.json").write_text(json.dumps({"frames": entries[::-1]}))
    found = image_frames.ImageFrames().find(str(tmp_path / "in"), "walk")
    assert [image.time for image in found.parts[WHOLE]] == [i / 10 for i in range(40)], "the depth images are no frames"
    split, dropped, _ = split_time(found.parts[WHOLE], {"train": 0.8, "val": 0.2}, 4)
    assert (len(split["train"]), len(split["val"]), dropped) == (28, 8, 4)
    found.parts = {WHOLE: split["val"]}
    dataset = prepare(found, tmp_path / "out", Resize(32, square=True))[WHOLE]
    sample = decode_row(rows_of(dataset)["walk/color/35.jpg"], "images", depth=True)
    assert sample["depth"].shape == sample["image"].shape[:2] == (32, 32) and sample["time"] == 3.5
    np.testing.assert_allclose(sample["depth"], 1.35)


def test_frames_of_plain_folders_are_sequences(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/10.jpg", "a/2.jpg", "b/1.jpg"):
        write_image(tmp_path / "in" / name)
    images = image_frames.ImageFrames().find(str(tmp_path / "in"), "x").parts[WHOLE]
    assert [(image.id, image.scene, image.time) for image in images] == [
        ("x/a/1.jpg", "x/a", 0.0),
        ("x/a/2.jpg", "x/a", 1.0),
        ("x/a/10.jpg", "x/a", 2.0),
        ("x/b/1.jpg", "x/b", 0.0),
    ]


def test_every_image_of_a_pair_data_set_is_taken_once(tmp_path: Path) -> None:
    for i in range(6):
        write_image(tmp_path / f"in/{i}.jpg", seed=i)
    pairs = frames.Frames(gap=(1, 2)).find(str(tmp_path / "in"), "walk").items
    run_job([Output(str(tmp_path / "pairs"), item_shards(pairs, Resize(), 0), ())], "pairs", local=True)
    dataset = Dataset.open(tmp_path / "pairs")
    run_job([Output(str(tmp_path / "out"), frames_of(dataset, Resize()), ())], "images", local=True)
    images = Dataset.open(tmp_path / "out", "images")
    assert {row["image"] for row in rows_of(images).values()} == {(tmp_path / f"in/{i}.jpg").read_bytes() for i in range(6)}
    assert images.rows == 6 and images.manifest.scenes == {"walk": 6} and dataset.rows == 9
    with pytest.raises(CallError, match="holds images, not pairs"):
        frames_of(images, Resize())


# Merging, resuming, decoding ---------------------------------------------------------------------------------------------------------


def _labelled(folder: Path, classes: tuple[str, ...], prefix: str, **more: Any) -> Dataset:
    with ShardWriter(folder, "images", classes=classes) as writer:
        for i in range(4):
            image = np.full((40, 40, 3), 10 * i, np.uint8)
            writer.write({"id": f"{prefix}/{i}", "image": encode_image(image), "label": i % len(classes) if classes else None, **more})
    return Dataset.open(folder, "images")


def test_merging_asks_for_equal_classes_and_refuses_a_row_twice(tmp_path: Path) -> None:
    one, two = _labelled(tmp_path / "1", ("a", "b"), "one"), _labelled(tmp_path / "2", ("a", "c"), "two")
    with pytest.raises(CallError, match=r"class 1 is 'b' in .*1, but 'c' in .*2"):
        merged_classes([one, two])
    with pytest.raises(CallError, match=r"class 2 is no such class in .*1, but 'z' in"):
        merged_classes([one, _labelled(tmp_path / "3", ("a", "b", "z"), "three")])
    with pytest.raises(CallError, match="row 'one/0' is both in"):
        merged([one, one], 0)
    bare = _labelled(tmp_path / "4", (), "bare")
    classes = merged_classes([bare, one])
    run_job([Output(str(tmp_path / "all"), merged([bare, one], 0), (), (), classes.names)], "images", local=True)
    manifest = Dataset.open(tmp_path / "all").manifest
    assert (manifest.rows, manifest.classes, manifest.labels) == (8, ("a", "b"), {0: 2, 1: 2})


def test_the_fingerprint_vouches_for_the_classes(tmp_path: Path) -> None:
    one, two = _labelled(tmp_path / "1", ("a", "b"), "x"), _labelled(tmp_path / "2", ("b", "a"), "x")
    assert one.manifest.shards == two.manifest.shards and one.fingerprint != two.fingerprint
    path = tmp_path / "1/manifest.json"
    path.write_text(path.read_text().replace('"a"', '"z"'))
    with pytest.raises(CallError, match="altered"):
        Dataset.open(tmp_path / "1")


def test_a_needed_label_or_mask_that_is_missing_or_does_not_fit_is_a_broken_sample() -> None:
    row = {"id": "x/1", "image": encode_image(np.zeros((40, 60, 3), np.uint8)), "label": None}
    row["segmentation"] = encode_segmentation(np.ones((40, 60), np.uint8))
    assert "label" not in decode_row(row, "images")
    with pytest.raises(BrokenSampleError, match="x/1: label is empty"):
        decode_row(row, "images", needed=("id", "image", "label"))
    assert decode_row(row | {"label": 0}, "images", needed=("id", "image", "label"))["label"] == 0
    with pytest.raises(BrokenSampleError, match="x/1: segmentation of 50 x 40 pixels, image of 60 x 40"):
        decode_row(row | {"segmentation": encode_segmentation(np.ones((40, 50), np.uint8))}, "images")
    with pytest.raises(BrokenSampleError, match="x/1: segmentation: mask holds colours"):
        decode_row(row | {"segmentation": _png(np.full((40, 60, 3), (0, 1, 2), np.uint8))}, "images")


def _png(array: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


# Real data ---------------------------------------------------------------------------------------------------------------------------


@needs("imagenet-mini")
def test_imagenet_mini_shrinks_to_its_short_side(tmp_path: Path) -> None:
    found = image_folder.ImageFolder().find(str(DATA / "imagenet-mini"), "imagenet")
    found.parts[WHOLE] = found.parts[WHOLE][::8]
    dataset = prepare(found, tmp_path / "out", Resize(128))[WHOLE]
    assert dataset.rows == 25 and dataset.manifest.columns == ("id", "scene", "image")
    for name, row in list(rows_of(dataset).items())[:8]:
        original = decode_image((DATA / "imagenet-mini" / name.removeprefix("imagenet/")).read_bytes())
        stored = decode_image(row["image"])
        assert min(stored.shape[:2]) == min(128, *original.shape[:2])
        assert stored.shape[1] / stored.shape[0] == pytest.approx(original.shape[1] / original.shape[0], rel=0.01)


@pytest.mark.slow
@needs("cifar10-mini")
def test_cifar_mini_keeps_its_splits_its_classes_and_every_byte(tmp_path: Path) -> None:
    sets = prepare(image_classes.ImageClasses().find(str(DATA / "cifar10-mini"), "cifar"), tmp_path / "out")
    assert {name: dataset.rows for name, dataset in sets.items()} == {"train": 2000, "test": 1000}
    for split, dataset in sets.items():
        assert dataset.manifest.classes[0] == "airplane" and set(dataset.manifest.labels.values()) == {200 if split == "train" else 100}
        for name, row in rows_of(dataset).items():
            path = DATA / "cifar10-mini" / name.removeprefix("cifar/")
            assert row["image"] == path.read_bytes() and dataset.manifest.classes[row["label"]] == path.parent.name


@needs("kitchen-rgbd")
def test_the_kitchen_is_images_with_depth(tmp_path: Path) -> None:
    found = image_frames.ImageFrames().find(str(DATA / "kitchen-rgbd"), "kitchen")
    split, dropped, notes = split_time(found.parts[WHOLE], {"train": 0.8, "val": 0.2}, 8)
    assert (len(split["train"]), len(split["val"]), dropped) == (176, 50, 24) and "8 frames between" in notes[0]
    found.parts = {WHOLE: split["val"]}
    dataset = prepare(found, tmp_path / "out", Resize(120))[WHOLE]
    sample = decode_row(dataset.read(0, 0, [0]).to_pylist()[0], "images", depth=True)
    assert sample["image"].shape == (120, 160, 3) and sample["depth"].shape == (120, 160)
    assert 0.3 < np.median(sample["depth"][sample["depth"] > 0]) < 6
