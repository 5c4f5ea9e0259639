"""Small files that ask for much are refused before they get it; large ones that hold much are not."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.methods.errors import CallError
from sightline.platform.config.recipes import read_recipe
from sightline.platform.core import budget
from sightline.platform.core.budget import (
    OverBudgetError,
    check_lines,
    check_members,
    check_tensors,
    check_text,
    check_unpacked,
    parse_json,
    parse_yaml,
)
from sightline.platform.data.manifest import parse_manifest
from sightline.platform.data.prepare.captures.cameras import read_cameras


def laughs(levels: int = 9) -> str:
    """YAML whose aliases grow tenfold at every level."""
    return "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))


def merges(levels: int = 9) -> str:
    """The same with merge keys."""
    return "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, levels))


def quick(read: Callable[[Any], object], given: Any, error: type[Exception], said: str) -> None:
    """Refused with these words, at once, with little memory."""
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(error, match=said):
        read(given)
    spent, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert spent < 5 and peak < budget.MEMORY // 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(), "grow to more than"),
        (merges(), "grow to more than"),
        ("a: &a [*a]", "lies in itself"),
        ("[" * 3000, "brackets in each other"),
        ("- " * 3000, "levels in each other"),
        ("? " * 3000, "levels in each other"),
        ("a: " + "9" * 5000, "4300"),
        ("a: 2001-99-99", "month must be"),
        ("a: b\n" * 150_000, "at most"),
    ],
    ids=["laughs", "merge keys", "circle", "deep", "deep block", "deep keys", "long number", "no date", "long"],
)
def test_yaml_that_grows_is_refused(text: str, said: str) -> None:
    quick(parse_yaml, text, yaml.YAMLError, said)


def test_yaml_with_anchors_is_read() -> None:
    text = "base: &base {lr: 1.0e-3, sizes: [1, 2]}\nmine: {<<: *base, lr: 2}\nagain: *base\n"
    assert parse_yaml(text) == yaml.safe_load(text)
    assert parse_yaml("") is None and parse_yaml("0.5") == 0.5


@pytest.mark.parametrize(
    ("data", "said"), [(b"[" * 100_000, "nested"), (b'{"a":' * 100_000, "nested"), (b"\xff\xfe{", "UTF-8"), (b"{", "Expecting")]
)
def test_json_that_is_too_deep_or_none_is_refused(data: bytes, said: str) -> None:
    quick(parse_json, data, ValueError, said)
    with pytest.raises(ValueError, match=said):
        parse_json(data.decode("latin-1")) if said != "UTF-8" else parse_json(data)


def test_json_is_refused_by_what_it_would_take_not_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MEMORY", 2**20)
    quick(parse_json, b"[" + b"[]," * 20_000 + b"[]]", OverBudgetError, "would take about")
    text = json.dumps(["x" * 500_000])
    assert parse_json(text) == json.loads(text)
    assert parse_json(b"\xef\xbb\xbf[1]") == [1], "a byte order mark is no fault"


def test_wide_letters_and_short_lines_are_counted_as_what_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "MEMORY", 2**20)
    plain = '"' + "x" * 300_000
    assert len(parse_json(plain + '"')) == 300_000
    for wide in ("\N{GRINNING FACE}", r"\ud83d\ude00"):  # one of them makes all letters take four bytes
        with pytest.raises(OverBudgetError, match="would take about"):
            parse_json(f'{plain}{wide}"')
    check_lines(b"x" * 50 + b"\n" * 10_000)
    quick(check_lines, b"a\n" * 20_000, OverBudgetError, "its 20,000 lines")
    quick(check_lines, b"x" * 200_000 + "\N{GRINNING FACE}".encode(), OverBudgetError, "lines would take")


def test_the_readers_of_data_sets_and_recipes_ask(tmp_path: Path) -> None:
    (tmp_path / "cameras.json").write_text('{"frames": ' + "[" * 5000)
    quick(read_cameras, tmp_path, CallError, r"cameras\.json cannot be understood: it is nested")
    quick(lambda text: parse_manifest(text, "here"), "[" * 100_000, CallError, "here is not a valid manifest: it is nested")
    (tmp_path / "r.yaml").write_text("method: croco\n" + laughs())
    quick(read_recipe, str(tmp_path / "r.yaml"), CallError, "no valid YAML: its aliases grow")


def test_what_unpacks_to_much_more_than_it_holds_is_refused() -> None:
    check_unpacked(10, budget.UNPACKED, "small things")
    check_unpacked(20 << 30, 30 << 30, "an array that holds what it says")
    with pytest.raises(OverBudgetError, match=r"the array 'a' takes 1,000,000 bytes in the file and 1,000,000,000 in memory"):
        check_unpacked(10**6, 10**9, "the array 'a'")


def test_a_text_is_read_up_to_a_size(tmp_path: Path) -> None:
    with (tmp_path / "list.txt").open("wb") as file:
        file.truncate(budget.TEXT_BYTES + 1)
    with pytest.raises(OverBudgetError, match="of text are read"):
        check_text(tmp_path / "list.txt")


@pytest.mark.parametrize("entries", [1, 20, 70_000])
def test_the_members_of_an_archive_are_counted_without_reading_them(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", b"x" * 1000)
    monkeypatch.setattr(budget, "MEMBERS", 10)
    data = file.getvalue()
    if entries > 0xFFFF:  # as zip64 says it
        end = data[-22:-12] + b"\xff\xff" + data[-10:]
        record = b"PK\x06\x06" + bytes(28) + (entries).to_bytes(8, "little") + bytes(16)
        locator = b"PK\x06\x07" + bytes(4) + len(data[:-22]).to_bytes(8, "little") + bytes(4)
        data = data[:-22] + record + locator + end
    elif entries > 1:
        data = data[:-12] + entries.to_bytes(2, "little") + data[-10:]
    if entries == 1:
        check_members(io.BytesIO(data))
    else:
        quick(check_members, io.BytesIO(data), OverBudgetError, f"{entries:,} members")
    check_members(io.BytesIO(b"no archive at all"))


def test_the_tensors_of_a_header_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "TENSORS", 10)
    for count in (10, 11):
        header = json.dumps({f"w{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}).encode()
        (tmp_path / f"{count}.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    check_tensors(tmp_path / "10.safetensors")
    quick(check_tensors, tmp_path / "11.safetensors", OverBudgetError, "names 11 tensors")
    (tmp_path / "x").write_bytes(b"\xff" * 20)
    check_tensors(tmp_path / "x")
