"""STL: triangles by themselves, in text or in binary."""

from __future__ import annotations

import re
from array import array
from itertools import islice

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .shapes import Mesh, checked, reading, text_of

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEAD = 84
"""Bytes before the facets: any text, and their number."""
_VERTEX = re.compile(r"^[^\S\n]*vertex\s+(\S+)\s+(\S+)\s+(\S+)", re.MULTILINE | re.IGNORECASE)
_END = re.compile(r"^[^\S\n]*endsolid", re.MULTILINE | re.IGNORECASE)
RUN = 200_000
"""Corners that are read at once."""


def read_stl(data: bytes, name: str) -> Mesh:
    """The size of a binary file tells its kind: some begin with `solid`, as text does."""
    with reading("STL", name):
        said = int.from_bytes(data[80:_HEAD], "little")
        if len(data) >= _HEAD and (len(data) == _HEAD + said * _FACET.itemsize or not _is_text(data)):
            if len(data) < (needed := _HEAD + said * _FACET.itemsize):
                raise BrokenSampleError(f"cut short: {name} has {len(data):,} bytes, {said:,} facets need {needed:,}")
            if (there := (len(data) - _HEAD) // _FACET.itemsize) > said and (len(data) - _HEAD) % _FACET.itemsize == 0:
                raise BrokenSampleError(f"its header says less than is there: {name} says {said:,} facets and has {there:,}; write it anew")
            corners = np.frombuffer(data, _FACET, said, _HEAD)["corners"].reshape(-1, 3)
        else:
            text = text_of(data)
            if not _END.search(text):
                raise BrokenSampleError(f"cut short: {name} has no line 'endsolid'")
            values, found = array("d"), _VERTEX.finditer(text)
            while some := [one.groups() for one in islice(found, RUN)]:
                values.frombytes(np.array(some, np.float64).tobytes())
            corners = np.frombuffer(values).reshape(-1, 3)
            if len(corners) % 3:
                raise ValueError(f"{len(corners):,} corners are no triangles")
        if not len(corners):
            raise BrokenSampleError(f"an empty mesh: {name}")
        return checked(corners, np.arange(len(corners)).reshape(-1, 3), name)


def _is_text(data: bytes) -> bool:
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()[:5].lower() == b"solid" and b"\0" not in data[:1000]
