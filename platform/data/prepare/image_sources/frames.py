"""The frames of one or several sequences as single images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..captures.cameras import Cameras, read_cameras, unnamed
from ..captures.layouts import unread_cameras
from ..captures.videos import VideoOptions, folder_or_video, videos_at
from ..files import Tree
from ..found import Found
from ..images import ImageFile
from ..pair_sources.fit import PosedDepth
from ..pair_sources.frames import sequences
from ..source import ImageSource, PhotoOptions, Places


@dataclass(frozen=True)
class ImageFrames(VideoOptions, PosedDepth, PhotoOptions, ImageSource):
    """Frames have their place in time; depth and times come from `cameras.json` where there is one."""

    reader = "frames"
    archives = True
    help = "frames of a sequence or a video with their time, and depth where cameras.json names it"
    examples = ("./kitchen-rgbd --split train=0.8,val=0.2 --out ./kitchen-images", "./walk.mp4 --size 256 --out ./walk-images")
    places = Places("DIR|VIDEO", "folder(s) of frames, videos, or folders of videos")
    split_ways = ("time-blocks", "scene")

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        folder = folder_or_video(place)
        tree = Tree.of(folder) if folder.is_dir() else None
        found = Found[ImageFile](self.provenance(folder))
        if tree is None or (videos := videos_at(folder, tree)):
            for scene, shot in self.shots_of(videos if tree else [folder], folder, name, found).items():
                found.items.extend(_images(scene, shot.folder, shot.cameras, None))
            if tree:
                found.count(tree)
            return found
        cameras = read_cameras(folder)
        if cameras is None:
            found.notes += unread_cameras(folder)
            for scene, files in sequences(tree, name, self.all_images).items():
                found.items.extend(
                    ImageFile(f"{scene}/{file.name}", str(file), scene, frame=at, time=float(at)) for at, file in enumerate(files)
                )
            found.count(tree)
            return found
        scale, (stated, said) = self.scale_of(cameras), self.scale_notes(cameras)
        found.skips += cameras.repeated
        found.notes += unnamed(cameras, folder)
        found.items.extend(_images(name, folder, cameras, scale))
        if cameras.has_depth:
            found.notes += said + self.require_unit(cameras.with_intrinsics(self.intrinsics), folder, place)
            registered = "colour and depth are taken as registered to each other"
            found.source = self.provenance(folder, f"unit: {cameras.unit}; distortion: {cameras.distortion}", registered, *stated)
        return found


def _images(scene: str, folder: Path, cameras: Cameras, scale: float | None) -> Iterator[ImageFile]:
    for number, frame in enumerate(cameras.ordered):
        time = frame.time_s if cameras.timed and frame.time_s is not None else float(number)
        depth = f"{folder}/{frame.depth}" if frame.depth else None
        yield ImageFile(f"{scene}/{frame.file}", f"{folder}/{frame.file}", scene, depth=depth, frame=number, time=time, depth_scale=scale)
