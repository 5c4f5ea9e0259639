"""`sightline predict` on clouds and meshes: classes with names, the part of every point, wrong calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toy_discs import ENCODER, MODEL, toy_cloud

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.random import keyed_rng
from sightline.pipelines.__main__ import main
from sightline.platform.data.prepare.meshes import read_cloud
from sightline.platform.evaluation.predict_clouds import parts_of
from sightline.platform.models.encoders import load_encoder
from sightline.platform.weights.format import Weights, write_file

SECTIONS = {name: ENCODER.get(name, {}) for name in ("model", "pretext", "loss", "augment")}
PARTS = {
    "encoder": {"method": "i2p_mae", **SECTIONS},
    **{
        "classes": 2,
        "class_names": ["Chair", "Lamp"],
        "parts": 5,
        "part_names": ["Chair/back", "Chair/seat", "Lamp/base", "Lamp/pole", "Lamp/shade"],
    },
    **{
        "parts_of": [[0, 1], [2, 3, 4]],
        "points": 64,
        "neighbours": [8, 4, 4],
        "propagation": [12, 8],
        "category_dim": 4,
        "head": [16, 8, 8],
    },
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("sightline.platform.evaluation.predict_clouds.MOST_POINTS", 150)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clouds" / "below").mkdir(parents=True)
    np.savetxt(tmp_path / "clouds" / "many.xyz", 1000 + 7 * toy_cloud(0, 0, 150))
    np.save(tmp_path / "clouds" / "below" / "few.npy", toy_cloud(1, 1, 40))
    (tmp_path / "clouds" / "below" / "tetra.off").write_text("OFF\n4 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n")
    return tmp_path


def model(place: Path, method_id: str, settings: dict[str, Any]) -> str:
    method = find_method(method_id)
    config = method.Config.model_validate({"model": settings})
    state = method.build(config, BuildContext(seed=3)).state_dict()
    write_file(
        Weights.of(method.id, config.model_dump(mode="json"), "pretext", state, "a test", method_id), place / f"{method_id}.safetensors"
    )
    return f"{method_id}.safetensors"


def test_clouds_and_meshes_get_their_class_by_name(place: Path) -> None:
    names = ["ball", "disc", "rod"]
    tuned = model(place, "finetune_points", {"encoder": ENCODER, "classes": 3, "class_names": names, **MODEL})
    assert main(["predict", tuned, "clouds", "--out", "found"]) == 0
    told = json.loads((place / "found" / "predictions.json").read_text())
    assert told.keys() == {"many", "below/few", "below/tetra"}
    assert all(one["class"] == names[one["index"]] and 1 / 3 <= one["probability"] <= 1 for one in told.values())
    expected = load_encoder(tuned).classify(np.loadtxt(place / "clouds" / "many.xyz"))[0]
    assert (told["many"]["class"], told["many"]["probability"]) == pytest.approx(expected)


def test_every_point_gets_a_part_of_its_category(place: Path) -> None:
    tuned = model(place, "finetune_parts", PARTS)
    for category, words in (("Lamp", ["--category", "Lamp"]), (None, [])):
        assert main(["predict", tuned, "clouds", *words, "--out", "found"]) == 0
        told = json.loads((place / "found" / "predictions.json").read_text())
        assert category is None or {one["category"] for one in told.values()} == {category}
        back = read_cloud(str(place / "found" / "many.ply"), 10**6, keyed_rng("x"))
        assert np.array_equal(back.points, np.loadtxt(place / "clouds" / "many.xyz")), "in the order and the place of the file"
        own = PARTS["parts_of"][PARTS["class_names"].index(told["many"]["category"])]
        assert back.part is not None and set(back.part.astype(int)) <= set(own)
        shares = {one["index"]: one["share"] for one in told["many"]["parts"]}
        assert shares == {int(part): pytest.approx((back.part == part).mean(), abs=1e-6) for part in np.unique(back.part)}
        with Image.open(place / "found" / "many.png") as picture:
            assert picture.size == (480, 480)
    legend = json.loads((place / "found" / "classes.json").read_text())
    assert [one["part"] for one in legend] == PARTS["part_names"] and len({one["colour"] for one in legend[2:]}) == 3


def test_a_cloud_of_as_many_points_as_the_network_sees_gets_what_the_network_says(place: Path) -> None:
    network = load_encoder(model(place, "finetune_parts", PARTS)).module
    cloud = torch.from_numpy(toy_cloud(0, 5, 64)).float()
    _, found = parts_of(network, cloud.numpy(), 1)
    order = keyed_rng("subsets of a cloud").permutation(64)
    centred = cloud - cloud.mean(dim=0)
    given, lamp = (centred / centred.norm(dim=1).max())[order][None], torch.tensor([1])
    with torch.no_grad():
        assert np.array_equal(found[order], network.found(network.logits(given, lamp), lamp)[0].numpy())


def test_wrong_calls_name_the_thing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts, classes = model(place, "finetune_parts", PARTS), model(place, "finetune_points", {"encoder": ENCODER, "classes": 3, **MODEL})
    Image.new("RGB", (8, 8)).save(place / "photo.png")
    np.save(place / "point.npy", np.ones((70, 3)))
    for words, said in (
        ([parts, "photo.png"], "this model takes clouds and meshes"),
        ([parts, "nowhere"], "there is no file or folder nowhere"),
        ([parts, "home"], "holds no clouds and no meshes"),
        ([parts, "point.npy"], "point.npy: all points are the same"),
        ([classes, "point.npy"], "point.npy: "),
        ([parts, "clouds", "--category", "chair"], "knows no category 'chair'"),
        ([classes, "clouds", "--category", "Chair"], "predicts classes of clouds, not parts"),
        ([parts, "clouds", "--flip"], "are for models of images"),
    ):
        (place / "home").mkdir(exist_ok=True)
        assert main(["predict", *words, "--out", "out"]) == 2, words
        assert said in capsys.readouterr().err, words
