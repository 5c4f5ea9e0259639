"""Clouds by file or by place in an array, with class and parts where they are known."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.random import keyed_rng
from sightline.platform.core.budget import check_members, check_unpacked
from sightline.platform.data.clouds import NO_PART, centred, decode_points, distinct, encode_parts, encode_points
from sightline.platform.data.depth import read_depth
from sightline.platform.data.geometry import Placement, check_intrinsics, depth_intrinsics
from sightline.platform.data.images import Resize
from sightline.platform.data.kinds import Row
from sightline.platform.data.remarks import remark
from sightline.platform.data.shard_stats import OFFSET

from .files import read_file
from .formats.columns import nameless_cloud
from .formats.shapes import Cloud, thinned
from .found import SPLITS
from .meshes import read_cloud
from .views import upright_depth

MAX_ARRAY = 16 * 2**30
"""Bytes of one array of an HDF5 file, which can name any number of zeros in a few bytes."""
KEPT_ARRAY = 128 * 2**20
"""Bytes up to which an array of an HDF5 file is kept whole for its next entries."""


class Drawn(NamedTuple):
    """How many points of a cloud are kept (of a mesh: sampled), and the seed of their draw."""

    points: int
    seed: int

    def rng(self, id: str) -> np.random.Generator:
        return keyed_rng("cloud", self.seed, id)


@dataclass(frozen=True, slots=True)
class CloudItem:
    """A cloud to be; each form of storage says how it is read."""

    id: str
    drawn: Drawn
    scene: str | None = None
    label: int | None = None
    frame: int = -1

    @property
    def frames(self) -> tuple[int, ...]:
        return (self.frame,)

    def cloud(self) -> Cloud:
        raise NotImplementedError

    def row(self, resize: Resize) -> Row:
        """One row of kind `points`; `resize` is for images. Raises `BrokenSampleError` with `reason: detail`."""
        cloud = self.cloud()
        near, offset = centred(np.asarray(cloud.points))
        if offset is not None:
            remark("cloud(s) far from the origin: stored less an offset, which the manifest keeps (offsets)")
        for what in cloud.left_out:
            remark(f"cloud(s), not stored: {what}")
        points = encode_points(near)
        if distinct(decode_points(points)) < 2:
            raise BrokenSampleError(f"all points are in one place: {len(cloud.points)} points")
        return {
            "id": self.id,
            "scene": self.scene,
            "label": self.label,
            "points": points,
            "normals": None if cloud.normals is None else encode_points(np.asarray(cloud.normals)),
            "part": None if cloud.part is None else encode_parts(np.asarray(cloud.part), len(cloud.points)),
            OFFSET: offset,
        }


@dataclass(frozen=True, slots=True)
class CloudFile(CloudItem):
    """A mesh or a list of points in a file of its own. `parts`: the index of the manifest for each part number of the file."""

    file: str = ""
    parts: tuple[tuple[int, int], ...] = field(default=(), repr=False)

    def cloud(self) -> Cloud:
        cloud = read_cloud(self.file, self.drawn.points, self.drawn.rng(self.id))
        if cloud.part is None:
            return cloud
        if not self.parts:
            return cloud._replace(part=None, left_out=(*cloud.left_out, "numbers that could be parts: this source names none"))
        return cloud._replace(part=renumbered(cloud.part, dict(self.parts)))


def renumbered(part: np.ndarray, index: dict[int, int]) -> np.ndarray:
    values = np.unique(part)
    unknown = [value for value in values.tolist() if int(value) not in index or value != int(value)]
    if unknown:
        raise BrokenSampleError(f"part numbers that the class does not have: {unknown[0]:g}, known {sorted(index)}")
    table = np.array([index[int(value)] for value in values])
    return np.asarray(table[np.searchsorted(values, part)])


@dataclass(frozen=True, slots=True)
class CloudInArray(CloudItem):
    """One entry of the arrays of an `.npz` or HDF5 file."""

    file: str = ""
    points_key: str = ""
    part_key: str = ""
    parts: int = 0
    index: int = 0
    normals_key: str = field(default="", repr=False)
    """The array of the normals, where they lie apart."""

    def cloud(self) -> Cloud:
        points = entry(self.file, self.points_key, self.index)
        part = entry(self.file, self.part_key, self.index) if self.part_key else None
        if points.ndim != 2 or points.shape[1] not in (3, 6) or points.dtype.kind not in "fiu":
            raise BrokenSampleError(f"not 3 or 6 columns of numbers: shape {points.shape} of {points.dtype}")
        if part is not None and not ((part >= NO_PART) & (part < self.parts)).all():
            raise BrokenSampleError(f"part numbers beyond the list of parts: {part.max()}, {self.parts} parts")
        if self.normals_key:
            points = np.concatenate([points, entry(self.file, self.normals_key, self.index)], axis=1)
        cloud = nameless_cloud(points, f"number {self.index} of {Path(self.file).name}")._replace(part=part)
        return thinned(cloud, self.drawn.points, self.drawn.rng(self.id))


@dataclass(frozen=True, slots=True)
class CloudFromDepth(CloudItem):
    """What a depth image sees, in metres: x right, y up, z towards the camera, upright as other clouds mostly are."""

    depth: str = ""
    K: tuple[float, ...] = ()
    """Of the upright photo, or of the depth map where there is no photo."""
    depth_scale: float | None = None
    """Units of the depth map in a metre; None for the usual ones (`read_depth`)."""
    photo: Placement | None = None
    """The whole photo that the depth map belongs to, not resized."""

    def cloud(self) -> Cloud:
        K, data = np.reshape(self.K, (3, 3)), read_file(self.depth)
        if self.photo is None:
            depth = read_depth(data, self.depth_scale).metres
            check_intrinsics(K, *depth.shape, told=False)
        else:
            depth = upright_depth(data, self.photo, self.depth_scale)
            K = depth_intrinsics(K, self.photo.original, depth.shape)
        row, column = np.nonzero(depth > 0)
        if not len(row):
            raise BrokenSampleError("a depth image without a reading")
        z = depth[row, column].astype(np.float64)
        fx, skew, cx, _, fy, cy = K[:2].ravel().tolist()
        up = (cy - row) / fy
        points = np.stack([(column - cx + skew * up) / fx * z, up * z, -z], axis=1)
        return thinned(Cloud(points), self.drawn.points, self.drawn.rng(self.id))


def entry(file: str, key: str, index: int) -> np.ndarray:
    """One entry of an array: of the array that is kept, or, of a large one in HDF5, read by itself."""
    if shape_of(file, key)[1] > KEPT_ARRAY and Path(file).suffix.lower() != ".npz":
        with arrays_of(file) as archive:
            check_array(archive, key)
            return np.asarray(archive[key][index])
    return np.asarray(read_array(file, key)[index])


def shape_of(file: str, key: str) -> tuple[tuple[int, ...], int]:
    """(the shape of an array, its bytes)"""
    return _shape(file, key, _stamp(file))


def read_array(file: str, key: str) -> np.ndarray:
    """A whole array of an `.npz` or HDF5 file, kept for its next entries. Raises `CallError` naming the arrays there are."""
    return _array(file, key, _stamp(file))


def _stamp(file: str) -> tuple[int, int]:
    """What changes with the file: an array is kept as long as its file stays as it is."""
    try:
        status = Path(file).stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=256)
def _shape(file: str, key: str, stamp: tuple[int, int]) -> tuple[tuple[int, ...], int]:
    if Path(file).suffix.lower() == ".npz":
        array = _array(file, key, stamp)
        return array.shape, array.nbytes
    with arrays_of(file) as archive:
        return tuple(archive[key].shape), int(archive[key].nbytes)


@lru_cache(maxsize=32)
def _array(file: str, key: str, stamp: tuple[int, int]) -> np.ndarray:
    with arrays_of(file) as archive:
        if key not in archive:
            raise CallError(f"{file} has no array {key!r}; it has {', '.join(archive)}", "see `sightline prepare points --help`")
        check_array(archive, key)
        return np.asarray(archive[key])


def check_array(archive: Mapping[str, Any], key: str) -> None:
    """Raises `OverBudgetError` for an array of an `.npz` or HDF5 file that unpacks to much more than it takes in the file."""
    if isinstance(archive, np.lib.npyio.NpzFile) and archive.zip is not None:
        members = {member.filename: member for member in archive.zip.infolist()}
        member = members.get(f"{key}.npy") or members[key]
        check_unpacked(member.compress_size, member.file_size, f"the array {key!r}")
        return
    import h5py

    array = archive[key]
    packed = array.id.get_create_plist()
    for code, _, _, name in map(packed.get_filter, range(packed.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            what = f"the array {key!r} is packed with {name.decode(errors='replace') or 'a filter'} (filter {code})"
            raise ValueError(f"{what}, which is not installed; write it anew with gzip (h5repack -f GZIP=4)")
    chunk = math.prod(array.chunks) * array.dtype.itemsize if array.chunks else 0  # the last one may reach beyond the array
    check_unpacked(array.id.get_storage_size(), max(array.nbytes, chunk), f"the array {key!r}")


@contextmanager
def arrays_of(file: str) -> Iterator[Mapping[str, Any]]:
    """The arrays of an `.npz` or HDF5 file by name; of HDF5 those alone that lie in the file itself and are no larger than `MAX_ARRAY`,
    where `xyz` in a group `train` is `train_xyz`.

    Raises `CallError` where the file is not whole, or holds pickled objects.
    """
    suffix = Path(file).suffix.lower()
    try:
        if suffix == ".npz":
            with Path(file).open("rb") as opened:
                check_members(opened)
            with np.load(file, allow_pickle=False) as archive:
                yield archive
            return
        import h5py

        with h5py.File(file, "r") as archive:
            groups = [name for name in archive if name in SPLITS and _is_own(archive, name, h5py.Group)]
            names = [*archive, *(f"{group}/{key}" for group in groups for key in archive[group])]
            yield {name.replace("/", "_"): archive[name] for name in names if _own_array(archive, name)}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        what = "an .npz" if suffix == ".npz" else "HDF5"
        raise CallError(f"{file} cannot be read as {what}: {error}", "name an .npz or HDF5 file; if it is one, get it again") from None


def _own_array(archive: Any, key: str) -> bool:
    """Links into other files, and arrays that lie in them, are left alone: the file comes from a stranger."""
    import h5py

    if not _is_own(archive, key, h5py.Dataset):
        return False
    array = archive[key]
    return not array.external and not array.is_virtual and array.nbytes <= MAX_ARRAY


def _is_own(archive: Any, key: str, kind: type) -> bool:
    import h5py

    return isinstance(archive.get(key, getlink=True), h5py.HardLink) and isinstance(archive[key], kind)


def not_opened(file: str) -> list[str]:
    """What an HDF5 file has at its top that is not taken for an array, with the reason."""
    if Path(file).suffix.lower() == ".npz":
        return []
    import h5py

    with arrays_of(file) as own, h5py.File(file, "r") as archive:
        groups = {key for key in archive if _is_own(archive, key, h5py.Group)}
        closed = [key for key in archive if key not in groups and key not in own]
        return [f"{key} (a link, virtual, or too large)" for key in closed] + [f"{key} (a group)" for key in sorted(groups)]
