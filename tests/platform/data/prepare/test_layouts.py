"""A folder of another program is recognised, and the command that the message names works on it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sightline.methods.errors import CallError
from sightline.platform.data.prepare.cloud_depth import CloudDepth
from sightline.platform.data.prepare.frames import Frames
from sightline.platform.data.prepare.layouts import layout_of
from sightline.platform.data.prepare.rgbd import Rgbd

FOLDERS = {
    "TUM RGB-D": ["rgb/1.1.png", "rgb/1.2.png", "depth/1.1.png", "rgb.txt", "depth.txt", "groundtruth.txt"],
    "COLMAP": ["images/a.jpg", "images/b.jpg", "database.db"],
    "LLFF": ["images/a.jpg", "images/b.jpg", "poses_bounds.npy"],
    "EuRoC": ["mav0/cam0/data/1.png", "mav0/cam0/data/2.png"],
    "Replica": ["traj.txt", "results/frame000000.jpg", "results/frame000001.jpg", "results/depth000000.png"],
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
