"""`.sens`, the recording of ScanNet and BundleFusion, as the files that its reader exports: `color/`, `depth/`, `pose/`, `intrinsic/`.

Little-endian, as ScanNet's `SensorData` writes version 4: head, then for each frame a pose of 16 floats, two times, two lengths, the photo
and the depth map.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

VERSION = 4
SHIFT = 1000.0
"""Units of a depth map in a metre, as ScanNet exports them."""
_NAME = 4096
"""Bytes of the name of a sensor, at most."""
_COLOURS = {1: ".png", 2: ".jpg"}
_RAW, _ZLIB = 0, 1
_MATRIX = 64
_FRAME = struct.Struct("<64sQQQQ")
Member = tuple[int, int]
"""(offset in the file, bytes)"""


def members_of(path: Path) -> tuple[dict[str, Member], Callable[[str, bytes], bytes]]:
    """(name -> where it lies, what makes a file of the bytes there). Raises `ValueError` for what is no whole file, or of another form."""
    size = path.stat().st_size
    with path.open("rb") as file:
        version, length = struct.unpack("<IQ", _take(file, 12))
        if version != VERSION or length > _NAME:
            raise ValueError(f"no .sens of version {VERSION}")
        _take(file, length)
        start = file.tell()
        _take(file, 4 * _MATRIX)
        colour, depth, columns, rows, shift, count = struct.unpack("<ii8xIIfQ", _take(file, 36))
        if colour not in _COLOURS or depth not in (_RAW, _ZLIB) or not shift > 0:
            forms = f"photos of form {colour}, depth of form {depth} with {shift:g} units in a metre"
            raise ValueError(f"{forms}; JPEG and PNG, raw and zlib are read")
        files = {"intrinsic/intrinsic_color.txt": (start, _MATRIX), "intrinsic/intrinsic_depth.txt": (start + 2 * _MATRIX, _MATRIX)}
        for number in range(count):
            at = file.tell()
            try:
                *_, photo, packed = _FRAME.unpack(_take(file, _FRAME.size))
            except ValueError:
                raise ValueError(f"it ends in frame {number:,} of {count:,}") from None
            after = at + _FRAME.size
            if after + photo + packed > size:
                raise ValueError(f"it ends in frame {number:,} of {count:,}")
            files[f"color/{number}{_COLOURS[colour]}"] = after, photo
            if packed:
                files[f"depth/{number}.png"] = after + photo, packed
            files[f"pose/{number}.txt"] = at, _MATRIX
            file.seek(after + photo + packed)

    def made(name: str, data: bytes) -> bytes:
        if name.endswith(".txt"):
            return "\n".join(" ".join(f"{one:.9g}" for one in row) for row in np.frombuffer(data, "<f4").reshape(4, 4).tolist()).encode()
        if not name.startswith("depth/"):
            return data
        raw = zlib.decompressobj().decompress(data, 2 * rows * columns + 1) if depth == _ZLIB else data
        if len(raw) != 2 * rows * columns:
            raise ValueError(f"a depth map is not of {columns} x {rows}")
        units = np.frombuffer(raw, "<u2").reshape(rows, columns)
        if shift != SHIFT:
            units = np.rint(units * (SHIFT / shift)).clip(0, 65535).astype(np.uint16)
        buffer = io.BytesIO()
        Image.fromarray(units.astype(np.uint16)).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    return files, made


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise ValueError("it ends in its head")
    return data
