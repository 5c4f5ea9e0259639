"""Two images by file with the truth between them, disparity or flow, and how they become a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.data import ground_truth as truth
from sightline.platform.data.depth import read_npy
from sightline.platform.data.displacement import (
    encode_disparity,
    encode_flow,
    encode_occluded,
    placed_disparity,
    placed_flow,
    placed_occluded,
)
from sightline.platform.data.geometry import Placement, check_intrinsics
from sightline.platform.data.images import Resize, decode_image, resized_image
from sightline.platform.data.kinds import Row
from sightline.platform.data.remarks import remark
from sightline.platform.data.warp_check import fits

from ..files import read_file

MAX_TRUTH = 1 << 30
"""Bytes of a file of truth: a flow in float32 of the largest image has 512 MB."""
TARTANAIR = 320.0 * 0.25
VKITTI = 725.0087 * 0.532725
"""Focal length in pixels times baseline in metres, as their pages state."""
Column: TypeAlias = Literal["disparity", "flow"]
Occlusion: TypeAlias = Callable[[bytes, np.ndarray, "TruthPair"], tuple[np.ndarray | None, np.ndarray | None]]


def _disparity(data: bytes, scale: float | None) -> np.ndarray:
    return read_npy(data) if data.startswith(b"\x93NUMPY") else truth.read_disparity(data, scale)


def _flow(data: bytes, scale: float | None) -> np.ndarray:
    return read_npy(data) if data.startswith(b"\x93NUMPY") else truth.read_flow(data)


def _signed(data: bytes, scale: float | None) -> np.ndarray:
    """The subset of FlyingThings3D says by the sign which way a pixel goes: of the left view all are negative, in most copies."""
    values = truth.read_disparity(data, scale)
    known = np.isfinite(values)
    return np.where(known, -values, values) if known.any() and (values[known] <= 0).all() else values


def _of_depth(depth: np.ndarray, product: float) -> np.ndarray:
    known = np.isfinite(depth) & (depth > 0)
    return np.where(known, product / np.where(known, depth, 1), np.inf).astype(np.float32)


FORMS: Mapping[str, Callable[[bytes, float | None], np.ndarray]] = {
    "disparity": _disparity,
    "signed disparity": _signed,
    "Sintel disparity": lambda data, scale: truth.read_sintel_disparity(data),
    "CREStereo disparity": lambda data, scale: truth.read_disparity(data, scale or 32.0),
    "Spring disparity": lambda data, scale: truth.read_disparity(data)[::2, ::2],  # of twice the size, in pixels of the image
    "TartanAir depth": lambda data, scale: _of_depth(read_npy(data), TARTANAIR),
    "VKITTI depth": lambda data, scale: _of_depth(truth.read_depth_png(data, truth.VKITTI_DEPTH), VKITTI),
    "flow": _flow,
    "Spring flow": lambda data, scale: truth.read_flow(data)[::2, ::2],
    "VKITTI flow": lambda data, scale: truth.read_vkitti_flow(data),
}
"""How the truth is read, unknown as what is not finite."""


def _visible(data: bytes, values: np.ndarray, pair: TruthPair) -> tuple[np.ndarray, None]:
    """Middlebury's `mask0nocc`: 255 seen in both, 128 in one, 0 unknown. Without 128, 0 is what is not seen."""
    levels = truth.read_levels(data)
    hidden: np.ndarray = levels == (128 if 128 in levels else 0)
    return hidden, None


OCCLUSIONS: Mapping[str, Occlusion] = {
    "occluded": lambda data, values, pair: (truth.read_mask(data), None),
    "visible": _visible,
    "truth of what is visible": lambda data, values, pair: (
        _known(values) & ~_known(FORMS[pair.form](data, pair.scale)),
        None,
    ),
    "unknown": lambda data, values, pair: (None, truth.read_mask(data)),
    "unknown array": lambda data, values, pair: (None, read_npy(data) != 0),
}
"""What a file beside the truth says: (what is occluded, what is not known)."""


def _known(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return np.asarray(known.all(axis=-1) if values.ndim == 3 else known)


@dataclass(frozen=True, slots=True)
class TruthPair:
    """Files are absolute; `form` is one of `FORMS`, and `masks` are (one of `OCCLUSIONS`, file)."""

    id: str
    scene: str
    image1: str
    image2: str
    column: Column
    form: str
    truth: str
    masks: tuple[tuple[str, str], ...] = ()
    calibration: tuple[str, str] | None = None
    """(form, file)"""
    scale: float | None = None
    """Of a disparity in a PNG: units in a pixel; None for the usual ones."""
    layout: str = ""
    frame: int = -1

    @property
    def label(self) -> None:
        """A pair has no class."""
        return None

    @property
    def frames(self) -> tuple[int, ...]:
        return (self.frame,)

    def row(self, resize: Resize) -> Row:
        """One row of kind `pairs`. Raises `BrokenSampleError` with `reason: detail`."""
        (one, at), (two, at2) = (resized_image(read_file(file), resize) for file in (self.image1, self.image2))
        if at.original != at2.original:
            (height, width), (h, w) = at.original, at2.original
            raise BrokenSampleError(f"the two images differ in size: {width} x {height} and {w} x {h}, {Path(self.image1).name}")
        try:
            values, occluded = self._truth(at)
            sample: dict[str, Any] = {self.column: values, "occluded": occluded}
            encoded = encode_disparity(values) if self.column == "disparity" else encode_flow(values)
        except BrokenSampleError as error:
            raise BrokenSampleError(f"{error}{', ' if ': ' in str(error) else ': '}{Path(self.truth).name}") from None
        if not fits({**sample, "image1": decode_image(one), "image2": decode_image(two)}, self.column):
            remark("pair(s) whose images agree less when moved by their truth: look at them on the contact sheet")
        return {
            "id": self.id,
            "scene": self.scene,
            "image1": one,
            "image2": two,
            self.column: encoded,
            "occluded": None if occluded is None else encode_occluded(occluded),
            **self._cameras(at),
        }

    def _truth(self, at: Placement) -> tuple[np.ndarray, np.ndarray | None]:
        """(truth of the stored pixels with NaN where unknown, what is occluded or None)."""
        values = FORMS[self.form](read_file(self.truth, MAX_TRUTH), self.scale).astype(np.float32)
        if values.ndim != (2 if self.column == "disparity" else 3) or (values.ndim == 3 and values.shape[2] != 2):
            raise BrokenSampleError(f"the truth is no {self.column}: shape {values.shape}")
        occluded: np.ndarray | None = None
        for form, file in self.masks:
            hidden, unknown = OCCLUSIONS[form](read_file(file, MAX_TRUTH), values, self)
            if unknown is not None:
                values = truth.without(values, unknown)
            if hidden is not None:
                truth.without(values, hidden)  # of one size
                occluded = hidden if occluded is None else occluded | hidden
        if not _known(values).any():
            raise BrokenSampleError("no pixel of the truth is known")
        values = np.where(np.isfinite(values), values, np.float32(np.nan))
        place = placed_disparity if self.column == "disparity" else placed_flow
        return place(values, at), None if occluded is None else placed_occluded(occluded, at)

    def _cameras(self, at: Placement) -> dict[str, Any]:
        """Intrinsics and relative pose of a stereo pair whose calibration is there and can be read."""
        if self.calibration is None:
            return {}
        form, file = self.calibration
        try:
            text = read_file(file).decode("utf-8", "replace")
            if form == "Middlebury":
                found, metre = truth.read_middlebury_calibration(text), 1000.0
            else:
                left, right = (int(camera) for camera in form.split()[1:])
                found, metre = truth.read_kitti_calibration(text, left, right), 1.0
            for K in (found.K1, found.K2):
                check_intrinsics(K, *at.original, told=True)
            if found.size is not None and found.size != at.original:
                raise BrokenSampleError("calibration of another size")
        except BrokenSampleError:
            remark("calibration file(s) that cannot be used: pairs without K and T_2from1")
            return {}
        pose = np.eye(4)
        pose[0, 3] = -found.baseline / metre
        return {"K1": at.intrinsics(found.K1).ravel(), "K2": at.intrinsics(found.K2).ravel(), "T_2from1": pose.ravel()}
