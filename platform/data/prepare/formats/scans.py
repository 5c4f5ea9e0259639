"""What scanners leave: LAS and LAZ, and the `.bin` files of KITTI and nuScenes."""

from __future__ import annotations

import io
import struct

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .shapes import MAX_SCENE, Cloud, reading

CHUNK = 1_000_000
FARTHEST = 10_000.0
"""Metres; no car's scanner sees farther."""


def read_las(data: bytes, name: str) -> Cloud:
    """x y z in double precision; LAZ is unpacked in pieces of a million points."""
    import laspy
    from laspy.errors import LaspyException
    from lazrs import LazrsError

    with reading("LAS", name):
        if data[:4] != b"LASF":
            raise ValueError("it does not begin with LASF")
        _check_records(data)
        try:
            with laspy.open(io.BytesIO(data)) as file:
                if file.header.point_count > MAX_SCENE:
                    raise BrokenSampleError(f"a list of more than {MAX_SCENE:,} points: {name} has {file.header.point_count:,}")
                least = file.header.point_count * (1 if file.header.are_points_compressed else file.header.point_format.size)
                if not file.header.are_points_compressed and len(data) < file.header.offset_to_point_data + least:
                    raise BrokenSampleError(f"cut short: {name} has {len(data):,} bytes, its points need {least:,}")
                others = [one for one in file.header.point_format.dimension_names if one not in ("X", "Y", "Z")]
                pieces = [np.column_stack([one.x, one.y, one.z]) for one in file.chunk_iterator(CHUNK)]
        except (LaspyException, LazrsError, OSError, struct.error) as error:
            raise ValueError(str(error)) from None
        if not sum(map(len, pieces)):
            raise BrokenSampleError(f"no points: {name}")
        stored = {"intensity": "intensity", "classification": "classification", "red": "colour"}
        left_out = [what for key, what in stored.items() if key in others]
        return Cloud(np.concatenate(pieces), left_out=tuple(left_out))


def _check_records(data: bytes) -> None:
    """The header says how many records stand before and after the points; laspy would make as many, whatever is there."""
    if len(data) < 227:
        raise ValueError("it is shorter than a header")
    size, before = struct.unpack_from("<H", data, 94)[0], struct.unpack_from("<I", data, 100)[0]
    after = struct.unpack_from("<I", data, 243)[0] if data[25] >= 4 and size >= 375 and len(data) >= 375 else 0
    if 54 * before + 60 * after > len(data):
        raise ValueError(f"cut short: {before + after:,} records in {len(data):,} bytes")


def read_bin(data: bytes, name: str) -> Cloud:
    """float32 of KITTI: x y z intensity of each point; of nuScenes (`.pcd.bin`): and the ring.

    There is no header, so the values must be what a scanner on a car can see, else the file is refused.
    """
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
    return Cloud(table[:, :3], left_out=("intensity", "ring")[: width - 3])
