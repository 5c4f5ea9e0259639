"""Photos of a capture that lie under another name than it gives are found; where none can be, the first is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import CallError
from sightline.platform.data.prepare.captures.cameras import read_cameras
from sightline.platform.data.prepare.captures.present import present
from sightline.platform.data.prepare.captures.readers import colmap_folder
from sightline.platform.data.prepare.pair_sources.mine import Mine


def put(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 32)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("named", "there"),
    [
        ("images/a.jpg", "images/A.JPG"),
        ("images/a.jpeg", "images/a.png"),
        ("/home/anna/scan/images/a.jpg", "images/a.jpg"),
        ("../scan/images/a.jpg", "images/a.jpg"),
        ("images/a.jpg", "images_4/a.jpg"),
    ],
)
def test_photos_are_found_under_another_name(tmp_path: Path, named: str, there: str) -> None:
    assert present(put(tmp_path, there), [named]) == {named: there}
    assert present(tmp_path, [there]) == {}


def test_a_missing_photo_is_not_taken_for_another_one(tmp_path: Path) -> None:
    """A mask of the same name is none, where other photos are there; and of two, none is meant."""
    assert present(put(tmp_path, "a.jpg", "b.png"), ["a.jpg", "b.jpg"]) == {}
    assert present(put(tmp_path, "c.png", "c.bmp"), ["c.jpg"]) == {}


def transforms(folder: Path, *files: str) -> Path:
    frames = [{"file_path": file, "transform_matrix": np.eye(4).tolist()} for file in files]
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 40, "cx": 20, "cy": 16, "w": 40, "h": 32, "frames": frames}))
    return folder


def test_frames_of_a_capture_name_the_files_that_are_there(tmp_path: Path) -> None:
    cameras = read_cameras(transforms(put(tmp_path, "images_2/a.jpg", "images_2/b.jpg"), "C:\\scan\\images\\a.jpg", "./images/B.jpg"))
    assert cameras is not None and [frame.file for frame in cameras.frames] == ["images_2/a.jpg", "images_2/b.jpg"]
    assert "2 files lie under another name than transforms.json gives" in cameras.notes[-1]


def test_where_no_photo_is_there_the_first_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"none of the 2 photos that transforms.json of .*: file is missing, such as a.jpg"):
        Mine().find(str(transforms(tmp_path, "a.jpg", "b.jpg")), "x")


def test_a_folder_above_a_capture_says_which_to_name(tmp_path: Path) -> None:
    transforms(put(tmp_path / "my scan", "a.jpg"), "a.jpg")
    with pytest.raises(CallError, match="of its own") as found:
        Mine().find(str(tmp_path), "x")
    assert f"'{tmp_path}/my scan'" in found.value.hint


def test_a_model_of_colmap_may_have_any_number(tmp_path: Path) -> None:
    for name in ("cameras.txt", "images.txt"):
        (tmp_path / "sparse/1").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sparse/1" / name).touch()
    assert colmap_folder(tmp_path) == tmp_path / "sparse/1"
