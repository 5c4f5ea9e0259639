"""Photos without cameras: what they share by matched features, poses by structure from motion, and poses of files held against matches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import CallError
from sightline.platform.data.matching import matched, patches_of
from sightline.platform.data.prepare.captures.motion import _jumps, reconstruct
from sightline.platform.data.prepare.captures.overlaps import Compared, _alike, compare
from sightline.platform.data.prepare.packed import Packed
from sightline.platform.data.prepare.pair_sources.mine import Mine
from sightline.platform.data.prepare.source import Request
from sightline.platform.data.prepare.workers import USUAL

CASTLE = Path(__file__).resolve().parents[5] / "shared" / "data" / "fountain-p11"
needs_photos = pytest.mark.skipif(not CASTLE.is_dir(), reason=f"{CASTLE} is not there")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))


def picture(seed: int) -> np.ndarray:
    rough = np.random.default_rng(seed).integers(0, 256, (40, 80, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((480, 240), Image.Resampling.BICUBIC))


def photos(folder: Path, places: dict[str, tuple[int, int]]) -> Path:
    """Photos of 160 x 160 cut from pictures: name -> (picture, column)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, (seed, left) in places.items():
        Image.fromarray(picture(seed)[40:200, left : left + 160]).save(folder / name)
    return folder


def test_pairs_of_photos_without_poses_are_those_that_match(tmp_path: Path) -> None:
    folder = photos(tmp_path / "walk", {"a.png": (1, 0), "b.png": (1, 60), "c.png": (1, 130), "other.png": (2, 0)})
    found = Mine().find(str(folder), "walk")
    pairs = {frozenset(Path(path).name for path in (item.image1, item.image2)): item.overlap or 0 for item in found.items}
    assert frozenset(("a.png", "b.png")) in pairs and not any("other.png" in pair for pair in pairs)
    assert all(0.1 < overlap < 15 for overlap in pairs.values()) and not any(item.T_2from1 for item in found.items)
    assert any("the angle between the views is not known" in note for note in found.notes)
    assert any("as if the camera had only turned, or the scene were flat" in note for note in found.notes)
    kept = next((tmp_path / "home" / "captures").iterdir())
    before = {path: path.stat().st_mtime_ns for path in kept.glob("*/*.npz")}
    assert len(before) == 4 + 3 and compare(sorted(folder.iterdir()), kept, False, USUAL).tried == 6
    assert {path: path.stat().st_mtime_ns for path in kept.glob("*/*.npz")} == before  # a command that was stopped goes on


def test_photos_that_share_nothing_and_single_ones_are_told(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="no two of the 2 photos of x show one thing: 1 pairs were compared"):
        Mine().find(str(photos(tmp_path / "two", {"a.png": (1, 0), "b.png": (2, 0)})), "x")
    with pytest.raises(CallError, match="x has 1 photo; a pair takes two"):
        Mine().find(str(photos(tmp_path / "one", {"a.png": (1, 0)})), "x")
    with pytest.raises(CallError, match=r"no poses can be found for the 2 photos of x: 1 pairs of them match, 1 of them as if the camera"):
        Mine(sfm=True).find(str(photos(tmp_path / "flat", {"a.png": (1, 0), "b.png": (1, 50)})), "x")


def test_photos_with_the_same_visual_words_are_found(tmp_path: Path) -> None:
    folder = photos(tmp_path / "w", {f"{seed}-{left}.png": (seed, left) for seed in (1, 2) for left in (0, 20)})
    compare(sorted(folder.iterdir()), tmp_path / "kept", False, USUAL)
    assert [others[0] for others in _alike(4, tmp_path / "kept", 1)] == [1, 0, 3, 2]


def test_patches_match_where_sift_is_not_installed() -> None:
    one, two = (patches_of(picture(1)[:, left : left + 300]) for left in (0, 12))
    pairs = matched(one, two)
    moved = one.xy[pairs[:, 0]] - two.xy[pairs[:, 1]]
    assert len(pairs) > 30 and np.allclose(np.median(moved, axis=0), (12, 0)) and (np.abs(moved - (12, 0)).max(axis=1) < 1).mean() > 0.9


@pytest.mark.slow
@needs_photos
def test_photos_are_placed_and_poses_of_files_are_held_against_them(tmp_path: Path) -> None:
    known = json.loads((CASTLE / "cameras.json").read_text())
    frames = known["frames"][3:7]
    (tmp_path / "f" / "images").mkdir(parents=True)
    for frame in frames:
        with Image.open(CASTLE / frame["file"]) as photo:
            photo.resize((448, 299)).save(tmp_path / "f" / frame["file"])
    (tmp_path / "f" / "cameras.json").write_text(json.dumps(known | {"frames": frames}))
    mine = Mine(sfm=True, near=0.95)
    found = mine.find_all(Request("out", (str(tmp_path / "f"),)))[0]
    assert any("poses of 4 of 4 photos by structure from motion" in note for note in found.notes)
    assert any("poses of cameras.json are not used" in note for note in found.notes)
    mine.checked(found, 0)
    assert any("epipolar distance of" in note and "fit" not in note for note in found.notes)
    true = {Path(frame["file"]).stem: np.array(frame["cam_to_world"]) for frame in frames}
    for item in found.items:
        one, two = (true[Path(path).stem] for path in (item.image1, item.image2))
        turn = np.reshape(item.T_2from1, (4, 4))[:3, :3] @ (np.linalg.inv(two) @ one)[:3, :3].T
        assert np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))) < 1
    found.poses = Packed(one._replace(pose=np.linalg.inv(one.pose)) for one in found.poses)
    with pytest.raises(CallError, match=r"fit inverted \(world to camera\), not as camera to world"):
        mine.checked(found, 0)
    Mine(accept_misfit=True).checked(found, 0)
    assert "the poses fit inverted" in found.notes[-1]


def test_a_camera_that_jumps_between_two_frames_is_seen(tmp_path: Path) -> None:
    model = tmp_path / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("1 SIMPLE_RADIAL 64 48 60 32 24 0\n")
    turns = {"a.jpg": 0, "b.jpg": 20, "c.jpg": 190, "d.jpg": 200}
    lines = [
        f"{number} {np.cos(np.radians(turn / 2))} 0 {np.sin(np.radians(turn / 2))} 0 0 0 0 1 {name}\n"
        for number, (name, turn) in enumerate(turns.items(), 1)
    ]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    assert _jumps(tmp_path / "sparse", list(turns)) == ["b.jpg"]
    nothing = Compared([], {}, 0, "", [])
    kept = reconstruct(tmp_path, list(turns), nothing, one_camera=True, ordered=True)
    assert kept.placed == set(turns) and kept.jumps == ("b.jpg",) and not kept.by_neighbours
