"""How the data sets of stereo and flow lie on disk: a pattern that finds the truth, and where its images and masks are from there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from .truth_pairs import Column

_AT = r"(?P<at>(?:.*?/)??)"


@dataclass(frozen=True)
class TruthLayout:
    """Patterns and places are relative to any folder above; `{}` are groups of the pattern, `{next}` is the number after `n`, `{pass}` one
    of `passes`. Images and masks are named without suffix; of several places, with | between them, the first that is there counts."""

    column: Column
    name: str
    truth: str
    image1: str
    image2: str
    form: str = ""
    """One of `truth_pairs.FORMS`; the column's own where empty."""
    masks: tuple[tuple[str, str], ...] = ()
    """(one of `truth_pairs.OCCLUSIONS`, place)"""
    calibration: tuple[tuple[str, str], ...] = ()
    """(form, file)"""
    passes: tuple[str, ...] = ("",)
    """Renderings of one scene with one truth."""
    own: bool = False
    """Of people's own data: tried where there is no other, and an image without truth is told."""

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(_AT + self.truth)


_stereo, _flow = partial(TruthLayout, "disparity"), partial(TruthLayout, "flow")
_PASSES = ("clean", "final")
STEREO = (
    _stereo(
        "KITTI 2015",
        r"disp_occ_0/(?P<n>(?P<six>\d{6})_10)\.png",
        "{at}image_2/{n}",
        "{at}image_3/{n}",
        masks=(("truth of what is visible", "{at}disp_noc_0/{n}"),),
        calibration=(("KITTI 2 3", "{at}calib_cam_to_cam/{six}.txt"),),
    ),
    _stereo(
        "KITTI 2012",
        r"disp_occ/(?P<n>(?P<six>\d{6})_10)\.png",
        "{at}colored_0/{n}",
        "{at}colored_1/{n}",
        masks=(("truth of what is visible", "{at}disp_noc/{n}"),),
        calibration=(("KITTI 2 3", "{at}calib/{six}.txt"),),
    ),
    _stereo(
        "KITTI 2012, grey",
        r"disp_occ/(?P<n>(?P<six>\d{6})_10)\.png",
        "{at}image_0/{n}",
        "{at}image_1/{n}",
        masks=(("truth of what is visible", "{at}disp_noc/{n}"),),
        calibration=(("KITTI 0 1", "{at}calib/{six}.txt"),),
    ),
    _stereo(
        "Middlebury or ETH3D",
        r"(?P<scene>[^/]+)/disp0(?:GT)?\.pfm",
        "{at}{scene}/im0|{ungt}{scene}/im0",
        "{at}{scene}/im1|{ungt}{scene}/im1",
        masks=(("visible", "{at}{scene}/mask0nocc"),),
        calibration=(("Middlebury", "{at}{scene}/calib.txt"), ("Middlebury", "{ungt}{scene}/calib.txt")),
    ),
    _stereo("Middlebury 2005 and 2006", r"(?P<scene>[^/]+)/disp1\.png", "{at}{scene}/view1", "{at}{scene}/view5"),
    _stereo("Middlebury 2001 and 2003", r"(?P<scene>[^/]+)/disp2\.png", "{at}{scene}/im2", "{at}{scene}/im6"),
    _stereo(
        "Sintel",
        r"disparities/(?P<scene>[^/]+)/(?P<n>frame_\d+)\.png",
        "{at}{pass}_left/{scene}/{n}",
        "{at}{pass}_right/{scene}/{n}",
        masks=(("occluded", "{at}occlusions/{scene}/{n}"), ("occluded", "{at}outofframe/{scene}/{n}")),
        passes=_PASSES,
        form="Sintel disparity",
    ),
    _stereo(
        "subset of FlyingThings3D",
        r"(?P<split>train|val)/disparity/left/(?P<n>\d+)\.pfm",
        "{at}{split}/image_{pass}/left/{n}",
        "{at}{split}/image_{pass}/right/{n}",
        masks=(("occluded", "{at}{split}/disparity_occlusions/left/{n}"),),
        passes=_PASSES,
        form="signed disparity",
    ),
    _stereo(
        "SceneFlow",
        r"disparity/(?P<scene>(?:(?P<split>TRAIN|TEST)/)?.+)/left/(?P<n>\d+)\.pfm",
        "{at}frames_{pass}pass/{scene}/left/{n}|{at}frames_{pass}pass_webp/{scene}/left/{n}",
        "{at}frames_{pass}pass/{scene}/right/{n}|{at}frames_{pass}pass_webp/{scene}/right/{n}",
        passes=_PASSES,
    ),
    _stereo(
        "Spring",
        r"(?P<scene>[^/]+)/disp1_left/disp1_left_(?P<n>\d+)\.dsp5",
        "{at}{scene}/frame_left/frame_left_{n}",
        "{at}{scene}/frame_right/frame_right_{n}",
        form="Spring disparity",
    ),
    _stereo(
        "TartanAir",
        r"(?P<scene>(?:.+/)?[^/]+)/depth_left/(?P<n>\d+)_left_depth\.npy",
        "{at}{scene}/image_left/{n}_left",
        "{at}{scene}/image_right/{n}_right",
        form="TartanAir depth",
    ),
    _stereo(
        "Virtual KITTI 2",
        r"(?P<scene>Scene\d+/[^/]+)/frames/depth/Camera_0/depth_(?P<n>\d+)\.png",
        "{at}{scene}/frames/rgb/Camera_0/rgb_{n}|{rgb}{scene}/frames/rgb/Camera_0/rgb_{n}",
        "{at}{scene}/frames/rgb/Camera_1/rgb_{n}|{rgb}{scene}/frames/rgb/Camera_1/rgb_{n}",
        form="VKITTI depth",
    ),
    _stereo("CREStereo", r"(?P<n>[^/]+)_left\.disp\.png", "{at}{n}_left", "{at}{n}_right", form="CREStereo disparity"),
    _stereo(
        "a folder a pair",
        r"(?P<scene>[^/]+)/(?:disp|disparity|disp_left|left_disp|disparity_left)\.(?:png|pfm|npy|dsp5)",
        "{at}{scene}/left",
        "{at}{scene}/right",
        masks=(("visible", "{at}{scene}/mask_nonocc"), ("occluded", "{at}{scene}/occluded")),
        own=True,
    ),
    _stereo(
        "folders left, right and disparity",
        r"(?:disp|disparity|disp_left|disparities)/(?P<n>.+)\.(?:png|pfm|npy|dsp5)",
        "{at}left/{n}|{at}image_left/{n}|{at}images_left/{n}",
        "{at}right/{n}|{at}image_right/{n}|{at}images_right/{n}",
        masks=(("occluded", "{at}occluded/{n}"),),
        own=True,
    ),
)
FLOW = (
    _flow(
        "KITTI 2015",
        r"flow_occ/(?P<six>\d{6})_10\.png",
        "{at}image_2/{six}_10",
        "{at}image_2/{six}_11",
        masks=(("truth of what is visible", "{at}flow_noc/{six}_10"),),
    ),
    _flow(
        "KITTI 2012",
        r"flow_occ/(?P<six>\d{6})_10\.png",
        "{at}colored_0/{six}_10|{at}image_0/{six}_10",
        "{at}colored_0/{six}_11|{at}image_0/{six}_11",
        masks=(("truth of what is visible", "{at}flow_noc/{six}_10"),),
    ),
    _flow(
        "HD1K",
        r"hd1k_flow_gt/flow_occ/(?P<scene>\d{6})_(?P<n>\d{4})\.png",
        "{at}hd1k_input/image_2/{scene}_{n}",
        "{at}hd1k_input/image_2/{scene}_{next}",
    ),
    _flow(
        "Sintel",
        r"flow/(?P<scene>[^/]+)/frame_(?P<n>\d+)\.flo",
        "{at}{pass}/{scene}/frame_{n}",
        "{at}{pass}/{scene}/frame_{next}",
        masks=(("occluded", "{at}occlusions/{scene}/frame_{n}"), ("unknown", "{at}invalid/{scene}/frame_{n}")),
        passes=_PASSES,
    ),
    _flow(
        "FlyingChairs",
        r"(?P<n>[^/]+)_flow\.flo",
        "{at}{n}_img1",
        "{at}{n}_img2",
        masks=(("occluded", "{at}{n}_occ1"),),
    ),
    _flow(
        "FlyingChairs2",
        r"(?:(?P<split>train|val)/)?(?P<n>\d+)-flow_01\.flo",
        "{at}{into}{n}-img_0",
        "{at}{into}{n}-img_1",
        masks=(("occluded", "{at}{into}{n}-occ_01"),),
    ),
    _flow(
        "subset of FlyingThings3D",
        r"(?P<split>train|val)/flow/left/into_future/(?P<n>\d+)\.flo",
        "{at}{split}/image_{pass}/left/{n}",
        "{at}{split}/image_{pass}/left/{next}",
        masks=(("occluded", "{at}{split}/flow_occlusions/left/into_future/{n}"),),
        passes=_PASSES,
    ),
    _flow(
        "SceneFlow",
        r"optical_flow/(?P<scene>(?:(?P<split>TRAIN|TEST)/)?.+)/into_future/left/OpticalFlowIntoFuture_(?P<n>\d+)_L\.pfm",
        "{at}frames_{pass}pass/{scene}/left/{n}|{at}frames_{pass}pass_webp/{scene}/left/{n}",
        "{at}frames_{pass}pass/{scene}/left/{next}|{at}frames_{pass}pass_webp/{scene}/left/{next}",
        passes=_PASSES,
    ),
    _flow(
        "Spring",
        r"(?P<scene>[^/]+)/flow_FW_left/flow_FW_left_(?P<n>\d+)\.flo5",
        "{at}{scene}/frame_left/frame_left_{n}",
        "{at}{scene}/frame_left/frame_left_{next}",
        form="Spring flow",
    ),
    _flow(
        "TartanAir",
        r"(?P<scene>(?:.+/)?[^/]+)/flow/(?P<n>\d+)_(?P<m>\d+)_flow\.npy",
        "{at}{scene}/image_left/{n}_left",
        "{at}{scene}/image_left/{m}_left",
        masks=(("unknown array", "{at}{scene}/flow/{n}_{m}_mask.npy"),),
    ),
    _flow(
        "Virtual KITTI 2",
        r"(?P<scene>Scene\d+/[^/]+)/frames/forwardFlow/(?P<camera>Camera_\d)/flow_(?P<n>\d+)\.png",
        "{at}{scene}/frames/rgb/{camera}/rgb_{n}|{rgb}{scene}/frames/rgb/{camera}/rgb_{n}",
        "{at}{scene}/frames/rgb/{camera}/rgb_{next}|{rgb}{scene}/frames/rgb/{camera}/rgb_{next}",
        form="VKITTI flow",
    ),
    _flow(
        "Middlebury",
        r"other-gt-flow/(?P<scene>[^/]+)/flow10\.flo",
        "{at}other-data/{scene}/frame10|{at}other-color-allframes/{scene}/frame10|{at}other-color-twoframes/{scene}/frame10",
        "{at}other-data/{scene}/frame11|{at}other-color-allframes/{scene}/frame11|{at}other-color-twoframes/{scene}/frame11",
    ),
    _flow(
        "a folder a pair",
        r"(?P<scene>[^/]+)/flow\.(?:flo|png|pfm|npy|flo5)",
        "{at}{scene}/image1|{at}{scene}/img1",
        "{at}{scene}/image2|{at}{scene}/img2",
        masks=(("occluded", "{at}{scene}/occluded"),),
        own=True,
    ),
    _flow(
        "folders image1, image2 and flow",
        r"flow/(?P<n>.+)\.(?:flo|png|pfm|npy|flo5)",
        "{at}image1/{n}|{at}img1/{n}",
        "{at}image2/{n}|{at}img2/{n}",
        masks=(("occluded", "{at}occluded/{n}"),),
        own=True,
    ),
)
"""In this order: the first layout whose images are there takes a truth."""
