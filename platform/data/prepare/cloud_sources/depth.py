"""One cloud for each depth image of a camera."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.geometry import Placement

from ..captures.cameras import camera_of, matrix_of, read_cameras, skip_of
from ..captures.layouts import no_cameras
from ..captures.readers import ask_intrinsics
from ..clouds import CloudFromDepth, CloudItem
from ..files import existing_folder, natural, placement_of
from ..found import Found
from ..known import Frame, is_told
from ..packed import Packed, sorted_by
from ..pair_sources.fit import PosedDepth
from ..source import CloudSource


@dataclass(frozen=True)
class CloudDepth(PosedDepth, CloudSource):
    reader = "depth"
    archives = True
    help = "one cloud for each depth image that cameras.json names"
    examples = ("./kitchen-rgbd --out ./kitchen-clouds",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        """Each cloud is in the axes of its camera. Raises `CallError` where no frame names a depth image."""
        folder = existing_folder(place)
        cameras = read_cameras(folder)
        if cameras is None:
            raise CallError(*no_cameras(folder, place, "clouds from depth"))
        cameras = cameras.with_intrinsics(self.intrinsics)
        if not cameras.has_depth:
            raise CallError(f"no frame of {folder} has depth, read from {cameras.layout}", "docs/captures.md describes the format")
        if not any(is_told(frame.K) for frame in cameras.frames if frame.depth):
            raise CallError(f"no frame of {folder} has K, read from {cameras.layout}", ask_intrinsics(cameras.layout, folder))
        scale, (stated, said) = self.scale_of(cameras), self.scale_notes(cameras)
        found = Found[CloudItem](self.provenance(folder, "seen from the camera: x right, y up, z towards it; metres", *stated))
        found.notes += said + self.require_unit(cameras, folder, place)
        found.skips += cameras.repeated
        for number, frame in enumerate(sorted_by(lambda frame: natural(frame.file), Packed(f for f in cameras.ordered if f.depth))):
            if frame.K is None:
                found.skips.append((frame.file, "no intrinsics (say --intrinsics fx,fy,cx,cy)"))
                continue
            try:
                K, photo = _camera(frame, folder)
            except BrokenSampleError as error:
                found.skips.append(skip_of(frame.file, str(error)))
                continue
            depth = f"{folder}/{frame.depth}"
            found.items.append(CloudFromDepth(f"{name}/{frame.file}", self.drawn(seed), name, None, number, depth, K, scale, photo))
        return found


def _camera(frame: Frame, folder: Path) -> tuple[tuple[float, ...], Placement | None]:
    """(intrinsics, the photo that they are for). A cloud needs no photo: its size may be stated, or is that of the depth map."""
    try:
        placement_of(folder / frame.file)
    except BrokenSampleError:
        size = (round(frame.height), round(frame.width)) if frame.height and frame.width else None
        return tuple(matrix_of(frame).ravel().tolist()), Placement.whole(size) if size else None
    camera = camera_of(frame, folder, pose=False)
    if camera.flat is None:
        raise BrokenSampleError(camera.faults[0])
    return camera.flat, camera.at
