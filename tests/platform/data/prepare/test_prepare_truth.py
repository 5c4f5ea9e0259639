"""`prepare pairs stereo` and `flow`: every layout, written by its description, is found, kept to the bit and fits its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.images import Resize, encode_image, encode_png
from sightline.platform.data.prepare.job import item_shards
from sightline.platform.data.prepare.pair_sources.truth import Flow, Stereo
from sightline.platform.data.prepare.pair_sources.truth_pairs import TruthPair
from sightline.platform.data.prepare.source import Request
from sightline.platform.data.remarks import collected
from sightline.platform.data.schema import decode_row
from sightline.platform.data.warp import flow_of_disparity, warp_error
from tests.support.truth_files import hdf5, kitti_flow, npy, pfm, png8, png16, sintel_disparity, tagged

H, W = 40, 64
INF = np.inf


def picture(seed: int) -> np.ndarray:
    """Smooth, so that places between pixels are known."""
    noise = np.random.default_rng(seed).integers(0, 256, (H // 4, W // 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(noise).resize((W, H), Image.Resampling.BICUBIC))


D = np.where(np.arange(H) < 20, 3, 5)[:, None].repeat(W, 1).astype(np.float32)
F = np.stack([np.where(np.arange(H) < 20, 4, -3)[:, None].repeat(W, 1), np.full((H, W), 2)], -1).astype(np.float32)
KNOWN = np.random.default_rng(1).random((H, W)) < 0.8
SEEN = np.random.default_rng(2).random((H, W)) < 0.9
SPARSE, SPARSE_FLOW = np.where(KNOWN, D, INF), np.where(KNOWN[..., None], F, INF)


def moved(second: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Image 1 of the image 2 and a flow in whole pixels."""
    rows, columns = np.mgrid[:H, :W]
    return second[np.clip(rows + flow[..., 1].astype(int), 0, H - 1), np.clip(columns + flow[..., 0].astype(int), 0, W - 1)]


TWO = picture(3)
LEFT, FIRST = moved(TWO, flow_of_disparity(D)), moved(TWO, F)
L, R, ONE = encode_png(LEFT), encode_png(TWO), encode_png(FIRST)
LJ, RJ, ONEJ = (encode_image(one, 98) for one in (LEFT, TWO, FIRST))
HIDDEN = png8(np.where(SEEN, 0, 255))
MIDDLEBURY = "cam0=[50 0 31; 0 50 19; 0 0 1]\ncam1=[50 0 33; 0 50 19; 0 0 1]\ndoffs=2\nbaseline=200\nwidth=64\nheight=40\n"
KITTI = "P_rect_02: 50 0 31 5 0 50 19 0 0 0 1 0\nP_rect_03: 50 0 31 -20 0 50 19 0 0 0 1 0\n"
NOT_SEEN = KNOWN & ~SEEN
VKITTI_CM = np.where(KNOWN, np.round(725.0087 * 0.532725 * 100 / D), 65535)
VKITTI_D = np.where(KNOWN, np.float32(725.0087 * 0.532725) / (VKITTI_CM / 100), INF)


def twice(values: np.ndarray) -> np.ndarray:
    return values.repeat(2, 0).repeat(2, 1)


def vkitti(flow: np.ndarray) -> bytes:
    units = np.round((flow / (W - 1, H - 1) + 1) / 2 * 65535)
    return png16(np.concatenate([np.where(KNOWN[..., None], units, 0), KNOWN[..., None]], axis=-1))


Files = dict[str, bytes]
STEREO: dict[str, tuple[Files, np.ndarray, np.ndarray | None, int]] = {
    "KITTI 2015": (
        {
            "kitti/training/image_2/000007_10.png": L,
            "kitti/training/image_2/000007_11.png": L,
            "kitti/training/image_3/000007_10.png": R,
            "kitti/training/disp_occ_0/000007_10.png": png16(np.where(KNOWN, D * 256, 0)),
            "kitti/training/disp_noc_0/000007_10.png": png16(np.where(KNOWN & SEEN, D * 256, 0)),
            "kitti/training/calib_cam_to_cam/000007.txt": KITTI.encode(),
        },
        SPARSE,
        NOT_SEEN,
        1,
    ),
    "KITTI 2012": (
        {"colored_0/000000_10.png": L, "colored_1/000000_10.png": R, "disp_occ/000000_10.png": png16(np.where(KNOWN, D * 256, 0))},
        SPARSE,
        None,
        1,
    ),
    "KITTI 2012, grey": (
        {
            "image_0/000000_10.png": L,
            "image_1/000000_10.png": R,
            "disp_occ/000000_10.png": png16(np.where(KNOWN, D * 256, 0)),
            "disp_noc/000000_10.png": png16(np.where(KNOWN & SEEN, D * 256, 0)),
        },
        SPARSE,
        NOT_SEEN,
        1,
    ),
    "Middlebury or ETH3D": (
        {
            "Adirondack-perfect/im0.png": L,
            "Adirondack-perfect/im1.png": R,
            "Adirondack-perfect/disp0.pfm": pfm(SPARSE),
            "Adirondack-perfect/calib.txt": MIDDLEBURY.encode(),
            "two_view_training/delivery/im0.png": L,
            "two_view_training/delivery/im1.png": R,
            "two_view_training/delivery/calib.txt": MIDDLEBURY.encode(),
            "two_view_training_gt/delivery/disp0GT.pfm": pfm(SPARSE, ">"),
        },
        SPARSE,
        None,
        2,
    ),
    "Middlebury 2001 and 2003": (
        {"cones/im2.png": L, "cones/im6.png": R, "cones/disp2.png": png8(np.where(KNOWN, D * 4, 0))},
        SPARSE,
        None,
        1,
    ),
    "Middlebury 2005 and 2006": (
        {"Art/view1.png": L, "Art/view5.png": R, "Art/disp1.png": png8(np.where(KNOWN, D * 4, 0))},
        SPARSE,
        None,
        1,
    ),
    "Sintel": (
        {
            **{f"training/{kind}_left/alley_1/frame_0001.png": L for kind in ("clean", "final")},
            **{f"training/{kind}_right/alley_1/frame_0001.png": R for kind in ("clean", "final")},
            "training/disparities/alley_1/frame_0001.png": sintel_disparity(D),
            "training/occlusions/alley_1/frame_0001.png": HIDDEN,
            "training/outofframe/alley_1/frame_0001.png": png8(np.where(KNOWN, 0, 255)),
        },
        D,
        ~SEEN | ~KNOWN,
        2,
    ),
    "subset of FlyingThings3D": (
        {
            "train/image_clean/left/0000000.png": L,
            "train/image_clean/right/0000000.png": R,
            "train/disparity/left/0000000.pfm": pfm(-D),
            "train/disparity_occlusions/left/0000000.png": HIDDEN,
        },
        D,
        ~SEEN,
        1,
    ),
    "SceneFlow": (
        {
            "frames_finalpass_webp/TRAIN/A/0000/left/0006.png": L,
            "frames_finalpass_webp/TRAIN/A/0000/right/0006.png": R,
            "disparity/TRAIN/A/0000/left/0006.pfm": pfm(D),
            "disparity/TRAIN/A/0000/right/0006.pfm": pfm(D),
        },
        D,
        None,
        1,
    ),
    "Spring": (
        {
            "train/0001/frame_left/frame_left_0001.png": L,
            "train/0001/frame_right/frame_right_0001.png": R,
            "train/0001/disp1_left/disp1_left_0001.dsp5": hdf5("disparity", twice(np.where(KNOWN, D, np.nan))),
        },
        SPARSE,
        None,
        1,
    ),
    "TartanAir": (
        {
            "office/Easy/P000/image_left/000000_left.png": L,
            "office/Easy/P000/image_right/000000_right.png": R,
            "office/Easy/P000/depth_left/000000_left_depth.npy": npy((80 / D).astype(np.float32)),
        },
        D,
        None,
        1,
    ),
    "Virtual KITTI 2": (
        {
            "vkitti_2.0.3_rgb/Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg": LJ,
            "vkitti_2.0.3_rgb/Scene01/clone/frames/rgb/Camera_1/rgb_00000.jpg": RJ,
            "vkitti_2.0.3_depth/Scene01/clone/frames/depth/Camera_0/depth_00000.png": png16(VKITTI_CM),
        },
        VKITTI_D,
        None,
        1,
    ),
    "CREStereo": (
        {"tree/ab_left.jpg": LJ, "tree/ab_right.jpg": RJ, "tree/ab_left.disp.png": png16(D * 32), "tree/ab_right.disp.png": png16(D * 32)},
        D,
        None,
        1,
    ),
    "a folder a pair": (
        {
            "mine/one/left.png": L,
            "mine/one/right.jpg": RJ,
            "mine/one/disp_left.png": png16(np.where(KNOWN, D * 256, 0)),
            "mine/one/mask_nonocc.png": png8(np.where(SEEN, 255, 0)),
        },
        SPARSE,
        ~SEEN,
        1,
    ),
    "folders left, right and disparity": (
        {"left/a/b.png": L, "right/a/b.png": R, "disparity/a/b.npy": npy(np.where(KNOWN, D, np.nan)), "occluded/a/b.png": HIDDEN},
        SPARSE,
        ~SEEN,
        1,
    ),
}
FLOW: dict[str, tuple[Files, np.ndarray, np.ndarray | None, int]] = {
    "KITTI 2015": (
        {
            "training/image_2/000000_10.png": ONE,
            "training/image_2/000000_11.png": R,
            "training/flow_occ/000000_10.png": kitti_flow(F, KNOWN),
            "training/flow_noc/000000_10.png": kitti_flow(F, KNOWN & SEEN),
        },
        SPARSE_FLOW,
        NOT_SEEN,
        1,
    ),
    "KITTI 2012": (
        {"colored_0/000000_10.png": ONE, "colored_0/000000_11.png": R, "flow_occ/000000_10.png": kitti_flow(F, KNOWN)},
        SPARSE_FLOW,
        None,
        1,
    ),
    "HD1K": (
        {
            "hd1k_input/image_2/000003_0009.png": ONE,
            "hd1k_input/image_2/000003_0010.png": R,
            "hd1k_flow_gt/flow_occ/000003_0009.png": kitti_flow(F, KNOWN),
            "hd1k_flow_gt/flow_occ/000003_0010.png": kitti_flow(F, KNOWN),
        },
        SPARSE_FLOW,
        None,
        1,
    ),
    "Sintel": (
        {
            **{f"training/{kind}/alley_1/frame_0001.png": ONE for kind in ("clean", "final")},
            **{f"training/{kind}/alley_1/frame_0002.png": R for kind in ("clean", "final")},
            "training/flow/alley_1/frame_0001.flo": tagged(F),
            "training/occlusions/alley_1/frame_0001.png": HIDDEN,
            "training/invalid/alley_1/frame_0001.png": png8(np.where(KNOWN, 0, 255)),
        },
        SPARSE_FLOW,
        ~SEEN,
        2,
    ),
    "FlyingChairs": ({"data/00001_img1.ppm": ONE, "data/00001_img2.ppm": R, "data/00001_flow.flo": tagged(F)}, F, None, 1),
    "FlyingChairs2": (
        {
            "train/0000000-img_0.png": ONE,
            "train/0000000-img_1.png": R,
            "train/0000000-flow_01.flo": tagged(F),
            "train/0000000-flow_10.flo": tagged(F),
            "train/0000000-occ_01.png": HIDDEN,
        },
        F,
        ~SEEN,
        1,
    ),
    "subset of FlyingThings3D": (
        {
            "val/image_clean/left/0000006.png": ONE,
            "val/image_clean/left/0000007.png": R,
            "val/flow/left/into_future/0000006.flo": tagged(F),
            "val/flow_occlusions/left/into_future/0000006.png": HIDDEN,
        },
        F,
        ~SEEN,
        1,
    ),
    "SceneFlow": (
        {
            "frames_cleanpass/35mm_focallength/scene_forwards/fast/left/0001.png": ONE,
            "frames_cleanpass/35mm_focallength/scene_forwards/fast/left/0002.png": R,
            "optical_flow/35mm_focallength/scene_forwards/fast/into_future/left/OpticalFlowIntoFuture_0001_L.pfm": pfm(
                np.concatenate([F, np.zeros((H, W, 1))], -1)
            ),
        },
        F,
        None,
        1,
    ),
    "Spring": (
        {
            "train/0001/frame_left/frame_left_0001.png": ONE,
            "train/0001/frame_left/frame_left_0002.png": R,
            "train/0001/flow_FW_left/flow_FW_left_0001.flo5": hdf5("flow", twice(np.where(KNOWN[..., None], F, np.nan))),
        },
        SPARSE_FLOW,
        None,
        1,
    ),
    "TartanAir": (
        {
            "P000/image_left/000000_left.png": ONE,
            "P000/image_left/000001_left.png": R,
            "P000/flow/000000_000001_flow.npy": npy(F),
            "P000/flow/000000_000001_mask.npy": npy(np.where(KNOWN, 0, 100).astype(np.uint8)),
        },
        SPARSE_FLOW,
        None,
        1,
    ),
    "Virtual KITTI 2": (
        {
            "Scene01/clone/frames/rgb/Camera_1/rgb_00009.jpg": ONEJ,
            "Scene01/clone/frames/rgb/Camera_1/rgb_00010.jpg": RJ,
            "Scene01/clone/frames/forwardFlow/Camera_1/flow_00009.png": vkitti(F),
        },
        SPARSE_FLOW,
        None,
        1,
    ),
    "Middlebury": (
        {"other-data/Grove2/frame10.png": ONE, "other-data/Grove2/frame11.png": R, "other-gt-flow/Grove2/flow10.flo": tagged(SPARSE_FLOW)},
        SPARSE_FLOW,
        None,
        1,
    ),
    "a folder a pair": (
        {"mine/one/image1.png": ONE, "mine/one/image2.png": R, "mine/one/flow.npy": npy(F), "mine/one/occluded.png": HIDDEN},
        F,
        ~SEEN,
        1,
    ),
    "folders image1, image2 and flow": ({"img1/a.png": ONE, "img2/a.png": R, "flow/a.flo": tagged(F)}, F, None, 1),
}


def write(folder: Path, files: Files) -> str:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return str(folder)


def sample(item: TruthPair, resize: Resize | None = None) -> dict[str, Any]:
    return decode_row(item.row(resize or Resize()), "pairs")


def check(folder: Path, source: Stereo | Flow, case: tuple[Files, np.ndarray, np.ndarray | None, int], layout: str) -> None:
    files, truth, hidden, count = case
    found = source.find(write(folder, files), "set")
    assert len(found.items) == count and not found.skips and {item.layout for item in found.items} == {layout}
    for item in found.items:
        stored = sample(item)
        values = stored[source.column]
        expected = np.where(np.isfinite(truth), truth, np.nan).astype(np.float32)
        if layout in ("TartanAir", "Virtual KITTI 2"):  # which divide
            assert np.allclose(values, expected, atol=2e-3, equal_nan=True)
        else:
            assert values.tobytes() == expected.tobytes()
        assert (hidden is None and "occluded" not in stored) or np.array_equal(stored["occluded"], hidden)
        error = warp_error(stored["image1"], stored["image2"], flow_of_disparity(values) if source.column == "disparity" else values)
        assert error.moved < (3 if ".jpg" in " ".join(files) else 0.05) and error.still > 20 and error.pixels > 900


@pytest.mark.parametrize("layout", STEREO)
def test_stereo(tmp_path: Path, layout: str) -> None:
    check(tmp_path, Stereo(scale=4.0 if "200" in layout and "Middlebury" in layout else None), STEREO[layout], layout)


@pytest.mark.parametrize("layout", FLOW)
def test_flow(tmp_path: Path, layout: str) -> None:
    check(tmp_path, Flow(), FLOW[layout], layout)


def test_calibration_becomes_intrinsics_and_a_pose(tmp_path: Path) -> None:
    found = Stereo().find(write(tmp_path, STEREO["KITTI 2015"][0] | STEREO["Middlebury or ETH3D"][0]), "set")
    kitti, middlebury = (sample(next(one for one in found.items if one.layout.startswith(name)), Resize(20)) for name in ("KITTI", "Midd"))
    assert kitti["K1"].tolist() == [[25, 0, 15.25], [0, 25, 9.25], [0, 0, 1]] and kitti["T_2from1"][0].tolist() == [1, 0, 0, -0.5]
    assert middlebury["K2"][0, 2] - middlebury["K1"][0, 2] == 1 and middlebury["T_2from1"][0, 3] == -0.2
    write(tmp_path, {"Adirondack-perfect/calib.txt": b"cam0=[1 2]", "two_view_training/delivery/calib.txt": b""})
    with collected() as said:
        assert "K1" not in sample(next(one for one in found.items if one.layout.startswith("Midd")))
    assert list(said) == ["calibration file(s) that cannot be used: pairs without K and T_2from1"]


def test_truth_follows_a_cut_and_a_resize(tmp_path: Path) -> None:
    (item,) = Flow().find(write(tmp_path, FLOW["FlyingChairs2"][0]), "set").items
    stored = sample(item, Resize(20, square=True, quality=98))
    assert stored["flow"].shape == (20, 20, 2) and set(np.unique(stored["flow"])) == {-1.5, 1.0, 2.0}
    assert np.array_equal(stored["occluded"], ~SEEN[1::2, 13:53:2])
    assert warp_error(stored["image1"], stored["image2"], stored["flow"]).moved < 15


def test_splits_of_a_data_set_stay(tmp_path: Path) -> None:
    files = {f"{part}/{name.partition('/')[2]}": data for part in ("train", "val") for name, data in FLOW["FlyingChairs2"][0].items()}
    assert {part: len(items) for part, items in Flow().find(write(tmp_path / "2", files), "set").parts.items()} == {"train": 1, "val": 1}
    chairs = {
        f"data/0000{n}_{kind}": data for n in (1, 2, 3) for kind, data in (("img1.ppm", ONE), ("img2.ppm", R), ("flow.flo", tagged(F)))
    }
    parts = Flow().find(write(tmp_path / "1", chairs | {"FlyingChairs_train_val.txt": b"1\n2\n1\n"}), "set").parts
    assert {part: [item.id for item in items] for part, items in parts.items()} == {
        "train": ["set/data/00001_flow", "set/data/00003_flow"],
        "val": ["set/data/00002_flow"],
    }


def test_lists(tmp_path: Path) -> None:
    text = "a left.png\tb.png\td.pfm\na left.png\tb.png\td.pfm\to.png\n../x.png\tb.png\td.pfm\nmissing.png\tb.png\td.pfm\none two\n"
    write(tmp_path, {"a left.png": L, "b.png": R, "d.pfm": pfm(SPARSE), "o.png": HIDDEN, "list.txt": text.encode()})
    found = Stereo().find(str(tmp_path / "list.txt"), "list")
    assert [sample(item)["disparity"].tobytes() for item in found.items] == [np.where(KNOWN, D, np.nan).astype("f4").tobytes()] * 2
    assert np.array_equal(sample(found.items[1])["occluded"], ~SEEN)
    assert [why for _, why in found.skips] == [
        "a path leaves the folder",
        "file is missing",
        "a line is not image 1, image 2, truth and, if there is one, a mask",
    ]


BROKEN = {
    "truth of another size": ({"disparity/a.pfm": pfm(D[1:])}, "truth and image differ in size: 64 x 39 and 64 x 40, a.pfm"),
    "images of two sizes": ({"right/a.png": encode_png(TWO[:, 1:])}, "the two images differ in size: 64 x 40 and 63 x 40"),
    "a mask of another size": ({"occluded/a.png": png8(np.zeros((4, 4)))}, "the mask is 4 x 4, its truth 40 x 64: a.pfm"),
    "nothing known": ({"disparity/a.pfm": pfm(np.full((H, W), np.nan))}, "no pixel of the truth is known: a.pfm"),
    "negative": ({"disparity/a.pfm": pfm(-D)}, "negative disparity .*swapped.*-5 px, a.pfm"),
    "a flow": ({"disparity/a.pfm": pfm(np.zeros((H, W, 3)))}, "a disparity has one channel, .*: a.pfm"),
    "cut short": ({"disparity/a.pfm": pfm(D)[:-9]}, "damaged float map: .*, a.pfm"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_pairs_are_named(tmp_path: Path, fault: str) -> None:
    files = {"left/a.png": L, "right/a.png": R, "disparity/a.pfm": pfm(D)} | BROKEN[fault][0]
    (item,) = Stereo().find(write(tmp_path, files), "set").items
    with pytest.raises(BrokenSampleError, match=BROKEN[fault][1]):
        item.row(Resize())


def test_missing_and_extra_files_are_counted(tmp_path: Path) -> None:
    files = {f"{side}/{name}.png": data for side, data in (("left", L), ("right", R)) for name in "abc"}
    files |= {"disparity/a.pfm": pfm(D), "disparity/b.pfm": pfm(D), "disparity/x.pfm": pfm(D), "right/d.png": R, "note.md": b"x"}
    found = Stereo().find(write(tmp_path, files), "set")
    assert [item.id for item in found.items] == ["set/disparity/a", "set/disparity/b"]
    assert found.skips == [
        ("disparity/x.pfm (looked for left/x)", "truth whose images are missing"),
        ("left/c.png", "an image without truth"),
    ]
    assert any(".md" in note for note in found.notes)
    with pytest.raises(CallError, match=r"no pairs were found in .*FlyingChairs with flow: `sightline prepare pairs flow` reads it"):
        outputs(tmp_path / "chairs", FLOW["FlyingChairs"][0], Stereo())
    last = Flow().find(write(tmp_path / "flow", FLOW["HD1K"][0]), "set")
    assert last.notes[0] == "1 truth(s) of last frames are not stored: the next image is not there"


def outputs(folder: Path, files: Files, source: Stereo | Flow) -> list[str]:
    (output,), _ = source.outputs(Request(str(folder / "out"), (write(folder / "in", files),)))
    return list(output.notes)


WRONG = {
    "KITTI's PNG read raw": (
        Stereo(),
        {"left/a.png": L, "right/a.png": R, "disparity/a.pfm": pfm(D * 256)},
        r"the disparity of .* \(folders left.*\) is 256 times too large: 0.0% of the pixels of 1 pair\(s\) stay inside",
        "--scale 65536",
    ),
    "left and right": (
        Stereo(),
        {"left/a.png": R, "right/a.png": L, "disparity/a.pfm": pfm(D)},
        "has the wrong sign, or left and right are swapped",
        "--accept-misfit",
    ),
    "a flow backwards": (
        Flow(),
        {"image1/a.png": R, "image2/a.png": ONE, "flow/a.flo": tagged(F)},
        "leads from image 2 to image 1: its sign is wrong, or the images are swapped",
        "--accept-misfit",
    ),
    "x and y": (
        Flow(),
        {"image1/a.png": ONE, "image2/a.png": R, "flow/a.flo": tagged(F[..., ::-1])},
        "has x and y swapped",
        "--accept-misfit",
    ),
    "of other images": (
        Flow(),
        {"image1/a.png": encode_png(picture(8)), "image2/a.png": encode_png(np.full_like(TWO, 128)), "flow/a.flo": tagged(F * 30)},
        "does not bring the images together",
        "--accept-misfit",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_truth_that_does_not_fit_is_refused_by_what_is_wrong(tmp_path: Path, fault: str) -> None:
    source, files, message, hint = WRONG[fault]
    with pytest.raises(CallError, match=message) as error:
        outputs(tmp_path, files, source)
    assert hint in error.value.hint
    assert any(message.split(":")[0].split(r"\) ")[-1] in note for note in outputs(tmp_path, files, type(source)(accept_misfit=True)))


def test_what_fits_is_told_with_its_error(tmp_path: Path) -> None:
    (note,) = outputs(tmp_path, FLOW["FlyingChairs"][0], Flow())
    assert note.startswith("FlyingChairs: warp error of 1 pair(s): 0.0 of 255 where the images differ by ")
    assert note.endswith(" unmoved; displacements of 4.0 px on average")


def test_a_pair_that_does_not_fit_among_those_that_do_is_told(tmp_path: Path) -> None:
    (item,) = Flow().find(write(tmp_path, {"image1/a.png": R, "image2/a.png": ONE, "flow/a.flo": tagged(F)}), "set").items
    with collected() as said:
        item.row(Resize())
    assert list(said) == ["pair(s) whose images agree less when moved by their truth: look at them on the contact sheet"]


def test_shards_hold_what_fits_in_memory(tmp_path: Path) -> None:
    (item,) = Flow().find(write(tmp_path, FLOW["FlyingChairs"][0]), "set").items
    assert [shard.count for shard in item_shards([item] * 9, Resize(), 0)] == [9]
