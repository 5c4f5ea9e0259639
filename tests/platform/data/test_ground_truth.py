"""Readers of the benchmarks' truth, on real bytes and on files written by the formats' descriptions."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.ground_truth import (
    NyuLabeled,
    read_depth_png,
    read_disparity,
    read_dpt,
    read_flo,
    read_flow,
    read_kitti_calibration,
    read_mask,
    read_middlebury_calibration,
    read_nyu_h5,
    read_png16,
    read_sintel_disparity,
    without,
)
from sightline.platform.data.pfm import read_pfm
from sightline.platform.data.warp import flow_of_disparity, warp_error, warped
from tests.support.truth_files import pfm, png8, png16, tagged

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
RNG = np.random.default_rng(3)


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"../shared/data/{name} is absent")
    return DATA / name


@pytest.mark.parametrize("channels", [1, 3])
def test_every_bit_of_a_16_bit_png_is_read(channels: int) -> None:
    values = RNG.integers(0, 65536, (11, 7) if channels == 1 else (11, 7, 3)).astype(np.uint16)
    assert np.array_equal(read_png16(png16(values), channels), values)


def test_kitti_flow_keeps_zero_apart_from_unknown() -> None:
    flow = np.round(RNG.normal(0, 80, (6, 5, 2)) * 64) / 64
    valid = RNG.random((6, 5)) < 0.6
    flow[0, 0], valid[0, 0] = 0, True
    stored = np.concatenate([np.where(valid[..., None], flow * 64 + 2**15, 0), valid[..., None]], axis=-1)
    read = read_flow(png16(stored))
    assert np.array_equal(read[valid], flow[valid].astype(np.float32)) and np.isposinf(read[~valid]).all()


def test_flo_and_what_it_marks_as_unknown() -> None:
    flow = RNG.normal(0, 20, (4, 6, 2)).astype(np.float32)
    stored = flow.copy()
    stored[0, 0, 0], stored[1, 1, 1], stored[2, 2, 0] = 1.6e9, -2e9, np.nan
    read = read_flow(tagged(stored))
    unknown = np.zeros((4, 6), bool)
    unknown[[0, 1, 2], [0, 1, 2]] = True
    assert np.isposinf(read[unknown]).all() and np.array_equal(read[~unknown], flow[~unknown])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("header", ["{kind}\n{w} {h}\n{scale}\n", "{kind} {w} {h} {scale}\n", "{kind}\r\n{w}\r\n{h}\r\n{scale}\r\n"])
def test_float_maps_of_both_byte_orders_and_every_header(order: str, header: str) -> None:
    """The first number's byte is a line feed, which a careless reader takes for the header's."""
    one = RNG.normal(0, 9, (3, 5)).astype(np.float32)
    one[-1, 0] = np.frombuffer(b"\n\n\n\n", "<f4")[0]
    assert np.array_equal(read_pfm(pfm(one, order, header)), one)
    three = RNG.normal(0, 9, (3, 5, 3)).astype(np.float32)
    assert np.array_equal(read_pfm(pfm(three, order, header)), three)
    assert np.array_equal(read_flow(pfm(three)), three[..., :2])


def test_disparities_keep_zero_apart_from_unknown_where_the_format_does() -> None:
    disparity = RNG.uniform(0.5, 90, (4, 6)).astype(np.float32)
    unknown = RNG.random((4, 6)) < 0.4
    stored = np.where(unknown, np.inf, disparity)
    stored[0, 0] = 0.0
    assert np.array_equal(read_disparity(pfm(stored)), stored)
    whole = np.where(unknown, 0, np.round(disparity * 256))
    assert np.array_equal(read_disparity(png16(whole)), np.where(unknown, np.inf, whole / 256).astype(np.float32))
    steps = np.where(unknown, 0, RNG.integers(1, 256, (4, 6)))
    assert np.array_equal(read_disparity(png8(steps), scale=4), np.where(unknown, np.inf, steps / 4).astype(np.float32))
    with pytest.raises(BrokenSampleError, match="does not say its scale"):
        read_disparity(png8(steps))


def test_sintel_disparity_occlusion_and_invalid() -> None:
    disparity = np.round(RNG.uniform(0, 900, (4, 6)) * 2**14) / 2**14
    red = np.floor(disparity / 4)
    green = np.floor((disparity - 4 * red) * 64)
    blue = np.round((disparity - 4 * red - green / 64) * 2**14)
    stored = np.stack([red, green, blue], axis=-1)
    occluded, outside = (np.where(RNG.random((4, 6)) < 0.3, 255, 0) for _ in range(2))
    read = without(read_sintel_disparity(png8(stored)), read_mask(png8(occluded)), read_mask(png8(outside)))
    unknown = (occluded > 0) | (outside > 0)
    assert np.isposinf(read[unknown]).all() and read[~unknown] == pytest.approx(disparity[~unknown], abs=1e-3)
    with pytest.raises(BrokenSampleError, match="mask is 4 x 6, its truth 3 x 6"):
        without(read[:3], outside > 0)


def test_spring_stores_hdf5(tmp_path: Path) -> None:
    flow, disparity = RNG.normal(0, 9, (4, 6, 2)).astype(np.float32), RNG.uniform(0, 9, (4, 6)).astype(np.float32)
    flow[0, 0, 1] = disparity[1, 1] = np.nan
    for name, values in (("flow", flow), ("disparity", disparity)):
        with h5py.File(tmp_path / name, "w") as file:
            file[name] = values
    read = read_flow((tmp_path / "flow").read_bytes())
    assert np.isposinf(read[0, 0]).all() and np.array_equal(read[1:], flow[1:])
    assert np.isposinf(read_disparity((tmp_path / "disparity").read_bytes())[1, 1])
    with pytest.raises(BrokenSampleError, match="has no 'flow': it has disparity"):
        read_flow((tmp_path / "disparity").read_bytes())


def test_depths(tmp_path: Path) -> None:
    metres = RNG.uniform(0.5, 79, (5, 4)).astype(np.float32)
    assert np.array_equal(read_dpt(tagged(metres[..., None])), metres)
    stored = np.round(metres * 256)
    stored[0, 0], stored[1, 1] = 0, 65535
    read = read_depth_png(png16(stored))
    assert np.isposinf(read[[0, 1], [0, 1]]).all() and read[2:] == pytest.approx(metres[2:], abs=1 / 256)
    assert read_depth_png(png16(np.full((1, 1), 1234)), scale=100)[0, 0] == pytest.approx(12.34)


def test_nyu_is_turned_from_columns_first_and_read_frame_by_frame(tmp_path: Path) -> None:
    images, depths = RNG.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8), RNG.uniform(0, 9, (3, 5, 7)).astype(np.float32)
    depths[1, 2, 3] = 0
    with h5py.File(tmp_path / "nyu.mat", "w") as file:
        file["images"], file["depths"] = images.transpose(0, 3, 2, 1), depths.transpose(0, 2, 1)
    with h5py.File(tmp_path / "nyu.mat") as file:
        frames = NyuLabeled(file)
        assert len(frames) == 3 and np.array_equal(frames[1].image, images[1])
        assert np.isposinf(frames[1].depth[2, 3]) and np.array_equal(frames[0].depth, depths[0])
        with pytest.raises(BrokenSampleError, match="lacks rawDepths"):
            NyuLabeled(file, raw=True)
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["rgb"], file["depth"] = images[0].transpose(2, 0, 1), depths[1]
    frame = read_nyu_h5((tmp_path / "one.h5").read_bytes())
    assert np.array_equal(frame.image, images[0]) and np.isposinf(frame.depth[2, 3])


def test_middleburys_calibration_gives_metric_depth() -> None:
    text = "cam0=[3997.684 0 1176.728; 0 3997.684 1011.728; 0 0 1]\ncam1=[3997.684 0 1307.839; 0 3997.684 1011.728; 0 0 1]\n"
    text += "doffs=131.111\nbaseline=193.001\nwidth=2964\nheight=1988\nndisp=280\nisint=0\nvmin=31\n"
    calibration = read_middlebury_calibration(text)
    assert calibration.size == (1988, 2964) and calibration.K1[0, 0] == 3997.684
    depth = calibration.depth(np.array([[100.0, np.inf, -131.111]]))
    assert depth[0, 0] == pytest.approx(193.001 * 3997.684 / 231.111, rel=1e-6) and np.isposinf(depth[0, 1:]).all()
    assert read_middlebury_calibration(text.replace("doffs=131.111\n", "")).offset == pytest.approx(131.111)
    for broken in (text.replace("baseline", "base"), text.replace("[3997.684 0", "[3997.684"), ""):
        with pytest.raises(BrokenSampleError, match=r"calib\.txt"):
            read_middlebury_calibration(broken)


def test_kittis_calibration() -> None:
    text = "calib_time: 09-Jan-2012 13:57:47\nP_rect_02: 721.5 0 609.6 44.86 0 721.5 172.9 0.2164 0 0 1 0.002746\n"
    text += "P_rect_03: 721.5 0 609.6 -339.5 0 721.5 172.9 2.2 0 0 1 0.002729\n"
    calibration = read_kitti_calibration(text)
    assert calibration.baseline == pytest.approx((44.86 + 339.5) / 721.5) and calibration.offset == 0
    with pytest.raises(BrokenSampleError, match="no camera 5"):
        read_kitti_calibration(text, right=5)


def test_damaged_files_are_named() -> None:
    flow = tagged(np.zeros((4, 6, 2)))
    grey = png16(np.ones((2, 2)))
    for data, word in (
        (flow[:-4], "4|damaged flow field"),
        (flow + b"\0", "damaged flow field"),
        (struct.pack("<fii", 202021.25, 100_000, 100_000), "the limit is"),
        (struct.pack("<fii", 202021.25, -4, 6), "the limit is"),
        (struct.pack(">fii", 202021.25, 6, 4), "not a readable flow"),
        (grey, "16 bits and 3 channels is needed; this has 16 bits, grey"),
        (b"", "not a readable flow"),
        (pfm(np.zeros((2, 2, 3)))[:-1], "damaged float map"),
        (b"PF\nx y\n-1\n", "no header"),
    ):
        with pytest.raises(BrokenSampleError, match=word):
            read_flow(data)
    with pytest.raises(BrokenSampleError, match="one channel, this float map has three"):
        read_disparity(pfm(np.zeros((2, 2, 3))))
    with pytest.raises(BrokenSampleError, match="damaged PNG"):
        read_disparity(grey[:-30])
    with pytest.raises(BrokenSampleError, match="does not begin with"):
        read_flo(b"PIEX" + flow[4:])


# Real bytes: a truth that fits makes image 2 look like image 1.


def rgb(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("name", "still", "moved"),
    [
        ("cones", 43.4, 8.8),
        pytest.param("adirondack", 26.0, 10.0, marks=pytest.mark.slow),
        pytest.param("playground", 18.2, 11.5, marks=pytest.mark.slow),
    ],
)
def test_real_disparities_warp_the_right_image_to_the_left(name: str, still: float, moved: float) -> None:
    folder = real(f"stereo/{name}")
    left, right = (rgb(folder / f"{side}.png") for side in ("left", "right"))
    disparity = read_disparity((folder / "disp_left.png").read_bytes())
    found = warp_error(left, right, flow_of_disparity(disparity))
    assert (found.still, found.moved) == (pytest.approx(still, abs=0.3), pytest.approx(moved, abs=0.3))
    swapped = warp_error(right, left, flow_of_disparity(disparity))
    assert found.moved < swapped.moved and found.moved < warp_error(left, right, flow_of_disparity(-disparity)).moved


@pytest.mark.parametrize("index", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2, 3))])
def test_real_flows_warp_image_2_to_image_1(index: int) -> None:
    folder = real("flow-chairs")
    one, two = (rgb(folder / f"{index:02d}_img{i}.png") for i in (1, 2))
    flow = read_flow((folder / f"{index:02d}_flow.flo").read_bytes())
    found = warp_error(one, two, flow)
    assert flow.shape == (*one.shape[:2], 2) and found.moved < 0.5 * found.still
    assert found.moved < warp_error(one, two, -flow).moved and found.moved < warp_error(two, one, flow).moved


def test_what_leaves_the_image_or_is_unknown_has_no_part_in_a_warp() -> None:
    image = RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    flow = np.zeros((5, 6, 2), np.float32)
    flow[..., 0] = 1
    flow[0, 0] = np.inf
    moved, inside = warped(image, flow)
    assert not inside[0, 0] and not inside[:, 5].any() and inside.sum() == 24
    assert np.array_equal(moved[1:, :5], image[1:, 1:])
    assert warp_error(image, image, np.full((5, 6, 2), np.inf, np.float32)).pixels == 0
