"""Consecutive frames of a folder, at chosen gaps. `cameras.json`, where there is one, adds intrinsics and relative poses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.data.geometry import relative_pose
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..captures.cameras import NAME, Camera, Cameras, camera_of, read_cameras, skip_of
from ..captures.layouts import unread_cameras
from ..captures.videos import VideoOptions, folder_or_video, videos_at
from ..companions import take_photos
from ..files import PathsBelow, Tree, below, folder_of, frame_names, in_time, suffix_of
from ..found import Found, PhotoPose
from ..known import Frame, is_told
from ..options import gaps, option
from ..pairs import Pair
from ..source import PhotoOptions, Places
from .posed_pairs import PosedPairs

CAMERA_SUFFIXES = (".txt", ".json", ".bin", ".db", ".npy", ".yaml", ".csv", ".pincam", ".traj", ".camera", ".out", ".conf")


@dataclass(frozen=True)
class Frames(VideoOptions, PhotoOptions, PosedPairs):
    """A folder with images is one sequence; else `images/` is, else every folder with images below it. Of videos each shot is one."""

    reader = "frames"
    archives = True
    help = "consecutive frames of a folder or a video, at chosen gaps"
    examples = ("./fox --gap 1..3 --size 128 --square --out ./fox-pairs", "./walk.mp4 --gap 1..3 --size 256 --out ./walk-pairs")
    places = Places("DIR|VIDEO", "folder(s) of frames, videos, or folders of videos")
    split_ways = ("time-blocks", "scene")

    gap: tuple[int, ...] = option((1,), "frames between the two: 1, 1,5 or 1..3 (default: 1)", gaps)

    def find(self, place: str, name: str, seed: int = 0) -> Found[Pair]:
        """Pairs (i, i + gap) in natural order, for every gap; which of the two is image 1 is drawn."""
        folder = folder_or_video(place)
        tree = Tree.of(folder) if folder.is_dir() else None
        if tree is None or (videos := videos_at(folder, tree)):
            return self._of_videos(videos if tree else [folder], folder, tree, name, seed)
        cameras = read_cameras(folder)
        notes = [f"consecutive frames, gaps {', '.join(map(str, self.gap))}; frames are counted by order, not by number"]
        if cameras is not None:
            notes.append(f"poses in unit: {cameras.unit}")
            if bent := cameras.bent:
                notes.append(f"images are undistorted here ({', '.join(bent)}): they are those of a pinhole camera")
            elif isinstance(cameras.distortion, dict):
                notes.append(f"images are not undistorted ({cameras.distortion.get('model', 'lens distortion')})")
        found = Found[Pair](self.provenance(folder, *notes))
        if cameras is None:
            found.notes += unread_cameras(folder)
        elif cameras.layout != NAME:
            found.notes += cameras.notes
        tree.use(NAME)
        if cameras is not None and cameras.layout != NAME:
            tree.take(CAMERA_SUFFIXES)  # the lists, poses and intrinsics of the layout
            tree.use("metadata")
        if cameras is not None:
            found.notes += _missing(cameras, folder)
        for scene, files in sequences(tree, name, self.all_images, cameras).items():
            _pair_up(found, folder, scene, files, self.gap, cameras, seed)
        found.count(tree)
        return found

    def _of_videos(self, videos: Sequence[Path], folder: Path, tree: Tree | None, name: str, seed: int) -> Found[Pair]:
        found = Found[Pair](self.provenance(folder, f"consecutive frames of videos, gaps {', '.join(map(str, self.gap))}, in each shot"))
        for scene, shot in self.shots_of(videos, folder, name, found).items():
            _pair_up(found, shot.folder, scene, shot.files, self.gap, shot.cameras, seed)
        if tree:
            found.count(tree)
        return found


def _missing(cameras: Cameras, folder: Path) -> list[str]:
    """Notes of photos that cameras name and that are not there, and of intrinsics that none has."""
    absent = [frame.file for frame in cameras.frames if not (folder / frame.file).is_file()]
    notes = [f"{len(absent):,} photo(s) that {cameras.layout} names are not there, the first {absent[0]}"] if absent else []
    if any(is_told(frame.cam_to_world) for frame in cameras.frames) and not any(is_told(frame.K) for frame in cameras.frames):
        notes.append(f"no frame has intrinsics, read from {cameras.layout}: pairs keep relative poses alone, which nothing is held against")
    return notes


def sequences(tree: Tree, name: str, all_images: bool = False, cameras: Cameras | None = None) -> dict[str, Sequence[Path]]:
    """Scene -> its frames in natural order. Raises `CallError` where there are no images.

    Where `images/` and the like hold none that `cameras` name, and all of these lie in one folder, they are the frames.
    """
    if cameras and cameras.complete:
        of_folder: dict[str, list[str]] = {}
        for frame in cameras.ordered:
            of_folder.setdefault(folder_of(frame.file), []).append(frame.file)
        tree.use(*(file for frame in cameras.frames for file in (frame.file, frame.depth or "")))
        one = len(of_folder) == 1
        return {name if one else below(name, f"{at}/x"): PathsBelow(tree.root, files) for at, files in of_folder.items()}
    named = {PurePosixPath(frame.file).as_posix() for frame in cameras.frames} if cameras else set()
    folders = {folder_of(file) if "/" in file else "" for file in named}
    for own in ("", "images"):
        files = tree.folders.get(f"{own}/" if own else "", [])
        if len(folders) == 1 and named.isdisjoint(files) and any(suffix_of(file) in IMAGE_SUFFIXES for file in files):
            own = folders.pop()
        if files := take_photos(tree, own, deep=False, all_images=all_images):
            return {name: PathsBelow(tree.root / own, in_time(files))}
    found: dict[str, list[str]] = {}
    photos = take_photos(tree, all_images=all_images)
    for path in sorted(photos, key=lambda path: Path(path).parent):  # stable: natural order in each folder
        found.setdefault(below(name, path), []).append(path)
    if not found:
        told = "".join(f"; {note}" for note in [*tree.notes, *(f"{file}: {why}" for file, why in tree.skips[:1])])
        raise CallError(f"{tree.root} holds no images{told}", "name a folder of frames")
    return {scene: PathsBelow(tree.root, in_time(files)) for scene, files in found.items()}


def _pair_up(
    found: Found[Pair], folder: Path, scene: str, files: Sequence[Path], gaps: Sequence[int], cameras: Cameras | None, seed: int
) -> None:
    files, known, timed = _with_cameras(folder, files, cameras, found.skips)
    found.poses.extend(PhotoPose(str(file), camera.pose) for file, (_, camera) in known.items() if camera and camera.pose is not None)
    rng = keyed_rng("frames", seed, scene)
    names = frame_names(file.name for file in files)
    if len(files) <= min(gaps):
        found.skips.append((scene, f"a sequence of {len(files)} frames has no two frames {min(gaps)} apart"))
    for gap in gaps:
        for start in range(len(files) - gap):
            order = (start, start + gap) if rng.random() < 0.5 else (start + gap, start)
            one, two = (files[i] for i in order)
            (frame1, camera1), (_, camera2) = known.get(one, _UNKNOWN), known.get(two, _UNKNOWN)
            pose1, pose2 = (camera.pose if camera else None for camera in (camera1, camera2))
            found.items.append(
                Pair(
                    id=f"{scene}/{names[order[0]]}-{names[order[1]]}",
                    scene=scene,
                    image1=str(one),
                    image2=str(two),
                    frame1=order[0],
                    frame2=order[1],
                    time=frame1.time_s if timed and frame1 and frame1.time_s is not None else float(order[0]),
                    K1=camera1.flat if camera1 else None,
                    K2=camera2.flat if camera2 else None,
                    lens1=camera1.lens if camera1 else None,
                    lens2=camera2.lens if camera2 else None,
                    T_2from1=None if pose1 is None or pose2 is None else tuple(relative_pose(pose1, pose2).ravel().tolist()),
                )
            )


_UNKNOWN: tuple[Frame | None, Camera | None] = (None, None)


def _with_cameras(
    folder: Path, files: Sequence[Path], cameras: Cameras | None, skips: list[tuple[str, str]]
) -> tuple[Sequence[Path], dict[Path, tuple[Frame | None, Camera | None]], bool]:
    """(the files of one sequence by time where all have one, else as they are, what is known of each, whether all have a time)."""
    of_file = {folder / frame.file: frame for frame in reversed(cameras.frames)} if cameras else {}
    known: dict[Path, tuple[Frame | None, Camera | None]] = {}
    for file in files if cameras else ():
        frame = of_file.get(file)
        if frame is None:
            continue
        known[file] = frame, None
        with suppress(BrokenSampleError):  # of the photo, which is named when its row is made
            camera = camera_of(frame, folder, straighten=True)
            known[file] = frame, camera
            skips += [skip_of(frame.file, fault, "left out of its pairs: ") for fault in camera.faults]
    times = {file: frame.time_s for file, (frame, _) in known.items() if frame and frame.time_s is not None}
    timed = len(times) == len(files)
    return sorted(files, key=lambda file: times[file]) if timed else files, known, timed
