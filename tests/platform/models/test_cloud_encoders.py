"""Encoders of clouds outside of training: opened in a notebook, their features as a file, other forms out, the authors' files in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import toy_clouds
from made import TOYS, made_run, pretext_of
from toy import write_images

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.ops.clouds import fitted
from sightline.platform.data.clouds import decode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.encode import encode
from sightline.platform.evaluation.encode_source import open_source
from sightline.platform.models.encoders import OpenedEncoder, load_encoder, open_encoder
from sightline.platform.models.export import export
from sightline.platform.models.published import take_in
from sightline.platform.runs.record import Run

ALONE = {"pretext.mask": "random", "loss.features": 0}
"""Without a teacher."""


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setitem(TOYS, "i2p_mae", toy_clouds.SETTINGS)
    return made_run("run", "i2p_mae", **ALONE)


@pytest.fixture
def opened(run: Run) -> OpenedEncoder:
    return open_encoder("run")


def clouds(count: int = 3) -> torch.Tensor:
    return torch.stack([torch.from_numpy(fitted(np.random.default_rng(i).normal(size=(80, 3)), 64, 16)) for i in range(count)])


def stored(place: Path) -> dict[str, np.ndarray]:
    return {r["id"]: decode_points(r["points"]) for t in Dataset.open(place).scan(["id", "points"]) for r in t.to_pylist()}


@pytest.mark.parametrize("pool", ["own", "mean", "none"])
def test_the_features_of_a_data_set_are_those_of_its_fitted_clouds(opened: OpenedEncoder, tmp_path: Path, pool: Any) -> None:
    data = toy_clouds.write_clouds(tmp_path / "data", 9, broken=(4,))
    result = encode(opened, open_source(str(data), opened), tmp_path / "f.parquet", pool, batch=4)
    assert (result["rows"], result["broken"]) == (8, 1) and result["broken_clouds"] == ["0004: 1 distinct points; model.groups needs 16"]
    table = pq.read_table(tmp_path / "f.parquet")
    encoder = load_encoder("run")
    for name, feature in zip(table["id"].to_pylist(), table["feature"].to_pylist(), strict=True):
        points = torch.from_numpy(fitted(stored(data)[name], 64, 16))[None]
        with torch.no_grad():
            tokens = encoder.tokens(points)[0]
        expected = {"own": tokens.amax(dim=0), "mean": tokens.mean(dim=0), "none": tokens.flatten()}[pool]
        np.testing.assert_allclose(np.float32(feature), expected.numpy(), atol=1e-5)
    says = json.loads(table.schema.metadata[b"sightline"])
    assert (says["pool"], says["points"], says["sha256"]) == (pool, 64, opened.sha256) and "the same ones every time" in says["preparation"]


def test_what_an_encoder_takes_of_a_cloud_is_always_the_same_and_of_one_scale() -> None:
    points = np.random.default_rng(0).normal(5, 3, size=(500, 3))
    taken = fitted(points, 64, 16)
    assert np.array_equal(taken, fitted(points, 64, 16)) and taken.dtype == np.float32
    assert np.abs(taken.mean(axis=0)).max() < 1e-6 and np.linalg.norm(taken, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(fitted(7 * points + 2, 64, 16), taken, atol=1e-6)
    assert np.abs(taken).sum() != pytest.approx(np.abs(fitted(points[::-1], 64, 16)).sum())


def test_a_folder_of_meshes_and_clouds(opened: OpenedEncoder, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "square.off").write_text("OFF\n4 2 0\n0 0 0\n3 0 0\n3 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n")
    np.save(tmp_path / "in" / "cloud.npy", np.random.default_rng(0).normal(size=(70, 3)))
    np.save(tmp_path / "in" / "few.npy", np.zeros((5, 3)))
    (tmp_path / "in" / "cut.glb").write_bytes(b"glTF")
    result = encode(opened, open_source(str(tmp_path / "in"), opened), tmp_path / "f.parquet")
    assert result["rows"] == 2 and result["broken"] == 2 and result["broken_clouds"][0].startswith("cut.glb: cannot be read as GLB")
    assert pq.read_table(tmp_path / "f.parquet")["id"].to_pylist() == ["cloud.npy", "deep/square.off"]


def test_images_are_not_for_an_encoder_of_clouds_nor_the_reverse(opened: OpenedEncoder, tmp_path: Path) -> None:
    images, points = write_images(tmp_path / "images", 4, 0), toy_clouds.write_clouds(tmp_path / "points", 4)
    with pytest.raises(CallError, match="holds images, but the i2p_mae encoder of run run, step 12 takes clouds"):
        open_source(str(images), opened)
    made_run("sees")
    sees = open_encoder("sees")
    with pytest.raises(CallError, match="holds points, but the croco encoder of run sees, step 12 takes images"):
        open_source(str(points), sees)
    (tmp_path / "meshes").mkdir()
    (tmp_path / "meshes" / "a.off").write_text("OFF\n")
    with pytest.raises(CallError, match=r"holds no images .* \(of clouds it holds 1\)"):
        open_source(str(tmp_path / "meshes"), sees)


def test_timm_is_refused_with_the_reason(opened: OpenedEncoder, tmp_path: Path) -> None:
    with pytest.raises(SightlineError, match="timm has encoders of images alone"):
        export(opened, "timm", tmp_path / "timm")


def test_one_file_holds_the_encoder(opened: OpenedEncoder, tmp_path: Path) -> None:
    export(opened, "safetensors", tmp_path)
    again = open_encoder(str(tmp_path))
    assert again.weights.part == "encoder" and again.sha256 == opened.sha256
    with torch.no_grad():
        assert torch.equal(again.encoder.pooled(clouds()), opened.encoder.pooled(clouds()))


def test_the_authors_layout_goes_out_and_comes_in_again(opened: OpenedEncoder, tmp_path: Path) -> None:
    export(opened, "official", tmp_path)
    taken = take_in(tmp_path / "model.safetensors", "i2p_mae", None, {})
    assert not (taken.match.missing or taken.match.unexpected or taken.fresh)
    assert taken.weights.sections["model"] == opened.weights.sections["model"] and taken.weights.sha256 == opened.weights.sha256


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_the_authors_trainer_comes_in_without_the_teacher_and_says_so(run: Run, tmp_path: Path, prefix: str) -> None:
    """A pickle without settings beside its tensors; with `module.` where their launcher wrapped the model."""
    from sightline.methods.i2p_mae.official import save

    tensors, _ = save(pretext_of(run).state_dict(), run.experiment.method_config)  # type: ignore[arg-type]
    clip = {f"clip_model.visual.{name}": torch.zeros(2, dtype=torch.float16) for name in ("proj", "class_embedding")}
    whole = {f"{prefix}{name}": value for name, value in {**tensors, **clip, "head.weight": torch.zeros(2)}.items()}
    content = {"base_model": whole, "optimizer": {"state": {}}, "epoch": 300, "metrics": {"acc": 0.9}, "best_metrics": {"acc": 0.9}}
    torch.save(content, tmp_path / "ckpt.pth")
    told = {"model.points": 64, "model.groups": [16, 12, 8], "model.neighbours": [4, 4, 4], "model.heads": 2}
    taken = take_in(tmp_path / "ckpt.pth", "i2p_mae", None, told)
    assert sorted(taken.match.left_out) == sorted(clip) and taken.match.unexpected == ("head.weight",) and not taken.match.missing
    assert taken.weights.sha256 == open_encoder("run").weights.sha256


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own future
def test_onnx_gives_the_same_tokens_for_any_batch(opened: OpenedEncoder, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result = export(opened, "onnx", tmp_path)
    assert '{"points": points}' in result["use"] and "x 64 x 3" in result["notes"][0]
    session = runtime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    twice = torch.cat([clouds(1)[:, :32], clouds(1)[:, :32]], dim=1)  # equal distances: the lower index comes first there, too
    for points in (clouds(1), clouds(5), twice):
        with torch.no_grad():
            expected = opened.encoder.tokens(points)
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"points": points.numpy()})[0]), expected, atol=1e-5, rtol=0)
