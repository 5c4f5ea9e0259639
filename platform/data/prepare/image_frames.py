"""The frames of one or several sequences as single images."""

from __future__ import annotations

from dataclasses import dataclass

from .cameras import read_cameras, unnamed
from .depth_options import DepthOptions
from .files import Tree, existing_folder
from .found import Found
from .frames import sequences
from .images import ImageFile
from .layouts import unread_cameras
from .source import ImageSource, PhotoOptions


@dataclass(frozen=True)
class ImageFrames(DepthOptions, PhotoOptions, ImageSource):
    """Frames have their place in time; depth and times come from `cameras.json` where there is one."""

    reader = "frames"
    help = "frames of a sequence with their time, and depth where cameras.json names it"
    examples = ("./kitchen-rgbd --split train=0.8,val=0.2 --out ./kitchen-images",)
    split_ways = ("time-blocks", "scene")

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        folder = existing_folder(place)
        cameras = read_cameras(folder)
        found = Found[ImageFile](self.provenance(folder))
        if cameras is None:
            found.notes += unread_cameras(folder)
            tree = Tree.of(folder)
            for scene, files in sequences(tree, name, self.all_images).items():
                found.items.extend(
                    ImageFile(f"{scene}/{file.name}", str(file), scene, frame=at, time=float(at)) for at, file in enumerate(files)
                )
            found.count(tree)
            return found
        scale, (stated, said) = self.scale_of(cameras), self.scale_notes(cameras)
        found.skips += cameras.repeated
        found.notes += unnamed(cameras, folder)
        for number, frame in enumerate(cameras.ordered):
            time = frame.time_s if cameras.timed and frame.time_s is not None else float(number)
            depth = f"{folder}/{frame.depth}" if frame.depth else None
            found.items.append(
                ImageFile(f"{name}/{frame.file}", f"{folder}/{frame.file}", name, depth=depth, frame=number, time=time, depth_scale=scale)
            )
        if any(frame.depth for frame in cameras.frames):
            found.notes += said
            registered = "colour and depth are taken as registered to each other"
            found.source = self.provenance(folder, f"unit: {cameras.unit}; distortion: {cameras.distortion}", registered, *stated)
        return found
