"""`sightline predict`: files of the right content for each task, on images of any size; wrong calls."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_dense import ENCODERS, NARROW

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import CallError
from sightline.methods.ops.tiling import Passes
from sightline.pipelines.__main__ import main
from sightline.pipelines.evaluate import passes_of
from sightline.platform.config import METHOD_SECTIONS
from sightline.platform.data.ground_truth import read_flo, read_kitti_flow, read_png16
from sightline.platform.data.pfm import read_pfm
from sightline.platform.weights.format import Weights, write_file

SIZES = {"small": (20, 30), "wide": (40, 70)}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        for name, size in SIZES.items():
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def model(place: Path, task: str, **more: Any) -> str:
    sections = find_method("croco").Config.model_validate(ENCODERS["croco"]).model_dump(mode="json")
    encoder = {"method": "croco", **{name: sections[name] for name in METHOD_SECTIONS}}
    method = find_method(f"finetune_{task}")
    settings = method.Config.model_validate({"model": {"encoder": encoder, "image_size": 32, **more}})
    state = method.build(settings, BuildContext(seed=0)).state_dict()
    weights = Weights.of(method.id, settings.model_dump(mode="json"), "pretext", state, "a test", task)
    write_file(weights, place / f"{task}.safetensors")
    return f"{task}.safetensors"


DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, **NARROW}


def test_each_task_writes_its_maps_in_the_size_of_the_image(place: Path) -> None:
    for task, more, words in (("depth", NARROW, ["left"]), ("stereo", DECODER, ["left", "right"]), ("flow", DECODER, ["left", "right"])):
        assert main(["predict", model(place, task, **more), *words, "--overlap", "0.2", "--kitti", "--out", task]) == 0
        for name, size in SIZES.items():
            with Image.open(place / task / f"{name}.png") as picture:
                assert picture.size == size[::-1] and picture.mode == "RGB"
            if task == "flow":
                flow = read_flo((place / task / f"{name}.flo").read_bytes())
                assert flow.shape == (*size, 2)
                assert np.abs(read_kitti_flow((place / task / "kitti" / f"{name}.png").read_bytes()) - flow).max() <= 0.5 / 64
            else:
                values = read_pfm((place / task / f"{name}.pfm").read_bytes())
                stored = read_png16((place / task / "kitti" / f"{name}.png").read_bytes(), 1) / 256
                assert np.abs(stored - values.clip(1 / 256)).max() <= 0.5 / 256
                assert values.shape == size and np.isfinite(values).all()
                assert task == "stereo" or (values > 0).all()
            assert (place / task / f"{name}-doubt.png").exists() == (task != "depth")


def test_classes_have_names_and_label_maps_the_class_of_each_pixel(place: Path) -> None:
    names = {"classes": 3, "class_names": ["wall", "floor", "chair"]}
    assert main(["predict", model(place, "classification", **names), "left", "--out", "classes"]) == 0
    found = json.loads((place / "classes" / "predictions.json").read_text())
    assert found.keys() == SIZES.keys() and all(names["class_names"][one["index"]] == one["class"] for one in found.values())
    assert main(["predict", model(place, "segmentation", **names), "left/wide.png", "--out", "labels"]) == 0
    with Image.open(place / "labels" / "wide.png") as labels:
        assert labels.size == (70, 40) and set(np.unique(np.asarray(labels))) <= {0, 1, 2}
        counts = np.bincount(np.asarray(labels).ravel(), minlength=3) / (40 * 70)
    shares = json.loads((place / "labels" / "predictions.json").read_text())["wide"]["classes"]
    assert {one["class"]: one["share"] for one in shares} == {
        name: pytest.approx(share, abs=1e-6) for name, share in zip(names["class_names"], counts, strict=True) if share
    }
    legend = json.loads((place / "labels" / "classes.json").read_text())
    assert [one["class"] for one in legend] == names["class_names"] and len({one["colour"] for one in legend}) == 3
    with Image.open(place / "labels" / "wide.png") as labels, Image.open(place / "labels" / "wide-colours.png") as colours:
        first = (np.asarray(labels)[0, 0], np.asarray(colours)[0, 0])
    assert legend[int(first[0])]["colour"] == "#" + bytes(first[1].tolist()).hex()
    own = model(place, "segmentation", **names, palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert main(["predict", own, "left/wide.png", "--scales", "0.5,1", "--flip", "--out", "own"]) == 0
    assert [one["colour"] for one in json.loads((place / "own" / "classes.json").read_text())] == ["#010203", "#040506", "#070809"]
    with Image.open(place / "own" / "wide-colours.png") as colours:
        assert {tuple(one) for one in np.asarray(colours).reshape(-1, 3).tolist()} <= {(1, 2, 3), (4, 5, 6), (7, 8, 9)}
    assert main(["predict", model(place, "classification", **names), "left", "--flip", "--out", "none"]) == 2


def test_a_pose_is_told_as_a_matrix(place: Path) -> None:
    small = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "hidden": 8}
    assert main(["predict", model(place, "pose", **small), "left", "right", "--out", "poses"]) == 0
    found = json.loads((place / "poses" / "predictions.json").read_text())
    matrix = np.array(found["wide"]["T_2from1"])
    assert found.keys() == SIZES.keys() and np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-5)
    assert matrix[3].tolist() == [0, 0, 0, 1]


def test_wrong_calls_name_the_thing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stereo, depth = model(place, "stereo", **DECODER), model(place, "depth", **NARROW)
    (place / "bad.png").write_bytes(b"no image")
    sections = find_method("croco").Config.model_validate(ENCODERS["croco"]).model_dump(mode="json")
    state = find_method("croco").build(find_method("croco").Config.model_validate(ENCODERS["croco"]), BuildContext(seed=0)).state_dict()
    write_file(Weights.of("croco", sections, "pretext", state, "a test", "croco"), place / "croco.safetensors")
    for words, said in (
        ([stereo, "left/small.png"], "takes the left image and the right image"),
        ([stereo, "left/small.png", "right/wide.png"], "differ in size: 30 x 20 and 70 x 40"),
        ([stereo, "left", "right/wide.png"], "one is a folder and one is a file"),
        ([depth, "left/small.png", "right/small.png"], "takes one image"),
        ([depth, "nowhere"], "there is no file or folder nowhere"),
        ([depth, "bad.png"], "bad.png: "),
        ([depth, "left", "--overlap", "1"], "is not in [0, 1)"),
        (["croco.safetensors", "left"], "is an encoder and predicts nothing"),
    ):
        assert main(["predict", *words, "--out", "out"]) == 2, words
        assert said in capsys.readouterr().err, words


def test_passes_over_an_image_are_read_from_the_options() -> None:
    def given(**options: Any) -> Passes | None:
        return passes_of(Namespace(**{"overlap": None, "scales": None, "flip": False, **options}))

    assert given() is None
    assert given(scales="0.5,1", flip=True) == Passes(0.5, (0.5, 1.0), True)
    for options, said in (({"scales": "half"}, "no numbers"), ({"scales": "0"}, "scales 0"), ({"overlap": 1.0}, "overlap 1")):
        with pytest.raises(CallError, match=said):
            given(**options)
