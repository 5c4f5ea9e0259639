"""What reading a file from somebody else may cost: the limits of all readers, and the checks that hold them. SECURITY.md lists them.

A limit is asked before memory is taken, and from what is cheap to know: sizes in headers and directories, counts of brackets. Each check
takes time in proportion to the file at hand. Size alone is no fault: a file of 30 GB that holds 30 GB is read, one of 2 kB that unpacks
to 2 GB is not.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import yaml

MEMORY = 2**30
"""Bytes that one file may take beyond what it holds: what the aims of SECURITY.md are measured against."""
UNPACKED = 512 * 2**20
"""Bytes that anything may unpack to, however small its file is."""
RATIO = 100
"""Above `UNPACKED`, an array may unpack to so many times its bytes in the file. Real clouds, images and weights stay below 20; deflate
reaches 1,032 on zeros."""
MEMBERS = 250_000
"""Of a zip archive. A checkpoint has one for each tensor; the largest mixtures of experts that are published have about 100,000."""
YAML_BYTES = 128 * 2**10
"""A second or two of PyYAML. A recipe has about 2 kB."""
YAML_NODES = 200_000
"""Of a YAML text with its aliases written out."""
YAML_DEPTH = 64
"""Of brackets, and of levels of a YAML text: PyYAML takes time with the square of them."""
TEXT_BYTES = 512 * 2**20
"""Of a list of names: ten million lines of 50 characters."""
_CONTAINER, _VALUE, _KEY = 64, 40, 130
"""Bytes of Python for an empty list or map, for a value with its place, and for a key with its place in a growing map."""
_LINE = 73
"""Bytes of Python for a text of its own in a list, besides its letters."""


_BRACKETS = re.compile(r"[\[\]{}]")


TENSORS = 100_000
"""Named in the header of a safetensors file; so many take two seconds. Files of 30 GB have a few thousand."""


class OverBudgetError(ValueError):
    """A file asks for more memory or time than it may. The text says how much, and of what."""


def check_unpacked(packed: int, unpacked: int, what: str) -> None:
    """Raises `OverBudgetError` for `what` that has `packed` bytes in its file and would have `unpacked` in memory."""
    if unpacked > UNPACKED and unpacked > RATIO * packed:
        raise OverBudgetError(
            f"{what} takes {packed:,} bytes in the file and {unpacked:,} in memory; "
            f"above {UNPACKED:,}, at most {RATIO} times its bytes in the file are unpacked"
        )


def check_text(path: Path, limit: int | None = None) -> None:
    """Raises `OverBudgetError` for a text file that is too large to be read whole: of more than `limit` bytes, or `TEXT_BYTES`."""
    limit = TEXT_BYTES if limit is None else limit
    if (size := path.stat().st_size) > limit:
        raise OverBudgetError(f"it has {size:,} bytes; at most {limit:,} of text are read")


def check_lines(data: bytes) -> None:
    """Raises `OverBudgetError` for a text whose lines would take more memory than they may, each as a text of its own."""
    lines = data.count(b"\n") + data.count(b"\r")
    if (cost := 2 * len(data) * _width(data) + _LINE * lines) > MEMORY:
        raise OverBudgetError(f"its {lines:,} lines would take about {cost:,} bytes of memory; at most {MEMORY:,} are given to them")


def _width(text: bytes) -> int:
    """Bytes of memory of a letter: as many for all of a text as the widest in it takes."""
    return 1 if text.isascii() else 4 if re.search(rb"[\xf0-\xff]", text) else 2


def _escaped(text: bytes) -> int:
    """The same of letters that JSON has as `\\uXXXX`; two of them are one that takes 4."""
    return 1 if b"\\u" not in text else 4 if re.search(rb"\\u[dD][89abAB]", text) else 2


def parse_json(data: bytes | str) -> Any:
    """`json.loads` for a file that a person or another tool wrote. Raises `ValueError` with one sentence for all that it cannot take.

    A byte order mark is left out. Objects of Python take up to 20 times the bytes of their JSON: their number is estimated first.
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    cost = len(raw) * (_width(raw) + max(_width(raw), _escaped(raw)))  # the whole text, and the values in it
    cost += _CONTAINER * (raw.count(b"[") + raw.count(b"{")) + _VALUE * raw.count(b",") + _KEY * raw.count(b":")
    if cost > MEMORY:
        raise OverBudgetError(f"{len(raw):,} bytes of JSON would take about {cost:,} bytes of memory; at most {MEMORY:,} are given to it")
    try:
        return json.loads(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise OverBudgetError("it is nested deeper than JSON is read here") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None


def parse_yaml(text: str) -> Any:
    """`yaml.safe_load` for a file that a person wrote. Raises `yaml.YAMLError` for all that it cannot take.

    Anchors are fine; a text that grows beyond `YAML_NODES` when its aliases are written out is refused before anything is made of it.
    """
    if len(text) > YAML_BYTES:
        raise yaml.YAMLError(f"it has {len(text):,} characters; at most {YAML_BYTES:,} of YAML are read")
    depth = 0
    for bracket in _BRACKETS.findall(text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        if depth > YAML_DEPTH:
            raise yaml.YAMLError(f"it has more than {YAML_DEPTH} brackets in each other")
    loader = _ShallowLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {}, set())
        return loader.construct_document(node)
    except (ValueError, TypeError) as error:  # a date that is none, a number of ten thousand digits
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


class _ShallowLoader(yaml.SafeLoader):
    """Stops at `YAML_DEPTH` levels."""

    level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.level += 1
        if self.level > YAML_DEPTH:
            raise yaml.YAMLError(f"it has more than {YAML_DEPTH} levels in each other")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.level -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Refuses a key that is given twice, where YAML would keep the last in silence."""
        given = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in given if key != "<<" and given.count(key) > 1), None):
            raise yaml.YAMLError(f"{twice!r} is given twice")
        return super().construct_mapping(node, deep)


def _count_nodes(node: yaml.Node, known: dict[int, int], open_: set[int]) -> int:
    """Nodes below this one, each alias counted as what it stands for."""
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_:
        raise yaml.YAMLError("an alias stands for a part that it lies in itself")
    open_.add(id(node))
    parts: Iterable[Any] = node.value if isinstance(node, yaml.CollectionNode) else ()
    total = 1
    for part in parts:
        for one in part if isinstance(part, tuple) else (part,):
            total += _count_nodes(one, known, open_)
    open_.discard(id(node))
    if total > YAML_NODES:
        raise yaml.YAMLError(f"its aliases grow to more than {YAML_NODES:,} values when they are written out")
    known[id(node)] = total
    return total


def check_tensors(path: Path) -> None:
    """Raises `OverBudgetError` for a safetensors file whose header, which is read alone, names too many tensors."""
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        header = file.read(length) if length <= 100 * 10**6 else b""  # a longer one the reader refuses
    if (count := header.count(b'"data_offsets"')) > TENSORS:
        raise OverBudgetError(f"it names {count:,} tensors; at most {TENSORS:,} are read")


def check_members(file: BinaryIO) -> None:
    """Raises `OverBudgetError` for a zip archive of too many members. Reads its end alone, and goes back to the beginning.

    What is no whole archive passes: its reader says so.
    """
    file.seek(0, io.SEEK_END)
    size = file.tell()
    file.seek(max(0, size - 2**16 - 22 - 20))
    tail = file.read()
    count = 0
    if (end := tail.rfind(b"PK\x05\x06")) >= 0 and len(tail) >= end + 22:
        (count,) = struct.unpack_from("<H", tail, end + 10)
        (length,) = struct.unpack_from("<I", tail, end + 12)
        if end >= 20 and tail[end - 20 : end - 16] == b"PK\x06\x07":  # zip64: the count lies in a record of its own
            (place,) = struct.unpack_from("<Q", tail, end - 20 + 8)
            file.seek(min(place, size))
            record = file.read(56)
            if record[:4] == b"PK\x06\x06" and len(record) == 56:
                count, length = struct.unpack_from("<QQ", record, 32)
        count = max(count, length // 128)  # a directory that lies about its members is as long as they make it
    file.seek(0)
    if count > MEMBERS:
        raise OverBudgetError(f"an archive of {count:,} members; at most {MEMBERS:,} are read")
