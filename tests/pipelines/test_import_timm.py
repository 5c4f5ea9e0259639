"""Weights of a timm model come in by `sightline import` and teach a run; nothing is fetched."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import Ask
from toy import TOY_POINTS, write_points

from sightline.methods.contract import BuildContext
from sightline.methods.timm_encoder import method
from sightline.methods.timm_encoder.config import TimmConfig
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.models.encoders import open_encoder
from sightline.platform.runs.events import RunEvent, StepsDone
from sightline.platform.training.job import TrainJob
from sightline.platform.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore")  # timm warns of its own
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
WORDS = ["--method", "timm", "model.name=vit_tiny_patch16_224", f"model.arguments={json.dumps(SMALL)}"]


def checkpoint(path: Path, **changed: torch.Tensor) -> Any:
    """A file as timm's trainer writes it. Returns the encoder whose weights it holds."""
    settings = TimmConfig.model_validate({"model": {"name": "vit_tiny_patch16_224", "arguments": SMALL}})
    encoder = method.build(settings, BuildContext(seed=3)).encoder().eval()
    tensors = {**encoder.network.state_dict(), "head.weight": torch.zeros(5, 24), "head.bias": torch.zeros(5), **changed}
    torch.save({"epoch": 3, "state_dict": tensors}, path)
    return encoder


def test_a_checkpoint_comes_in_goes_out_and_comes_back(ask: Ask, tmp_path: Path) -> None:
    theirs = checkpoint(tmp_path / "vit.pth")
    code, said, _ = ask("import", tmp_path / "vit.pth", *WORDS, "--out", tmp_path / "vit.safetensors", "--json")
    answer = json.loads(said)
    assert code == 0 and len(answer["matched"]) == len(theirs.network.state_dict())
    assert not answer["missing"] and not answer["random"] and answer["unexpected"] == ["head.weight", "head.bias"]
    opened = open_encoder(str(tmp_path / "vit.safetensors"))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(opened.encoder.tokens(images), theirs.tokens(images))
        assert torch.equal(opened.encoder.saliency(images), theirs.saliency(images))
    code, _, err = ask("export", tmp_path / "vit.safetensors", "--format", "official", "--out", tmp_path / "back")
    assert code == 0, err
    code, _, err = ask("import", tmp_path / "back" / "model.safetensors", "--method", "timm", "--out", tmp_path / "again")
    assert code == 0, err
    assert open_encoder(str(tmp_path / "again")).sha256 == opened.sha256


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--method", "timm", "model.name=vit_tiny_pach16_224"], 2, "did you mean 'vit_tiny_patch16_224'?"),
        (["--method", "timm", "model.name=hf-hub:timm/vit_tiny_patch16_224"], 2, "names a place to fetch from"),
        (["--method", "timm", "model.nam=vit_tiny_patch16_224"], 2, "did you mean 'model.name'?"),
        (["--method", "timm", "model.name=vit_tiny_patch16_224", "model.arguments={depht: 1}"], 2, "depht"),
        (["--method", "timm", "model.name=vit_tiny_patch16_224"], 1, "has shape"),
        (["--method", "timm", "model.name=resnet10t"], 1, "has a place in resnet10t"),
    ],
)
def test_a_wrong_call_names_the_thing_and_writes_nothing(words: list[str], code: int, said: str, ask: Ask, tmp_path: Path) -> None:
    checkpoint(tmp_path / "vit.pth")
    got, out, err = ask("import", tmp_path / "vit.pth", *words, "--out", tmp_path / "x")
    assert (got, out) == (code, "") and said in err and "Traceback" not in err
    assert not (tmp_path / "x").exists()


def test_a_folder_as_timm_keeps_it_brings_its_own_normalisation(ask: Ask, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    theirs = checkpoint(tmp_path / "vit.pth")
    (tmp_path / "dir").mkdir()
    save_file(theirs.network.state_dict(), tmp_path / "dir" / "model.safetensors")
    cfg = {"tag": "mine", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_size": [3, 32, 32]}
    told = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": SMALL, "pretrained_cfg": cfg}
    (tmp_path / "dir" / "config.json").write_text(json.dumps(told))
    code, _, err = ask("import", tmp_path / "dir", "--method", "timm", "--out", tmp_path / "out.safetensors")
    assert code == 0, err
    assert open_encoder(str(tmp_path / "out.safetensors")).encoder.mean.flatten().tolist() == pytest.approx(cfg["mean"])


def test_a_layout_of_others_is_named_and_becomes_an_encoder_of_timm(ask: Ask, tmp_path: Path) -> None:
    checkpoint(tmp_path / "vit.pth")
    words = [
        "model.name=vit_small_patch16_224.dino",
        f"model.arguments={json.dumps(SMALL)}",
        "--out",
        tmp_path / "out.safetensors",
        "--json",
    ]
    code, said, err = ask("import", tmp_path / "vit.pth", "--method", "dino", *words)
    assert code == 0, err
    assert json.loads(said)["method"] == "timm" and not json.loads(said)["random"]
    assert open_encoder(str(tmp_path / "out.safetensors")).encoder.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    code, _, err = ask("import", tmp_path / "vit.pth", "--method", "dinov", *words)
    assert code == 2 and "did you mean 'dino" in err


@pytest.mark.slow
def test_the_names_of_another_library_are_told(ask: Ask, tmp_path: Path) -> None:
    torch.save({"vit.encoder.layer.0.attention.attention.query.weight": torch.zeros(24, 24)}, tmp_path / "hf.bin")
    for words in (WORDS, ["--method", "croco", "model.image_size=64"]):
        code, _, said = ask("import", tmp_path / "hf.bin", *words, "--out", tmp_path / "out.safetensors")
        assert code == 1 and "names of Hugging Face's transformers" in " ".join(said.split())


@pytest.mark.slow
def test_weights_that_came_in_teach_a_run(ask: Ask, tmp_path: Path) -> None:
    checkpoint(tmp_path / "vit.pth")
    file = tmp_path / "vit.safetensors"
    assert ask("import", tmp_path / "vit.pth", *WORDS, "--out", file)[0] == 0
    data = str(write_points(tmp_path / "clouds", 24, 1))
    small = {"data.train": data, "model.teacher": str(file), "train.length": "2 steps", "batch.size": 4}
    experiment = config.load("toy", small, settings=copy.deepcopy(TOY_POINTS))
    run = create_run("pupil", experiment, Dataset.open(data).fingerprint, "test", "")
    assert run.settings["model"]["teacher"] == f"{file}@sha256:{open_encoder(str(file)).sha256}"
    assert run.settings["model"]["teacher_dim"] == 24
    (tmp_path / "vit.pth").unlink()
    file.unlink()
    events: list[RunEvent] = []
    train(TrainJob(run.experiment, run.folder, run.fingerprint), events.append, lambda: False)
    (steps,) = [event for event in events if isinstance(event, StepsDone)]
    assert all(value > 0 for value in steps.losses["features"]) and len(steps.losses["features"]) == 2
