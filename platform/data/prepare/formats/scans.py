"""What scanners leave: LAS and LAZ, and the `.bin` files of KITTI and nuScenes."""

from __future__ import annotations

import io
import struct
from array import array

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .columns import TOLD
from .pcd import read_pcd
from .shapes import MAX_SCENE, Cloud, reading

CHUNK = 64 * 2**20
"""Bytes of points that are unpacked at one time."""
DENSEST = 16
"""Points of a byte of LAZ; real scans take several bytes a point."""
FARTHEST = 10_000.0
"""Metres; no car's scanner sees farther."""


def read_las(data: bytes, name: str) -> Cloud:
    """x y z in double precision, without withheld points; LAZ is unpacked piece by piece."""
    import laspy
    from laspy.errors import LaspyException
    from lazrs import LazrsError

    with reading("LAS", name):
        if data[:4] != b"LASF":
            raise ValueError("it does not begin with LASF")
        _check_records(data)
        _check_layout(data, name)
        try:
            with laspy.open(io.BytesIO(data), read_evlrs=False) as file:
                header = file.header
                if header.point_count > MAX_SCENE:
                    raise BrokenSampleError(f"a list of more than {MAX_SCENE:,} points: {name} has {header.point_count:,}")
                needed = header.offset_to_point_data + header.point_count * header.point_format.size
                if not header.are_points_compressed and len(data) < needed:
                    raise BrokenSampleError(f"cut short: {name} has {len(data):,} bytes, its points need {needed:,}")
                if header.are_points_compressed and header.point_count > DENSEST * len(data):
                    raise BrokenSampleError(f"cut short: {name} has {len(data):,} bytes for {header.point_count:,} points")
                others = set(header.point_format.dimension_names)
                points, read = array("d"), 0  # which grows in place
                for one in file.chunk_iterator(max(1, CHUNK // header.point_format.size)):
                    points.frombytes(
                        np.column_stack([one.x, one.y, one.z])[np.asarray(one.withheld) == 0]
                        .astype(np.float64)
                        .reshape(-1)
                        .view(np.uint8)
                        .data
                    )
                    read += len(one)
        except (LaspyException, LazrsError, OSError) as error:
            raise ValueError(str(error)) from None
        if read != header.point_count:
            raise BrokenSampleError(f"cut short: {name} has {read:,} of {header.point_count:,} points")
        if not points:
            raise BrokenSampleError(f"no points: {name}{' but withheld ones' if read else ''}")
        stored = {"intensity": "intensity", "classification": "classification", "red": "colour"}
        left_out = [what for key, what in stored.items() if key in others]
        left_out += list(header.point_format.extra_dimension_names)[:TOLD]
        left_out += ["points that are withheld, which means deleted"] if len(points) < 3 * read else []
        return Cloud(np.frombuffer(points).reshape(-1, 3), left_out=tuple(left_out))


def _check_records(data: bytes) -> None:
    """The header says how many records stand before and after the points; laspy would make as many, whatever is there."""
    if len(data) < 227:
        raise ValueError("it is shorter than a header")
    size, before = struct.unpack_from("<H", data, 94)[0], struct.unpack_from("<I", data, 100)[0]
    after = struct.unpack_from("<I", data, 243)[0] if data[25] >= 4 and size >= 375 and len(data) >= 375 else 0
    if 54 * before + 60 * after > len(data):
        raise ValueError(f"cut short: {before + after:,} records in {len(data):,} bytes")


def _check_layout(data: bytes, name: str) -> None:
    """Raises `BrokenSampleError` where the points or the pieces of LAZ lie beyond the file: lazrs takes memory for each piece."""
    head, start = struct.unpack_from("<HI", data, 94)
    if not 227 <= head <= start <= len(data):
        raise BrokenSampleError(f"cut short: {name} has {len(data):,} bytes, its points begin at {start:,}")
    if data[104] & 0x80 and len(data) >= start + 8:  # LAZ begins with the place of its table of pieces; -1 says that the file ends with it
        (table,) = struct.unpack_from("<q", data, start)
        if table == -1:
            (table,) = struct.unpack_from("<q", data, len(data) - 8)
        if not start <= table <= len(data) - 8 or struct.unpack_from("<II", data, table)[1] > len(data):
            raise BrokenSampleError(f"cut short: {name} has {len(data):,} bytes, its table of pieces lies at {table:,}")


def read_bin(data: bytes, name: str) -> Cloud:
    """float32 of KITTI: x y z intensity of each point; of nuScenes (`.pcd.bin`): and the ring.

    There is no header, so the values must be what a scanner on a car can see, else the file is refused.
    """
    if data.startswith((b"# .PCD", b"VERSION")):  # some call a binary PCD so
        return read_pcd(data, name)
    width, what = (5, "nuScenes") if name.lower().endswith(".pcd.bin") else (4, "KITTI")
    if not data or len(data) % (4 * width):
        raise BrokenSampleError(f"not the points of {what}: {name} has {len(data):,} bytes, no multiple of {4 * width}")
    table = np.frombuffer(data, "<f4").reshape(-1, width)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(table).all() and np.abs(table[:, :3]).max() <= FARTHEST and 0 <= table[:, 3].min() <= table[:, 3].max() <= 255
        spread = sound and bool((np.ptp(table[:, :3], axis=0) > 1e-6).any())
        tiny = sound and np.mean((table != 0) & (np.abs(table) < 1e-20)) > 0.01  # whole numbers read as floats
    if not spread or tiny:
        raise BrokenSampleError(f"not the points of {what}: {name}, its numbers are no x y z in metres with an intensity of 0 to 255")
    if (fits := _columns_of(table.reshape(-1))) not in (0, width):
        instead = "; name it .pcd.bin if it is of nuScenes" if fits == 5 else "; save its x, y, z as .npy"
        raise BrokenSampleError(f"not the points of {what}: {name}, its numbers repeat after {fits} columns, not {width}{instead}")
    return Cloud(table[:, :3], left_out=("intensity", "ring")[: width - 3])


def _columns_of(values: np.ndarray) -> int:
    """The number of columns whose numbers stay nearest to those of the next row, 0 where none stands out. A wrong number mixes the columns,
    so neighbours in a column differ as much as columns do."""
    start = values[: 60 * 4096].astype(np.float64)
    if len(start) < 120:
        return 0
    apart = {width: float(np.abs(start[width:] - start[:-width]).mean()) for width in (3, 4, 5, 6, 7) if not len(values) % width}
    return next((one for one in apart if all(apart[one] < 0.8 * apart[other] for other in apart if other % one)), 0)
