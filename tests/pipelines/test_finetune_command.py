"""`sightline finetune`: an encoder of any method, its weights kept in the run, the classes of the data; wrong calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
import yaml
from mlflow import MlflowClient
from mlflow_server import served_model
from model_cards import run_blocks
from toy import TOY, TOY_IMAGES, write_images, write_pairs

from sightline import load_encoder
from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.pipelines.__main__ import main
from sightline.platform import config
from sightline.platform.config import hashed_text
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.displacement import encode_flow
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.runs.events import ValidationDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.client import place_of
from sightline.platform.weights.format import Weights, read_file, write_file, write_folder

SMALL = ["batch.size=8", "batch.microbatch=8", "train.length=2 steps", "optim.warmup=0 steps", "train.precision=fp32"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Encoders of both single-image methods and a labelled data set, in the current directory."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in TOY_IMAGES:
        settings = config.load("toy", settings=TOY_IMAGES[name]).method_config
        encoder = find_method(name).build(settings, BuildContext(seed=5)).encoder()
        sections = settings.model_dump(mode="json")
        write_folder(Weights.of(name, sections, "encoder", encoder.state_dict(), "a test", str(tmp_path / name)), tmp_path / name)
    write_images(tmp_path / "train", 40, 1)
    write_images(tmp_path / "val", 20, 2)
    return tmp_path


@pytest.mark.parametrize("method", sorted(TOY_IMAGES))
def test_the_run_begins_with_the_encoders_weights_in_their_fine_tuning_form(method: str, made: list[Run], place: Path) -> None:
    words = ["finetune", method, "--task", "classification", "data.train=train", "data.val=val", *SMALL]
    assert main(words) == 0
    run = made[0]
    assert run.settings["model"]["classes"] == 2 and run.settings["model"]["class_names"] == ["dark", "bright"]
    older = {**run.settings, "model": {**run.settings["model"], "class_names": []}}
    assert "class_names" not in hashed_text(config.load(run.recipe, settings=older)), "runs without names resume"
    assert run.settings["model"]["encoder"]["method"] == method
    assert run.settings["train"]["init"].partition("@")[0] == str(place / method), "where the weights came from, for good"
    kept = read_file(run.folder / "init" / "weights.safetensors").tensors
    original = read_file_of_folder(place / method)
    same = [name for name, value in kept.items() for other in original.values() if value.shape == other.shape and torch.equal(value, other)]
    assert len(set(same)) > 0.8 * len(kept) > 10  # resized tables and fresh norms are the rest
    assert not any(name.startswith("predictor.head") for name in kept)


def read_file_of_folder(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "encoder.safetensors")


def test_from_scratch_begins_with_nothing(made: list[Run], place: Path) -> None:
    assert main(["finetune", "conmim", "--task", "classification", "data.train=train", "--scratch", *SMALL]) == 0
    assert made[0].settings["train"]["init"] is None
    assert not (made[0].folder / "init").exists()


def test_wrong_calls_name_the_thing_and_the_hint(made: list[Run], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = encode_image(np.zeros((40, 40, 3), np.uint8))
    with ShardWriter(place / "other", "images", classes=("cat", "dog")) as writer:
        for index in range(8):
            writer.write({"id": str(index), "image": image, "label": index % 2})
    write_pairs(place / "pairs", 8, 1)
    train = ["--task", "classification", "data.train=train"]
    for words, said in (
        (["conmim", "--task", "classification"], "data.train is not set"),
        (["conmim", "--task", "segmentation", "data.train=train"], "has no column 'segmentation'"),
        (["conmim", *train, "data.val=other"], "other classes or another order of them"),
        (["conmim", "--task", "classification", "data.train=pairs"], "holds pairs, but images or points are needed for classification"),
        (["conmimm", *train], "no run, folder, file or registry model 'conmimm'"),
        (["conmim", *train, "model.image_size=33"], "no multiple of the encoder's patch_size 8"),
        (["conmim", *train, "augment.mixupp=1"], "did you mean 'augment.mixup'"),
    ):
        assert main(["finetune", *words, *SMALL]) == 2, words
        assert said in capsys.readouterr().err
    assert made == []


def test_depth_begins_with_the_encoder_alone_and_needs_depth(made: list[Run], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, depth = encode_image(np.zeros((40, 48, 3), np.uint8)), encode_depth(np.full((40, 48), 1.5))
    with ShardWriter(place / "rooms", "images") as writer:
        for index in range(10):
            writer.write({"id": str(index), "image": image, "depth": depth})
    words = ["finetune", "loca", "--task", "depth", "--recipe", "finetune-depth-tiny", "--frozen", *SMALL]
    assert main([*words, "data.train=train"]) == 2
    assert "has no column 'depth'" in capsys.readouterr().err
    assert main(["finetune", "loca", "--task", "classification", "data.train=train", "--frozen", *SMALL]) == 2
    assert "--frozen is for --task depth" in capsys.readouterr().err
    assert main([*words, "data.train=rooms"]) == 0
    kept = read_file(made[0].folder / "init" / "weights.safetensors").tensors
    assert {f"predicting.network.encoder.{name}" for name in read_file_of_folder(place / "loca")} == kept.keys()
    assert made[0].settings["model"]["frozen"] and made[0].settings["model"]["image_size"] == 32
    assert made[0].settings["pretext"]["typical"] == 1.5


def test_flow_begins_with_encoder_and_decoder_of_a_croco_run_and_with_the_encoder_alone_of_others(
    made: list[Run], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = encode_image(np.zeros((40, 48, 3), np.uint8))
    moved = encode_flow(np.full((40, 48, 2), 1.5, np.float32))
    with ShardWriter(place / "moving", "pairs") as writer:
        for index in range(10):
            row = {"id": str(index), "image1": image, "image2": image, "flow": moved, "T_2from1": np.eye(4).ravel().tolist()}
            K = [50.0, 0, 23.5, 0, 50, 19.5, 0, 0, 1]
            writer.write({**row, "K1": K, "K2": K})
    settings = config.load("toy", settings=TOY).method_config
    state = find_method("croco").build(settings, BuildContext(seed=5)).state_dict()
    write_file(Weights.of("croco", settings.model_dump(mode="json"), "pretext", state, "a test", "croco"), place / "croco.safetensors")
    tiny = ["--task", "flow", "--recipe", "finetune-flow-tiny", "data.train=moving", *SMALL]
    assert main(["finetune", "croco.safetensors", "--task", "stereo", "data.train=moving", *SMALL]) == 2
    answer = capsys.readouterr().err
    assert "has no column 'disparity'" in answer and "sightline prepare pairs stereo" in answer
    assert main(["finetune", "loca", "--task", "flow", "data.train=train", *SMALL]) == 2
    assert "holds images, but pairs are needed for flow" in capsys.readouterr().err
    assert main(["finetune", "croco.safetensors", *tiny]) == main(["finetune", "loca", *tiny, "--frozen"]) == 0
    assert main(["finetune", "croco.safetensors", "--task", "pose", "--recipe", "finetune-pose-tiny", "data.train=moving", *SMALL]) == 0
    posed = made.pop()
    assert posed.settings["model"]["intrinsics"] == [1.25, 1.25, 0, 0], "of 40 x 40 pixels in the middle of 48 x 40"
    there = read_file(posed.folder / "init" / "weights.safetensors").tensors
    assert any(".network.decoder." in name for name in there) and not any(".head." in name for name in there)
    both, alone = (read_file(run.folder / "init" / "weights.safetensors").tensors for run in made)
    decoder = {name.removeprefix("decoder."): value for name, value in state.items() if name.startswith("decoder.")}
    taken = {name.removeprefix("predicting.network.decoder."): value for name, value in both.items() if ".network.decoder." in name}
    assert taken.keys() == decoder.keys() - {"mask_token", "prediction_head.weight", "prediction_head.bias"}
    assert all(torch.equal(value, decoder[name]) for name, value in taken.items())
    assert any(".network.encoder." in name for name in both) and all(".network.encoder." in name for name in alone)
    assert made[0].settings["model"]["decoder_dim"] == settings.model.model_dump()["decoder_dim"]
    assert made[1].settings["model"]["decoder_dim"] == 128 and made[1].settings["model"]["frozen"]
    own = config.load(made[0].recipe, settings=made[0].settings).method_config
    whole = find_method("finetune_flow").build(own, BuildContext(seed=7)).state_dict()
    write_file(Weights.of("finetune_flow", own.model_dump(mode="json"), "pretext", whole, "a test", "flow"), place / "flow.safetensors")
    assert main(["finetune", "flow.safetensors", *tiny]) == 0, "a fine-tuned model is trained on, with its own decoder and head"
    on = read_file(made[2].folder / "init" / "weights.safetensors").tensors
    assert on.keys() == whole.keys() and all(torch.equal(on[name], whole[name]) for name in whole)
    assert main(["finetune", "flow.safetensors", "--task", "classification", "data.train=train", *SMALL]) == 2
    assert "is a fine-tuned model already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fine_tuned_model_is_trained_scored_and_registered(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["finetune", "conmim", "--task", "classification", "data.train=train", "data.val=val", *SMALL, "train.length=30 steps"]
    plain = ["augment.mixup=0", "augment.cutmix=0", "augment.rand_ops=0", "augment.area=[0.5,1.0]", "optim.base_lr=0.1", "--name", "ft"]
    assert main([*words, *plain, "--json"]) == 0
    result: dict[str, Any] = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert result["metrics"]["test/accuracy"] > 0.8, "the classes differ in brightness"
    assert result["registered"] == "models:/finetune-classification-model@candidate"
    run = Run.open("ft")
    assert Dataset.open(run.settings["data"]["train"]).manifest.classes == ("dark", "bright")
    validation = [e.losses for e in run.events() if isinstance(e, ValidationDone)]
    assert {"loss", "cross_entropy", "accuracy"} == validation[-1].keys()
    page = (run.folder / "report.html").read_text()
    assert "fine-tuning run" in page and "Confusion matrix" in page and result["verdict"].startswith("The model has learned: accuracy is ")
    assert "always guessing the most frequent class gives 50.0%" in page
    model = load_encoder(result["registered"])
    dark, bright = (np.full((70, 70, 3), shade, np.uint8) for shade in (40, 210))
    assert model.class_names == ("dark", "bright") and [name for name, _ in model.classify([dark, bright])] == ["dark", "bright"]
    client = MlflowClient(place_of(run))
    filed = client.get_model_version_by_alias("finetune-classification-model", "candidate")
    card = filed.description
    assert card.startswith(result["verdict"]) and "\\['dark'" not in card and "['dark', 'bright']" in card
    assert "| accuracy in % | 100.0 (100.0 to 100.0) |" in card and "20 samples of the validation data" in card
    assert "train: 40 images, fingerprint " in card and "| unstated | unstated |" in card
    described = yaml.safe_load(next((place / "home").rglob("MLmodel")).read_text())
    assert described["metadata"] == {"class_names": ["dark", "bright"]}
    _serves("models:/finetune-classification-model/1", place_of(run), card, place)


def _serves(uri: str, tracking_uri: str, card: str, folder: Path) -> None:
    """The blocks of the card, an HTTP client, and `mlflow models predict`."""
    from click.testing import CliRunner
    from mlflow.cli import cli

    pictures = np.stack([np.full((3, 32, 32), shade / 255, np.float32) for shade in (40, 210, 50)])
    with served_model(uri, tracking_uri, folder) as address:
        session = run_blocks(card, address)
        answer = requests.post(f"{address}/invocations", json={"inputs": pictures.tolist()}, timeout=60)
        of_bytes = requests.post(f"{address}/invocations", json={"inputs": (pictures * 255).astype(int).tolist()}, timeout=60)
    names, logits = np.array(session["class_names"]), np.array(answer.json()["predictions"])
    assert names[logits.argmax(axis=1)].tolist() == ["dark", "bright", "dark"]
    assert session["logits"].shape == (4, 2) and session["encoder"].class_names == ("dark", "bright")
    assert of_bytes.status_code == 400 and "these are no images as this model takes them" in of_bytes.text
    (folder / "in.json").write_text(json.dumps({"inputs": pictures.tolist()}))
    words = ["models", "predict", "-m", uri, "-i", "in.json", "-o", "out.json", "-t", "json", "--env-manager", "local"]
    done = CliRunner().invoke(cli, words, env={"MLFLOW_TRACKING_URI": tracking_uri})
    assert done.exit_code == 0, done.output
    assert np.allclose(json.loads((folder / "out.json").read_text())["predictions"], logits, atol=1e-5)
