"""An encoder is the same wherever it lies: in a run, a folder, a file or the registry; and nothing opens that does not verify."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from made import METHODS, images_for, made_run, pretext_of

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.experiments import finish
from sightline.platform.models.encoders import load_encoder, open_encoder
from sightline.platform.runs.record import Run
from sightline.platform.weights.format import digest, write_file


@pytest.fixture
def run(home: Path) -> Run:
    return made_run("first")


@pytest.mark.parametrize("method", METHODS)
def test_run_folder_and_file_give_the_same_encoder(home: Path, tmp_path: Path, method: str) -> None:
    run = made_run("first", method)
    expected = pretext_of(run).encoder().eval()
    opened = open_encoder("first")
    assert (opened.method, opened.config, opened.source) == (method, run.experiment.method_config, "run first, step 12")
    folder = finish.save_encoder(run, expected, 12)
    file = write_file(open_encoder(str(folder)).weights, tmp_path / "encoder.safetensors")
    whole = write_file(opened.weights, tmp_path / "whole.safetensors")
    images = images_for(expected)
    with torch.no_grad():
        for place in (str(run.folder), str(folder), str(file), str(whole)):
            again = open_encoder(place)
            assert not again.encoder.training and torch.equal(again.encoder.tokens(images), expected.tokens(images)), place
            assert again.sha256 == opened.sha256 and again.config == opened.config and again.source == opened.source


def test_features_take_three_lines_in_a_notebook(run: Run) -> None:
    encoder = load_encoder("first")
    assert encoder.tokens(images_for(encoder)).shape == (2, 16, 32)


def test_without_a_checkpoint_the_saved_encoder_is_opened(run: Run) -> None:
    finish.save_encoder(run, pretext_of(run, 8).encoder(), 18)
    assert open_encoder("first").weights.part == "pretext"
    (next((run.folder / "checkpoints").glob("step-*")) / "complete.json").unlink()
    again = open_encoder("first")
    assert (again.weights.part, again.source) == ("encoder", "run first, step 18")
    (run.folder / "encoder" / "encoder.json").unlink()
    with pytest.raises(SightlineError, match="run first has no checkpoint that verifies"):
        open_encoder("first")


def test_a_kept_checkpoint_is_named_by_its_step_or_as_the_best(home: Path) -> None:
    run = made_run("first", **{"train.keep_best": "val/loss higher"})
    step = next((run.folder / "checkpoints").glob("step-*"))
    moved = pretext_of(run, 8).state_dict()
    path = checkpoint.write(step.parent, checkpoint.TrainState(18, 1, 0, 1, run.fingerprint, "", "fp32", ""), {"model": moved})
    best = open_encoder("first@12")
    assert best.sha256 != open_encoder("first").sha256 == open_encoder(f"{run.folder}@18").sha256
    with pytest.raises(CallError, match=r"no checkpoint @best; it keeps steps 18 \(newest\); 12 \(newest\)"):
        open_encoder("first@best")
    checkpoint.annotate(step, {"val/loss": 0.5})
    assert open_encoder("first@best").sha256 == best.sha256 and open_encoder("first@best").source == "run first, step 12"
    for wrong in ("first@13", "first@last", "first@"):
        with pytest.raises(CallError, match="first"):
            open_encoder(wrong)
    with pytest.raises(CallError, match="did you mean 'first'"):
        open_encoder("frist@12")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CallError, match="no checkpoint @18"):
        open_encoder("first@18")


def test_controls_have_the_architecture_and_other_weights(run: Run) -> None:
    opened = open_encoder("first")
    controls = [opened.random(seed) for seed in (1, 1, 2)]
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (opened.encoder, *controls)]
    assert all(shape == shapes[0] for shape in shapes)
    digests = [digest(module.state_dict()) for module in controls]
    assert digests[0] == digests[1] != digests[2] and opened.sha256 not in digests


def test_the_digest_sees_names_types_shapes_and_values() -> None:
    a = {"w": torch.arange(4.0), "v": torch.ones(2)}
    assert digest(a) == digest(dict(reversed(a.items())))
    others = [{"x": a["w"], "v": a["v"]}, {**a, "w": a["w"].view(2, 2)}, {**a, "w": a["w"].int()}, {**a, "w": a["w"] + 1e-6}, {"w": a["w"]}]
    assert len({digest(x) for x in (a, *others)}) == 6
    assert digest({"s": torch.tensor(True), "e": torch.empty(0, 3), "b": torch.ones(2, dtype=torch.bfloat16)})


def test_a_misspelt_name_names_the_nearest_run(run: Run, tmp_path: Path) -> None:
    for name, said in (("frist", "did you mean 'first'?"), ("zzz", "known: first"), (str(tmp_path), "known: first")):
        with pytest.raises(CallError, match=f"no run, folder, file or registry model.*{said[:13]}") as caught:
            open_encoder(name)
        assert said in str(caught.value)


def test_a_file_of_strangers_is_sent_through_import(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "a.pth").write_bytes(b"PK")
    save_file({"w": torch.ones(2)}, tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        with pytest.raises(CallError) as caught:
            open_encoder(str(tmp_path / name))
        assert f"sightline import {tmp_path / name}" in caught.value.hint


def test_altered_and_cut_weights_do_not_open(run: Run, tmp_path: Path) -> None:
    folder = finish.save_encoder(run, pretext_of(run).encoder(), 12)
    path = folder / "encoder.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(SightlineError, match="were altered"):
        open_encoder(str(folder))
    path.write_bytes(whole[:-4])
    with pytest.raises(SightlineError, match="not a whole safetensors file"):
        open_encoder(str(folder))
    path.write_bytes(whole)
    says = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps({**says, "model": {**says["model"], "encoder_dim": 48}}))
    with pytest.raises(SightlineError, match="do not fit the settings beside them"):
        open_encoder(str(folder))
    (folder / "encoder.json").write_text(json.dumps({**says, "model": {"unknown": 1}}))
    with pytest.raises(CallError, match=r"are not those of this version's croco:\nunknown setting 'model\.unknown'"):
        open_encoder(str(folder))
    (folder / "encoder.json").write_text("{}")
    with pytest.raises(SightlineError, match="is not readable"):
        open_encoder(str(folder))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow, SQLAlchemy and torch.export warn of their own
def test_a_registered_version_opens_by_alias_and_number_and_is_pinned(run: Run) -> None:
    import mlflow

    from sightline.platform.core.paths import local_tracking_uri
    from sightline.platform.tracking.registry import register_import

    with pytest.raises(CallError, match="there is none under"):
        open_encoder("models:/kitchen@candidate")
    opened = open_encoder("first")
    filed = register_import(opened.weights, "kitchen")
    again = open_encoder("models:/kitchen@candidate")
    assert (again.sha256, again.weights.place, again.source) == (opened.sha256, "models:/kitchen/1", "run first, step 12")
    images = images_for(opened.encoder)
    with torch.no_grad():
        assert torch.equal(again.encoder.tokens(images), opened.encoder.tokens(images))
    assert open_encoder("models:/kitchen").sha256 == open_encoder(filed.version_uri).sha256 == opened.sha256
    assert "MLFLOW_TRACKING_URI" not in os.environ, "opening must not redirect what comes after"
    client = mlflow.MlflowClient(local_tracking_uri())
    mlflow_run = client.get_run(client.get_model_version("kitchen", "1").run_id)
    client.log_text(mlflow_run.info.run_id, "weights of somebody", "model/data.txt")
    client.create_registered_model("stranger")
    client.create_model_version("stranger", f"{mlflow_run.info.artifact_uri}/model", run_id=mlflow_run.info.run_id)
    with pytest.raises(SightlineError, match="models:/stranger/1 was not filed by Sightline"):
        open_encoder("models:/stranger")
    for uri, said in (
        ("models:/kichen@candidate", "did you mean 'kitchen'?"),
        ("models:/kitchen@champion", "versions 1; aliases candidate"),
        ("models:/kitchen/9", "versions 1; aliases candidate"),
        ("models:/", "is no registry address"),
    ):
        with pytest.raises(CallError) as caught:
            open_encoder(uri)
        assert said in str(caught.value)
