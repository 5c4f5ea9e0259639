"""One cloud for each depth image of a camera."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.methods.errors import CallError

from .cameras import read_cameras
from .clouds import CloudFromDepth, CloudItem
from .files import existing_folder, natural
from .found import Found
from .source import CloudSource


@dataclass(frozen=True)
class CloudDepth(CloudSource):
    reader = "depth"
    help = "one cloud for each depth image that cameras.json names"
    examples = ("./kitchen-rgbd --out ./kitchen-clouds",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        """Each cloud is in the axes of its camera. Raises `CallError` where no frame names a depth image."""
        folder = existing_folder(place)
        cameras = read_cameras(folder)
        frames = [frame for frame in cameras.frames if frame.depth] if cameras else []
        if not frames:
            raise CallError(f"{folder} has no cameras.json whose frames name depth images", "docs/data.md describes the format")
        found = Found[CloudItem](self.provenance(folder, "seen from the camera: x right, y up, z towards it; metres"))
        for number, frame in enumerate(sorted(frames, key=lambda f: natural(f.file))):
            if frame.intrinsics is None:
                found.skips.append((frame.file, "no intrinsics"))
                continue
            item = CloudFromDepth(
                f"{name}/{frame.file}", self.drawn(seed), name, None, number, depth=f"{folder}/{frame.depth}", K=frame.intrinsics
            )
            found.items.append(item)
        return found
