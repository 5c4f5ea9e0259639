"""`sightline finetune` with an encoder of clouds: its weights kept in the run, the whole command, wrong calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asking import Ask
from toy import TOY_IMAGES, write_images
from toy_discs import ENCODER, MODEL, write_clouds
from toy_shapes import make_clouds

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.platform import config
from sightline.platform.data.clouds import encode_points
from sightline.platform.data.writer import ShardWriter
from sightline.platform.runs.record import Run
from sightline.platform.weights.format import Weights, read_file, write_folder

NETWORK = [f"model.{key}={json.dumps(value)}" for key, value in MODEL.items()]
SMALL = ["batch.size=8", "batch.microbatch=8", "train.length=2 steps", "optim.warmup=0 steps", "train.precision=fp32", "train.threads=1"]
CALL = ["finetune", "clouds", "--task", "classification"]


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Encoders of clouds and of images and labelled data sets, in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name, settings in (("clouds", ENCODER), ("images", TOY_IMAGES["conmim"])):
        experiment = config.load("toy", settings=settings | {"optim": {"lr": 1e-3}})
        encoder = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=5)).encoder()
        sections = experiment.method_config.model_dump(mode="json")
        weights = Weights.of(experiment.method, sections, "encoder", encoder.state_dict(), "a test", str(tmp_path / name))
        write_folder(weights, tmp_path / name)
    write_clouds(tmp_path / "train", 40, 1)
    write_clouds(tmp_path / "val", 20, 2)
    return tmp_path


def test_the_run_begins_with_all_of_the_encoder_but_its_norms(ask: Ask, made: list[Run], place: Path) -> None:
    code, _, said = ask(*CALL, "data.train=train", "data.val=val", *SMALL, *NETWORK)
    assert code == 0, said
    run = made[0]
    assert (run.settings["method"], run.settings["model"]["classes"]) == ("finetune_points", 2)
    assert run.recipe == "finetune-points-modelnet40"
    kept = read_file(run.folder / "init" / "weights.safetensors").tensors
    from safetensors.torch import load_file

    original = load_file(place / "clouds" / "encoder.safetensors")
    assert {name for name in original if "predictor.h_encoder." + name not in kept} == {n for n in original if "encoder_norms" in n}
    assert all(torch.equal(value, original[name.removeprefix("predictor.h_encoder.")]) for name, value in kept.items())


def test_from_scratch_begins_with_nothing_and_recipes_can_be_named(ask: Ask, made: list[Run], place: Path) -> None:
    words = ["data.train=train", *SMALL, *NETWORK, "--scratch", "--recipe", "finetune-points-scanobjectnn"]
    code, _, said = ask(*CALL, *words)
    assert code == 0, said
    assert made[0].settings["train"]["init"] is None and not (made[0].folder / "init").exists()
    assert made[0].settings["augment"]["rotation"] == 180 and made[0].settings["model"]["pooling"] == "concat"


PARTS = ["model.points=64", "model.neighbours=[6,4,3]", "model.propagation=[8,8]", "model.category_dim=4", "model.head=[8,8,8]"]


def test_parts_and_their_categories_come_from_the_data(ask: Ask, made: list[Run], place: Path) -> None:
    for name, parts in (("with-parts", True), ("bare", False)):
        make_clouds(place / name, 24, parts=parts)
    call = ["finetune", "clouds", "--task", "part_segmentation", *SMALL, *PARTS]
    code, _, said = ask(*call, "data.train=with-parts", "data.val=with-parts")
    assert code == 0, said
    model = made[0].settings["model"]
    assert (model["classes"], model["parts"], model["parts_of"]) == (3, 6, [[0, 1], [2, 3], [4, 5]])
    assert made[0].recipe == "finetune-parts" and model["part_names"][:2] == ["b/left", "b/right"]
    from safetensors.torch import load_file

    original = load_file(place / "clouds" / "encoder.safetensors")
    kept = read_file(made[0].folder / "init" / "weights.safetensors").tensors
    assert set(kept) == {f"predictor.h_encoder.{name}" for name in original}, "with its norms"
    code, _, said = ask(*call, "data.train=bare")
    assert code == 2 and "no categories with parts" in said and "prepare points shapenetpart" in said


def test_few_shot_folds_are_runs_of_their_own(ask: Ask, made: list[Run], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sightline.platform.experiments import few_shot

    monkeypatch.setattr(few_shot, "scores_of", lambda run: few_shot.Scores(run.name, 0.75, 1.0))
    words = ["data.train=train", "data.val=val", *SMALL, *NETWORK, "--few-shot", "2x6", "--folds", "2", "--name", "fs"]
    code, out, said = ask(*CALL, *words, "--json")
    assert code == 0, said
    assert [run.name for run in made] == ["fs-0", "fs-1"] and "2-way 6-shot over 2 folds" in said
    assert json.loads(out.strip().splitlines()[-1])["accuracy"] == {"mean": 0.75, "deviation": 0.0}
    learned = {Path(run.settings["data"]["train"]).parent.name for run in made}
    assert learned == {"0", "1"} and (place / "home" / "few-shot" / "fs" / "folds.json").is_file()
    code, _, said = ask("finetune", "clouds", "--task", "part_segmentation", "--few-shot", "2x6", "data.train=train")
    assert code == 2 and "--few-shot is for --task classification" in said


def test_wrong_calls_name_the_thing_and_the_hint(ask: Ask, made: list[Run], place: Path) -> None:
    cloud = encode_points(np.random.default_rng(0).random((96, 3)))
    with ShardWriter(place / "other", "points", classes=("chair", "sofa")) as writer:
        for index in range(8):
            writer.write({"id": str(index), "points": cloud, "label": index % 2})
    with ShardWriter(place / "unlabelled", "points") as writer:
        for index in range(8):
            writer.write({"id": str(index), "points": cloud})
    write_images(place / "photos", 8, 1)
    task = ["--task", "classification"]
    for words, told in (
        (["clouds", *task, "data.train=unlabelled"], "no column 'label' with two classes or more"),
        (["clouds", *task, "data.train=train", "data.val=other"], "other classes or another order of them"),
        (["clouds", "--task", "segmentation", "data.train=train"], "holds points, but images are needed for segmentation"),
        (["images", *task, "data.train=train"], "images is an encoder of images, and"),
        (["clouds", *task, "data.train=photos"], "clouds is an encoder of points, and"),
        (["clouds", *task, "data.train=train", "model.points=2048"], "use pretext.votes=0"),
        (["clouds", *task, "data.train=train", "model.neighbours=[6,17,3]"], "17 is more than model.groups[0] 16"),
        (["clouds", *task, "data.train=train", "--recipe", "finetune-classification"], "use one with `method: finetune_points`"),
    ):
        code, _, said = ask("finetune", words[0], *NETWORK, *SMALL, *words[1:])
        assert code == 2, words
        assert told in " ".join(said.split()), (words, said)
    assert made == []


@pytest.mark.slow
def test_a_fine_tuned_classifier_is_trained_scored_by_votes_and_registered(
    ask: Ask, place: Path, without_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["data.train=train", "data.val=val", *SMALL, *NETWORK, "pretext.votes=3", "pretext.official=false"]
    # Batch norm forgets its first statistics by a tenth a step: after 30 steps every cloud would still look the same in evaluation.
    code, out, said = ask(*CALL, *words, "train.length=100 steps", "optim.lr=2e-3", "--name", "ft", "--json")
    assert code == 0, said
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    assert result["metrics"]["test/accuracy"] > 0.8, "a disc is no sphere"
    assert result["metrics"]["test/vote"] > 0.8 and "test/best_of_49" not in result["metrics"]
    assert result["registered"] == "models:/finetune-points-model@candidate"
    run = Run.open("ft")
    claims = json.loads((run.folder / "claims.json").read_text())
    assert claims["figures"]["vote"]["units"] == 20 and claims["finding"].endswith("on 20 test clouds.")
    assert "vote" in (run.folder / "report.html").read_text()

    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'home' / 'mlflow.db'}")
    model: Any = mlflow.pytorch.load_model(result["registered"])
    from sightline.platform.models.encoders import open_encoder

    opened = open_encoder(result["registered"]).encoder
    points = torch.randn(5, 64, 3, generator=torch.Generator().manual_seed(0)) / 3
    with torch.no_grad():
        torch.testing.assert_close(model(points), opened(points))
    served = mlflow.pyfunc.load_model(result["registered"])
    np.testing.assert_allclose(served.predict(points.numpy()), model(points).detach().numpy(), atol=1e-5)
    assert served.metadata.metadata == {"class_names": ["disc", "sphere"]}
    code, _, said = ask("export", "ft", "--format", "official", "--out", place / "official")
    assert code == 0, said
    code, _, said = ask(
        "import", place / "official" / "model.safetensors", "--method", "finetune_points", "--out", place / "back.safetensors"
    )
    assert code == 0, said
    back = open_encoder(str(place / "back.safetensors")).encoder
    with torch.no_grad():
        assert torch.equal(back(points), opened(points))
