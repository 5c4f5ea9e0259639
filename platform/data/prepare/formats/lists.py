"""Lists of points: text with or without a header, and NumPy's own files."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from itertools import islice

import numpy as np

from sightline.methods.errors import BrokenSampleError
from sightline.platform.core.budget import check_members

from .columns import TOLD, check_names, named_cloud, nameless_cloud, names_coordinates, unit
from .shapes import Cloud, lines_of, reading, text_of

MAX_ARRAYS = 512 * 2**20
"""Bytes that the arrays of an `.npz` unpack to."""
NORMALS = ("normals", "normal")
KEYS = ("points", "xyz", "pc", "arr_0")
"""Of an `.npz` with several arrays, the first of these."""
COMMENTS = ("#", "//", "%")
_DECIMAL = re.compile(r"-?\d+,\d+([eE][-+]?\d+)?")
MAX_LINE = 10_000
"""Characters."""
HEADER_LINES = 20
"""A header or a count stands in the first lines, or there is none."""


def read_text(data: bytes, suffix: str, name: str) -> Cloud:
    """x y z and more of each point on a line, between spaces, tabs, commas or semicolons (decimal commas where these are no commas)."""
    with reading(suffix[1:].upper(), name):
        text = text_of(data)
        head = [line.rstrip("\n") for line in islice(lines_of(text.encode(), "utf-8"), 2 * HEADER_LINES)]
        if (longest := max(map(len, head[:HEADER_LINES]), default=0)) > MAX_LINE:
            raise BrokenSampleError(f"a line of {longest:,} characters, which is no point: {name}")
        start, names = _beginning(head)
        first = head[start] if start < len(head) else ""
        text = text[sum(len(line) + 1 for line in head[:start]) :]
        delimiter = next((mark for mark in (";", ",") if mark in first), None)
        if delimiter == "," and all(_DECIMAL.fullmatch(word) for word in first.split()):  # columns apart by spaces or tabs
            delimiter, text = None, text.replace(",", ".")
        elif delimiter == ";" and "," in first:
            text = text.replace(",", ".")
        marks = [mark for mark in COMMENTS if mark in text] or None
        lines = lines_of(text.encode(), "utf-8")
        if delimiter and first.rstrip().endswith(delimiter):
            lines = (line.rstrip().removesuffix(delimiter) for line in lines)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file without a number: the columns tell
            table = np.loadtxt(lines, delimiter=delimiter, comments=marks, quotechar='"', ndmin=2)
        check_names(names, name)
        if names and len(table) and len(names) == table.shape[1]:
            return named_cloud(dict(zip(names, table.T, strict=True)), name)
        return nameless_cloud(table, name)


def _beginning(lines: list[str]) -> tuple[int, tuple[str, ...]]:
    """(the first line of numbers, the names of the columns or none). A count of points before them is left out."""
    names: tuple[str, ...] = ()
    for number, line in enumerate(lines[:HEADER_LINES]):
        words = _words(line)
        numbers = sum(map(_is_number, words))
        if words and numbers == len(words) and not line.lstrip().startswith(COMMENTS):
            following = next((_words(after) for after in lines[number + 1 :] if after.strip()), [])
            if len(words) == 1 and words[0].isdigit() and len(following) > 1:
                continue
            return number, names
        if 0 < numbers < len(words) and not line.lstrip().startswith(COMMENTS):
            return number, names  # words among numbers, as in the head of a grid: the reader of numbers names them
        # A comment that names no x y z is no header, though it may have as many words as there are columns.
        if words and not numbers and (names_coordinates(words) or not line.lstrip().startswith(COMMENTS)):
            names = tuple(words)
    return 0, ()


def _words(line: str) -> list[str]:
    """The names or numbers of a line, without what makes it a comment."""
    line = line.strip().lstrip("#/%").rstrip(";,").strip()
    return [word.strip().strip("\"'") for word in (re.split(r"[;,]", line) if re.search(r"[;,]", line) else line.split())]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_array_file(data: bytes, suffix: str, name: str) -> Cloud:
    """`.npy`, and the array of an `.npz`. Objects, which would be unpickled, are refused."""
    with reading(suffix[1:].upper(), name):
        if suffix == ".npz":
            return _of_archive(data, name)
        array = np.load(io.BytesIO(data), allow_pickle=False)
        if array.dtype.names:
            return named_cloud({key: array[key].reshape(-1) for key in array.dtype.names}, name)
        return nameless_cloud(array, name)


def _of_archive(data: bytes, name: str) -> Cloud:
    try:
        check_members(io.BytesIO(data))
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            unpacked = sum(member.file_size for member in members.infolist())
        if unpacked > MAX_ARRAYS:
            raise BrokenSampleError(f"arrays of more than {MAX_ARRAYS:,} bytes: they unpack to {unpacked:,}")
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            names = archive.files
            key = names[0] if len(names) == 1 else next((k for k in KEYS if k in names), None)
            if key is None:
                raise BrokenSampleError(f"arrays without a cloud: {', '.join(names[:5])}; one must be named {' or '.join(KEYS[:3])}")
            cloud, others = nameless_cloud(archive[key], name), [other for other in names if other != key]
            for other in set(NORMALS) & set(others):
                if (normals := archive[other]).shape == cloud.points.shape and normals.dtype.kind == "f" and unit(normals):
                    cloud = cloud._replace(normals=normals)
                    others.remove(other)
            return cloud._replace(left_out=(*cloud.left_out, *others[:TOLD]))
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(str(error)) from None
