"""`sightline evaluate`: any models beside each other, on the data that each probe needs, as a table, JSON and a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from tiny_dense import ENCODERS, NARROW
from toy import TOY

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.random import keyed_rng
from sightline.pipelines.__main__ import main
from sightline.platform import config
from sightline.platform.config import METHOD_SECTIONS
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.weights.format import Weights, write_file, write_folder

Evaluate = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three encoders, two of them of one architecture, and a labelled data set `colours`."""
    root = tmp_path_factory.mktemp("evaluate")
    for name, model, seed in (("one", {}, 5), ("two", {}, 6), ("small", {"image_size": 32}, 7)):
        settings = config.load("toy", settings={**TOY, "model": {**TOY["model"], **model}}).method_config
        encoder = find_method("croco").build(settings, BuildContext(seed=seed)).encoder()
        weights = Weights.of("croco", settings.model_dump(mode="json"), "encoder", encoder.state_dict(), "a test", str(root / name))
        write_folder(weights, root / name)
    for side, rows in (("train", 24), ("val", 12)):
        rng = keyed_rng("colours", side)
        with ShardWriter(root / "colours" / side, "images", classes=["dark", "light"]) as writer:
            for index in range(rows):
                image = rng.normal(70 if index % 2 else 180, 30, (64, 64, 3)).clip(0, 255).astype(np.uint8)
                writer.write({"id": str(index), "image": encode_image(image), "label": 1 - index % 2})
    return root


@pytest.fixture
def evaluate(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Evaluate:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(place)

    def call(*words: str) -> tuple[int, dict[str, Any], str]:
        code = main(["evaluate", *words, "--json"])
        out, err = capfd.readouterr()
        return code, json.loads(out), err

    return call


@pytest.mark.slow
def test_models_are_measured_beside_random_weights_and_raw_pixels(evaluate: Evaluate, tmp_path: Path) -> None:
    code, result, err = evaluate(
        "./one", "./two", "./small", "--probe", "knn", "--probe", "depth", "--data", "./colours", "--controls", "2"
    )
    assert code == 0 and list(result["models"]) == ["one", "two", "small"] and result["models"]["one"]["method"] == "croco"
    rows = [row["name"] for row in result["probes"]["knn"]["rows"]]
    assert rows[:4] == ["one", "two", "small", "mean of 2 random like one"] and "mean of 2 random like small" in rows
    assert "mean of 2 random like two" not in rows and rows[-1] == "raw pixels"
    assert "no depth column" in result["probes"]["depth"]["skipped"]
    assert "against raw pixels" in err and "probe depth skipped" in err
    report = Path(result["report"])
    assert report.parent == tmp_path / "home" / "evaluations" and "Evaluation of one, two, small" in report.read_text()
    assert json.loads(Path(result["figures"]).read_text())["probes"]["knn"]["protocol_hash"] == result["probes"]["knn"]["protocol_hash"]


@pytest.mark.slow
def test_all_probes_that_the_data_allow_are_the_default(evaluate: Evaluate, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "page.html"
    code, result, _ = evaluate("./one", "--train", "./colours/train", "--test", "./colours/val", "--controls", "0", "--out", str(out))
    done = {name for name, found in result["probes"].items() if "skipped" not in found}
    assert code == 0 and done == {"knn", "linear"} and len(result["probes"]) == 6
    assert out.is_file() and (tmp_path / "deep" / "page.json").is_file()
    assert [row["kind"] for row in result["probes"]["knn"]["rows"]] == ["encoder", "baseline"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["./one", "--probe", "knm", "--data", "./colours"], "did you mean 'knn'"),
        (["./one"], "no data to evaluate on"),
        (["./one", "--train", "./colours/train"], "1 --train and 0 --test"),
        (["./one", "--data", "./nowhere"], "there is no data set"),
        (["./none", "--data", "./colours"], "none"),
        (["./one", "--probe", "depth", "--data", "./colours"], "probe depth skipped: no depth column"),
        (["./one", "--probe", "knn", "--test", "./colours/val"], "its head needs training data"),
        (["./one", "--controls", "-1", "--data", "./colours"], "--controls -1"),
    ],
)
def test_a_wrong_call_is_told_before_any_work(evaluate: Evaluate, words: list[str], said: str) -> None:
    code, result, _ = evaluate(*words)
    assert code == 2 and said in result["error"] + result["hint"]


def fine_tuned(place: Path, name: str, task: str, seed: int, part: Any, **model: Any) -> None:
    """Weights of a model with random weights, as a run's whole state or as the model alone."""
    sections = find_method("croco").Config.model_validate(ENCODERS["croco"]).model_dump(mode="json")
    method, encoder = find_method(f"finetune_{task}"), {"method": "croco", **{key: sections[key] for key in METHOD_SECTIONS}}
    settings = method.Config.model_validate({"model": {"encoder": encoder, "image_size": 32, **model}})
    pretext: Any = method.build(settings, BuildContext(seed=seed))
    state = (pretext if part == "pretext" else pretext.encoder()).state_dict()
    write_file(Weights.of(method.id, settings.model_dump(mode="json"), part, state, "a test", name), place / f"{name}.safetensors")


def test_fine_tuned_models_are_scored_by_what_they_predict_and_compared(evaluate: Evaluate, place: Path, tmp_path: Path) -> None:
    rng = keyed_rng("depths", "val")
    with ShardWriter(tmp_path / "depths", "images") as writer:
        for index in range(8):
            image = encode_image(rng.integers(0, 255, (40, 48, 3), np.uint8))
            depth = encode_depth(np.full((40, 48), 1.0 + index))
            writer.write({"id": str(index), "image": image, "depth": depth, "scene": f"s{index}"})
    for name, seed, part in (("near", 1, "pretext"), ("far", 2, "encoder"), ("same", 1, "encoder")):
        fine_tuned(tmp_path, name, "depth", seed, part, **NARROW)
    files = [str(tmp_path / f"{name}.safetensors") for name in ("near", "far", "same")]
    code, result, err = evaluate(*files, "--test", str(tmp_path / "depths"), "--no-mlflow")
    assert code == 0 and list(result["tests"]["models"]) == ["near", "far", "same"]
    values = {name: one["test"]["figures"]["absrel"]["value"] for name, one in result["tests"]["models"].items()}
    assert values["near"] == values["same"] != values["far"], "the model alone and the whole state are one network"
    apart = result["tests"]["first_minus"]
    assert apart["same"]["difference"]["value"] == 0 and apart["far"]["difference"]["value"] == pytest.approx(
        values["near"] - values["far"]
    )
    assert "near is not shown to differ from same in AbsRel" in result["verdict"] and "near, 8 samples of" in err
    assert "Test of near, far, same" in Path(result["report"]).read_text()

    for words, said in (
        ([*files[:1], str(place / "one"), "--test", str(tmp_path / "depths")], "they are measured by different metrics"),
        ([files[0], "--test", str(place / "colours" / "val")], "has no column 'depth'"),
        ([files[0], "--data", str(place / "colours"), "--test", str(tmp_path / "depths")], "fine-tuned models are scored on one"),
    ):
        code, result, _ = evaluate(*words)
        assert code == 2 and said in result["error"]


@pytest.mark.slow
def test_a_test_is_a_run_of_its_own_in_mlflow(evaluate: Evaluate, place: Path, tmp_path: Path) -> None:
    fine_tuned(tmp_path, "labels", "classification", 0, "encoder", class_names=("dark", "light"), classes=2)
    code, result, _ = evaluate(str(tmp_path / "labels.safetensors"), "--test", "./colours/val")
    run = MlflowClient(f"sqlite:///{tmp_path}/home/mlflow.db").get_run(result["mlflow_run_id"])
    accuracy = result["tests"]["models"]["labels"]["test"]["figures"]["accuracy"]["value"]
    assert code == 0 and run.data.metrics["test/accuracy"] == pytest.approx(accuracy)


def test_a_classifier_is_scored_on_data_of_its_own_classes(evaluate: Evaluate, place: Path, tmp_path: Path) -> None:
    for name, names in (("fits", ("dark", "light")), ("turned", ("light", "dark"))):
        fine_tuned(tmp_path, name, "classification", 0, "encoder", class_names=names, classes=2)
    code, result, _ = evaluate(str(tmp_path / "fits.safetensors"), "--test", "./colours/val", "--no-mlflow")
    assert code == 0 and result["tests"]["models"]["fits"]["test"]["figures"]["accuracy"]["units"] == 12
    code, result, _ = evaluate(str(tmp_path / "turned.safetensors"), "--test", "./colours/val")
    assert code == 2 and "knows light, dark" in result["error"]
