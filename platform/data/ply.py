"""Clouds with a colour and a number for each point, as PLY: what MeshLab, CloudCompare and Open3D show."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8


def write_ply(points: Float[np.ndarray, "n 3"], colours: UInt8[np.ndarray, "n 3"], part: Int[np.ndarray, " n"]) -> bytes:
    """Binary, little endian; coordinates as float64, so that large ones lose nothing; `part` as int32."""
    columns = [*((axis, "<f8") for axis in "xyz"), *((name, "u1") for name in ("red", "green", "blue")), ("part", "<i4")]
    rows = np.empty(len(points), columns)
    for index, axis in enumerate("xyz"):
        rows[axis] = points[:, index]
    for index, name in enumerate(("red", "green", "blue")):
        rows[name] = colours[:, index]
    rows["part"] = part
    names = {"<f8": "double", "u1": "uchar", "<i4": "int"}
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property {names[kind]} {name}" for name, kind in columns]
    return "\n".join([*header, "end_header\n"]).encode() + rows.tobytes()
