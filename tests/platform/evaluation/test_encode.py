"""Features as a file: one row an image, what made them said inside, broken images named, memory bounded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made import made_run
from PIL import Image
from toy import write_pairs

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.data.images import decode_image, encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation import encode as encoding
from sightline.platform.evaluation.encode import Pool, encode
from sightline.platform.evaluation.encode_source import open_source
from sightline.platform.evaluation.image_crops import fit_image
from sightline.platform.models.encoders import OpenedEncoder, open_encoder


@pytest.fixture
def opened(home: Path) -> OpenedEncoder:
    made_run("run")
    return open_encoder("run")


def picture(seed: int, height: int = 70, width: int = 90) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def tokens_of(opened: OpenedEncoder, array: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(fit_image(array, opened.encoder.image_size).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return opened.encoder.tokens(pixels)[0].numpy()


def folder_of_images(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    for index in range(5):
        Image.fromarray(picture(index, 64 + index, 100)).save(folder / ("deep" if index % 2 else ".") / f"i{index}.png")
    (folder / "broken.jpg").write_bytes(encode_image(picture(9), 90)[:300])
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("pool", ["own", "mean", "none"])
def test_a_folder_of_images(opened: OpenedEncoder, tmp_path: Path, pool: Pool) -> None:
    folder, out, seen = folder_of_images(tmp_path / "images"), tmp_path / "out" / "features.parquet", []
    result = encode(opened, open_source(str(folder), opened), out, pool, batch=2, progress=lambda done, total: seen.append((done, total)))
    assert (result["rows"], result["broken"]) == (5, 1) and result["broken_images"][0].startswith("broken.jpg: ")
    assert seen[-1] == (6, 6) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    table = pq.read_table(out)
    assert table.column_names == ["id", "feature"]
    assert set(table["id"].to_pylist()) == {"deep/i1.png", "deep/i3.png", "i0.png", "i2.png", "i4.png"}
    for name, feature in zip(table["id"].to_pylist(), table["feature"].to_pylist(), strict=True):
        tokens = tokens_of(opened, decode_image((folder / name).read_bytes()))
        expected = tokens.mean(axis=0) if pool != "none" else tokens.reshape(-1)
        np.testing.assert_allclose(np.float32(feature), expected, atol=1e-5)
    says = json.loads(table.schema.metadata[b"sightline"])
    assert (
        says["sha256"] == opened.sha256
        and says["pool"] == ("none" if pool == "none" else "mean")
        and says["image_size"] == [64, 64]
        and says["grid"] == [4, 4]
    )
    assert "centre crop" in says["preparation"] and says["source"] == "run run, step 12"
    assert pq.read_metadata(out).metadata[b"sightline.broken"] == b"1"
    assert [path.name for path in out.parent.iterdir()] == ["features.parquet"]


def test_pairs_give_both_images_and_their_scene(opened: OpenedEncoder, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs", 7, 3, broken=(2,))
    result = encode(opened, open_source(str(data), opened), tmp_path / "f.parquet", batch=4)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.column_names == ["id", "scene", "feature"] and (result["rows"], result["broken"]) == (13, 1)
    assert table["id"].to_pylist()[:3] == ["3-0000-1", "3-0000-2", "3-0001-1"] and "3-0002-1" not in table["id"].to_pylist()
    assert table["scene"].to_pylist()[:3] == ["s0", "s0", "s1"]
    assert str(table.schema.field("feature").type).startswith("fixed_size_list") and table.schema.field("feature").type.list_size == 32
    assert json.loads(table.schema.metadata[b"sightline"])["fingerprint"] == result["fingerprint"] is not None


def test_labels_go_along_and_row_groups_keep_memory_bounded(opened: OpenedEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path / "images", "images") as writer:
        for index in range(11):
            row = {"id": f"i{index}", "scene": None, "image": encode_image(picture(index), 90), "label": index % 3 if index else None}
            writer.write(row)
    monkeypatch.setattr(encoding, "ROW_GROUP_BYTES", 4 * 4 * 32)
    encode(opened, open_source(str(tmp_path / "images"), opened), tmp_path / "f.parquet", batch=2)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table["label"].to_pylist() == [None, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert [pq.read_metadata(tmp_path / "f.parquet").row_group(i).num_rows for i in range(3)] == [4, 4, 3]


def test_what_cannot_be_encoded_leaves_nothing_behind(opened: OpenedEncoder, tmp_path: Path) -> None:
    for place, said in ((tmp_path / "nowhere", "no data set and no folder"), (tmp_path, "holds no images")):
        with pytest.raises(CallError, match=said):
            open_source(str(place), opened)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no png")
    out = tmp_path / "out" / "f.parquet"
    with pytest.raises(SightlineError, match=r"none of the images of .*bad can be used: 1 x not a readable image \(x\.png\)"):
        encode(opened, open_source(str(tmp_path / "bad"), opened), out)
    with pytest.raises(CallError, match="cannot write"):
        encode(opened, open_source(str(tmp_path / "bad"), opened), tmp_path / "bad" / "x.png" / "f.parquet")
    assert list(out.parent.iterdir()) == []


def test_a_folder_as_people_have_it_is_encoded_and_the_rest_is_counted(opened: OpenedEncoder, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    grey = Image.new("L", (40, 40), 90)
    for name, kind in (
        ("a.jpg", "JPEG"),
        ("b.tif", "TIFF"),
        ("c.bmp", "BMP"),
        ("a_mask.png", "PNG"),
        (os.fsdecode(b"caf\xe9.jpg"), "JPEG"),
    ):
        grey.save(folder / name, kind)
    grey.save(folder / "g.gif", "GIF", save_all=True, append_images=[Image.new("L", (40, 40))])
    (folder / "notes.docx").write_bytes(b"x")
    (folder / "._a.jpg").write_bytes(b"x")
    result = encode(opened, open_source(str(folder), opened), tmp_path / "f.parquet")
    assert pq.read_table(tmp_path / "f.parquet")["id"].to_pylist() == ["a.jpg", "b.tif", "c.bmp", "g.gif"]
    assert result["broken_images"] == ["caf\\xe9.jpg: a name that is not UTF-8: rename it"]
    told = " ".join(result["notes"])
    assert all(words in told for words in ("1 .docx", "1 ._*", "a_mask.png", "more than one image"))
    assert encode(opened, open_source(str(folder), opened, all_images=True), tmp_path / "f.parquet")["rows"] == 5
