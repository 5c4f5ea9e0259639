"""Frames whose camera can be used, and pairs of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from sightline.platform.data.geometry import relative_pose

from ..captures.cameras import Camera
from ..found import PhotoPose
from ..known import Frame
from ..pairs import Pair


@dataclass(frozen=True)
class Posed:
    """A frame whose camera can be used."""

    frame: Frame
    """Without what the camera knows."""
    camera: Camera

    @classmethod
    def of(cls, frame: Frame, camera: Camera) -> Self:
        return cls(replace(frame, K=None, cam_to_world=None), camera)

    @property
    def pose(self) -> np.ndarray:
        assert self.camera.pose is not None
        return self.camera.pose


def poses_of(folder: Path, frames: Iterable[Posed]) -> Iterator[PhotoPose]:
    return (PhotoPose(f"{folder}/{one.frame.file}", one.pose) for one in frames)


def posed_pair(
    folder: Path,
    name: str,
    pair_id: str,
    frames: Sequence[Posed],
    order: tuple[int, int],
    overlap: float,
    scale: float | None,
    time: float | None,
) -> Pair:
    """Of the frames with these two numbers, the first as image 1. `time`: of the first; None: its number."""
    one, two = (frames[i] for i in order)
    return Pair(
        id=pair_id,
        scene=name,
        image1=f"{folder}/{one.frame.file}",
        image2=f"{folder}/{two.frame.file}",
        frame1=order[0],
        frame2=order[1],
        time=float(order[0]) if time is None else time,
        K1=one.camera.flat,
        K2=two.camera.flat,
        T_2from1=tuple(relative_pose(one.pose, two.pose).ravel().tolist()),
        depth1=one.frame.depth and f"{folder}/{one.frame.depth}",
        depth2=two.frame.depth and f"{folder}/{two.frame.depth}",
        overlap=round(overlap, 4),
        depth_scale=scale,
        lens1=one.camera.lens,
        lens2=two.camera.lens,
    )
