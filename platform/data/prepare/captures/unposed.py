"""Photos and frames of videos without cameras: compared with each other and, where it is asked for, placed by structure from motion."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.core.files import make_folder, replacing
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.paths import home
from sightline.platform.data.images import DAMAGED, decode_image
from sightline.platform.data.matching import INLIERS, INSTALL, has_sift

from ..archives import ArchivePath
from ..files import frame_names, placement_of, read_file
from ..packed import Packed
from ..workers import Where
from .cameras import Cameras, read_cameras
from .motion import JUMP, reconstruct
from .overlaps import NEXT, Compared, compare
from .videos import FOLDER, QUALITY, Shot

_FORM = 1
_NAMED = 5
_FOCAL, _MODEL, _EXIF, _ORIENTATION = 0x920A, 0x0110, 0x8769, 0x0112


@dataclass(frozen=True)
class Photos:
    """Photos of which pairs are looked for."""

    scene: str
    files: Sequence[Path]
    times: Sequence[float] | None
    """Of the frames of a video, in order; None for photos in any order."""
    folder: Path
    """In the home: what is found out about them, and `images/` for structure from motion."""

    @classmethod
    def of_shot(cls, scene: str, shot: Shot) -> Photos:
        return cls(scene, shot.files, [frame.time_s or 0.0 for frame in shot.cameras.ordered], shot.folder)

    @classmethod
    def of_files(cls, scene: str, files: Sequence[Path]) -> Photos:
        digest = hashlib.blake2b(str(_FORM).encode(), digest_size=10)
        for file in files:
            status = file.stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return cls(scene, files, None, home() / FOLDER / f"{scene.replace('/', '-')[:40]}-{digest.hexdigest()}")

    def compared(self, place: str, where: Where) -> Compared:
        """Raises `CallError` where no two show one thing."""
        if not has_sift():
            raise CallError(f"pycolmap, which finds what the photos of {place} share, is not installed", INSTALL)
        count = len(self.files)
        if count < 2:
            raise CallError(
                f"{self.scene} has {count} photo{'s' * (count != 1)}; a pair takes two",
                "name more photos, or take more frames: --motion 0.03",
            )
        make_folder(self.folder)
        with exclusive_lock(self.folder / ".lock", f"{self.scene} is being compared"):
            found = compare(self.files, self.folder, self.times is not None, where)
        if not found.geometries:
            broken = f" ({len(found.broken):,} cannot be read)" if found.broken else ""
            why = f"{found.tried:,} pairs were compared, and none has {INLIERS} matches that one geometry explains"
            raise CallError(
                f"no two of the {count:,} photos of {self.scene} show one thing{broken}: {why}",
                f"take photos that overlap by half; neighbours are paired without looking by: sightline prepare pairs frames {place}",
            )
        return found

    def placed(self, compared: Compared, where: Where) -> tuple[Cameras, list[str]]:
        """(the cameras of the largest model below `folder`, what to tell). Raises `CallError` where no model can be made."""
        with exclusive_lock(self.folder / ".lock", f"{self.scene} is being placed"):
            names, one_camera = self._linked()
            where.tell(f"{self.scene}: placing {len(names):,} photos by structure from motion")
            models = reconstruct(self.folder, names, compared, one_camera, self.times is not None)
        flat = sum(geometry.flat for geometry in compared.geometries.values())
        if not models.placed:
            turned = f", {flat:,} of them as if the camera had only turned, or the scene were flat" if flat else ""
            match = f"{len(compared.geometries):,} pairs of them match{turned}"
            raise CallError(
                f"no poses can be found for the {len(names):,} photos of {self.scene}: {match}",
                "walk around the thing while taking photos, at least three; pairs by what photos share are mined without --sfm",
            )
        cameras = read_cameras(self.folder)
        assert cameras is not None
        at = {f"images/{name}": time for name, time in zip(names, self.times, strict=True)} if self.times else {}
        frames = Packed(replace(frame, time_s=at.get(frame.file)) for frame in cameras.frames)
        placed = f"poses of {len(models.placed):,} of {len(names):,} photos by structure from motion, in an arbitrary unit"
        notes = [f"{self.scene}: {placed}; the model is kept in {self.folder}"]
        if models.by_neighbours:
            alike = "with frames far apart the camera would have jumped, as where a thing looks alike from two sides"
            notes.append(f"{self.scene}: frames were placed by their {NEXT} neighbours alone: {alike}")
        if models.jumps:
            first = ", ".join(models.jumps[:_NAMED])
            notes.append(
                f"{self.scene}: the camera turns by more than {JUMP:g} degrees after {first}: look at the poses before you use them"
            )
        missing = [name for name in names if name not in models.placed]
        if missing:
            more = f" and {len(missing) - _NAMED:,} more" if len(missing) > _NAMED else ""
            notes.append(f"{self.scene}: {len(missing):,} photo(s) could not be placed: {', '.join(missing[:_NAMED])}{more}")
        if models.others:
            sizes = ", ".join(f"{size:,}" for size in models.others)
            notes.append(f"{self.scene}: the model is in pieces; the largest is used, the others hold {sizes} more photo(s)")
        return replace(cameras, frames=frames, notes=[]), notes

    def _linked(self) -> tuple[list[str], bool]:
        """(their names in `images/`, upright; whether one camera with one focal length took them)."""
        if self.times is not None:
            return [file.name for file in self.files], True
        make_folder(self.folder / "images")
        names, lenses = [], set()
        for called, file in zip(frame_names([str(file) for file in self.files]), self.files, strict=True):
            upright, lens = _lens_of(file)
            lenses.add(lens)
            name = file.name if upright else f"{Path(called).name}.upright.jpg"
            names.append(name)
            if (self.folder / "images" / name).exists():
                continue
            with replacing(self.folder / "images" / name) as part:
                if upright:
                    part.symlink_to(file)
                else:
                    _write_upright(file, part)
        return names, len(lenses) == 1


def _lens_of(file: Path) -> tuple[bool, tuple[object, ...]]:
    """(whether a link to the file will do, what tells its lens)."""
    try:
        with Image.open(io.BytesIO(read_file(str(file)))) as image:
            tags = image.getexif()
            focal = tags.get_ifd(_EXIF).get(_FOCAL)
            upright = image.format in ("JPEG", "PNG") and placement_of(file).orientation == 1 and not isinstance(file, ArchivePath)
            return upright, (tuple(sorted(image.size)), tags.get(_MODEL), focal and float(focal))
    except (*DAMAGED, BrokenSampleError):
        return not isinstance(file, ArchivePath), ()


def _write_upright(file: Path, to: Path) -> None:
    try:
        with Image.open(io.BytesIO(read_file(str(file)))) as image:
            tags = image.getexif()
        tags.pop(_ORIENTATION, None)
        Image.fromarray(decode_image(read_file(str(file)))).save(to, "JPEG", quality=QUALITY, subsampling=0, exif=tags)
    except (*DAMAGED, BrokenSampleError):
        to.unlink(missing_ok=True)
        to.touch()  # a photo that cannot be read is an empty file
