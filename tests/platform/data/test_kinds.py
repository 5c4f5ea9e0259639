"""Kinds of data: one from outside is written, read, decoded and inspected; an unknown one is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from outside import publish

from sightline.methods.errors import BrokenSampleError, CallError, SightlineError
from sightline.pipelines.__main__ import main
from sightline.platform.core.plugins import plugins
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import decode_image
from sightline.platform.data.kinds import GROUP, SHIPPED, find_kind, input_of
from sightline.platform.data.schema import decode_row, input_columns
from sightline.platform.data.writer import ShardWriter

WAVES = """
import numpy as np
import pyarrow as pa
from sightline.methods.errors import BrokenSampleError
from sightline.platform.data.encoder_input import EncoderInput
from sightline.platform.data.kinds import ID, SCENE, Column, DataKind

def decode(data):
    if len(data) % 4:
        raise BrokenSampleError("no list of float32")
    return np.frombuffer(data, "<f4")

def takes(encoder):
    length = getattr(encoder, "wave_length", None)
    return None if length is None else EncoderInput("waves", (length,), "float32 samples", "windows")

WAVES = DataKind("waves", "wave", (ID, SCENE, Column("wave", pa.binary(), decode=decode, required=True), Column("label", pa.int64())),
                 "waves", takes)
"""


@pytest.fixture
def waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    publish(tmp_path / "package", GROUP, {"waves": "outside_waves:WAVES"}, {"outside_waves": WAVES}, monkeypatch)
    yield tmp_path / "waves"
    monkeypatch.undo()
    plugins.cache_clear()


def _write(folder: Path) -> None:
    with ShardWriter(folder, "waves", classes=("calm", "storm")) as writer:
        for index in range(70):
            row = {"id": f"w{index}", "scene": f"sea{index % 2}", "wave": np.full(8, index, "<f4").tobytes(), "label": index % 2}
            writer.write(row)


def test_a_kind_from_outside_is_written_read_and_decoded(waves: Path) -> None:
    _write(waves)
    dataset = Dataset.open(waves, "waves")
    assert dataset.rows == 70 and dataset.manifest.labels == {0: 35, 1: 35} and dataset.manifest.scenes == {"sea0": 35, "sea1": 35}
    row = dataset.read(0, 1, [0]).to_pylist()[0]
    sample = decode_row(row, "waves")
    assert sample["id"] == "w64" and np.array_equal(sample["wave"], np.full(8, 64, np.float32))
    with pytest.raises(BrokenSampleError, match="w64: wave: no list of float32"):
        decode_row(row | {"wave": b"123"}, "waves")
    assert input_columns("waves", lambda sample, rng: {}) == ("id", "wave")


def test_a_kind_from_outside_is_inspected(waves: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(waves)
    assert main(["inspect", str(waves), "--verify", "--contact-sheet", str(waves / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert f"{waves}  waves" in said and "calm (35), storm (35)" in said
    assert decode_image((waves / "sheet.png").read_bytes()).std() > 10


def test_an_encoder_of_a_kind_from_outside_has_its_own_input(waves: Path) -> None:
    class Encoder:
        wave_length = 16

    assert input_of(Encoder()).shape == (16,)
    with pytest.raises(SightlineError, match="object is an encoder of no known kind"):
        input_of(object())


def test_a_data_set_of_a_kind_that_nobody_provides_is_refused_by_name(waves: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(waves)
    monkeypatch.undo()
    plugins.cache_clear()
    with pytest.raises(CallError, match=r"manifest.json holds data of the kind 'waves', which is not known here; known are pairs, images"):
        Dataset.open(waves)
    with pytest.raises(CallError, match="unknown kind of data 'waves'"):
        find_kind("waves")


def test_an_entry_point_that_names_no_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, GROUP, {"waves": "outside_nothing:WAVES"}, {"outside_nothing": "WAVES = 1"}, monkeypatch)
    with pytest.raises(SightlineError, match="outside_nothing:WAVES is not the data kind 'waves'"):
        find_kind("waves")
    monkeypatch.undo()
    plugins.cache_clear()


def test_the_shipped_kinds_say_what_a_sample_is_made_of() -> None:
    assert {name: kind.samples for name, kind in SHIPPED.items()} == {
        "pairs": ("image1", "image2"),
        "images": ("image",),
        "points": ("points",),
    }
