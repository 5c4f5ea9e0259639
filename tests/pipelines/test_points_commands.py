"""`sightline prepare points` and `sightline inspect` of clouds: what is told, and what is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from asking import Ask
from PIL import Image

from sightline.methods.ops.clouds import draw_cloud
from sightline.platform.data.clouds import decode_points
from sightline.platform.data.contact_sheet import class_colours
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_image, encode_depth


@pytest.fixture
def parts(ask: Ask, tmp_path: Path) -> Path:
    """Six clouds in two classes: boxes of 2 x 1 x 1 whose upper half is another part; one has doubled points."""
    points = np.random.default_rng(0).uniform(-1, 1, (6, 300, 3)) * [1, 0.5, 0.5]
    points[5, 150:] = points[5, :150]
    part = np.where(points[..., 1] > 0, 1, 0)
    np.savez(tmp_path / "a.npz", xyz=points, part=part, label=[0, 0, 0, 1, 1, 1], classes=["cup", "jug"], parts=["low", "high", "none"])
    assert ask("prepare", "points", "arrays", tmp_path / "a.npz", "--out", tmp_path / "out")[0] == 0
    return tmp_path / "out"


def test_inspect_tells_what_clouds_there_are(ask: Ask, parts: Path) -> None:
    code, said, _ = ask("inspect", parts)
    assert code == 0
    assert "points       300 a cloud, in different places 150 to 300" in said and "extent       1.9" in said
    assert "classes      2: cup (3), jug (3)" in said and "parts        3; share of the points:" in said
    shares = {line.split()[1]: line.split()[2] for line in said.splitlines() if line.strip()[:1].isdigit() and line.endswith("%")}
    assert set(shares) == {"low", "high", "none"} and shares["none"] == "0.00%"
    answer = json.loads(ask("inspect", parts, "--json")[1])
    assert answer["points"] == [300, 300] and answer["distinct"] == [150, 300] and sum(answer["part_points"].values()) == 1800


def test_the_contact_sheet_shows_parts_in_their_colours(ask: Ask, parts: Path, tmp_path: Path) -> None:
    assert ask("inspect", parts, "--contact-sheet", tmp_path / "sheet.png")[0] == 0
    tile = decode_image((tmp_path / "sheet.png").read_bytes())[6:134, 6:134].astype(int)
    low, high = class_colours(2).astype(int)
    dots = (tile.min(axis=2) < 200).nonzero()
    of_high = np.abs(tile[dots] - high).sum(axis=1) < np.abs(tile[dots] - low).sum(axis=1)
    assert 0.2 < of_high.mean() < 0.8 and dots[0][of_high].mean() + 10 < dots[0][~of_high].mean()


def test_a_picture_is_seen_from_the_side_and_a_little_above() -> None:
    high, right, near = ([0, 0.8, 0], [0.8, 0, 0], [0, 0, 0.8])
    where = []
    for point in (high, right, near):
        dark = np.argwhere(draw_cloud(np.array([point], float), 100).min(axis=2) < 255)
        assert len(dark) == 4
        where.append(dark.mean(axis=0) - 50)
    assert where[0][0] < -20 and where[1][1] > 20 and where[2][0] > 5
    both = draw_cloud(np.array([[0, 0, 0], [0, 0, 0.2], [0, 3, 0]], float), 100)
    assert (both < 255).any() and draw_cloud(np.array([[0, 3, 0]], float), 100).min() == 255, "what lies outside is not drawn"


def test_clouds_of_depth_images_stand_upright(ask: Ask, tmp_path: Path) -> None:
    depth = np.zeros((4, 6), np.float32)
    depth[0, 5], depth[3, 0] = 2.0, 1.0
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "d.png").write_bytes(encode_depth(depth))
    Image.new("RGB", (6, 4)).save(tmp_path / "in" / "c.png")
    frame = {"file": "c.png", "depth": "d.png", "K": [[2, 0, 2.5], [0, 2, 1.5], [0, 0, 1]]}
    Image.new("RGB", (6, 4)).save(tmp_path / "in" / "other.png")
    (tmp_path / "in" / "cameras.json").write_text(json.dumps({"frames": [frame, {**frame, "file": "other.png", "K": None}]}))
    assert ask("prepare", "points", "depth", tmp_path / "in", "--out", tmp_path / "out", "--max-skipped", "0.5")[0] == 0
    made = Dataset.open(tmp_path / "out")
    points = decode_points(made.read(0, 0)["points"][0].as_py())
    np.testing.assert_allclose(points, [[2.5, 1.5, -2], [-1.25, -0.75, -1]])
    assert [(item.reason, item.count) for item in made.manifest.provenance.skipped] == [("no intrinsics (say --intrinsics fx,fy,cx,cy)", 1)]
