"""A folder of another program is recognised, and the command that the message names works on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.prepare.captures.layouts import layout_of
from sightline.platform.data.prepare.cloud_sources.depth import CloudDepth
from sightline.platform.data.prepare.pair_sources.frames import Frames
from sightline.platform.data.prepare.pair_sources.rgbd import Rgbd

FOLDERS = {
    "TUM RGB-D": ["rgb/1.1.png", "rgb/1.2.png", "depth/1.1.png", "rgb.txt", "depth.txt", "groundtruth.txt"],
    "COLMAP": ["images/a.jpg", "images/b.jpg", "database.db"],
    "KITTI odometry": ["times.txt", "image_2/000000.png", "image_2/000001.png"],
    "KITTI raw": ["image_02/data/0.png", "image_02/data/1.png", "oxts/dataformat.txt"],
    "Polycam": ["keyframes/images/1.jpg", "keyframes/images/2.jpg"],
    "ARKitScenes": ["lowres_wide/1_1.0.png", "lowres_wide/1_1.1.png", "lowres_depth/1_1.0.png"],
}


def _made(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("source", [Rgbd(), CloudDepth()])
def test_the_message_names_the_layout_and_a_command_that_works(tmp_path: Path, layout: str, source: Rgbd | CloudDepth) -> None:
    folder = _made(tmp_path, FOLDERS[layout])
    with pytest.raises(CallError, match=f"looks like .*{layout}") as caught:
        source.find(str(folder), "x")
    command = re.search(r"`sightline prepare pairs frames (.+?)`", caught.value.hint)
    assert command is not None
    found = Frames().find(command[1], "x")
    assert len(found.items) == 1 and not found.skips
    assert any("not read" in note for note in found.notes)


def test_the_captures_in_a_folder_are_named(tmp_path: Path) -> None:
    for sequence in ("00", "01"):
        _made(tmp_path / "sequences" / sequence, ["calib.txt", "image_2/000000.png"])
    with pytest.raises(CallError, match=r"no cameras\.json of its own") as caught:
        Rgbd().find(str(tmp_path), "x")
    assert f"name the captures in it, 2 of KITTI odometry: {tmp_path}/sequences/00, {tmp_path}/sequences/01" in caught.value.hint
    notes = Frames().find(str(_made(tmp_path / "sequences/02/image_2", ["0.png", "1.png", "../calib.txt"])), "x").notes
    assert any(f"name {tmp_path}/sequences/02 to read them" in note for note in notes)


def test_a_folder_that_is_nobody_s_is_not_given_a_name(tmp_path: Path) -> None:
    assert layout_of(_made(tmp_path, ["a.jpg", "images/b.jpg"])) is None
    with pytest.raises(CallError, match=r"has no cameras.json$") as caught:
        Rgbd().find(str(tmp_path), "x")
    assert f"frames {tmp_path}`" in caught.value.hint


def test_without_photos_no_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(CallError) as caught:
        Rgbd().find(str(_made(tmp_path, ["video.MOV"])), "x")
    assert "there are no photos" in caught.value.hint
    with pytest.raises(CallError, match=r"video.MOV: no readable video"):
        Frames().find(str(tmp_path), "x")
