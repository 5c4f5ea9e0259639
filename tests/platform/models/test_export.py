"""What is exported gives the encoder's own tokens in the other library, or is not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made import METHODS, TOYS, images_for, made_run, pretext_of

from sightline.methods.contract import TimmForm
from sightline.methods.errors import CallError, SightlineError
from sightline.platform.experiments import finish
from sightline.platform.models.encoders import open_encoder
from sightline.platform.models.export import FORMATS, export
from sightline.platform.models.published import take_in


def timm_tokens(folder: Path, images: torch.Tensor, prefix: int = 0) -> torch.Tensor:
    import timm

    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    says = model.pretrained_cfg
    mean, std = (torch.tensor(says[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        return model.forward_features((images - mean) / std)[:, prefix:]


@pytest.mark.parametrize(
    "model", [{"model.position": "rope"}, {"model.position": "cosine"}, {"model.image_size": [32, 80], "model.rope_base": 30}]
)
def test_timm_gives_the_same_tokens(home: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    made_run("run", **{"model.encoder_depth": 2, "model.mlp_ratio": 3, **model})
    opened = open_encoder("run")
    result = export(opened, "timm", tmp_path / "timm")
    images = images_for(opened.encoder)
    with torch.no_grad():
        torch.testing.assert_close(timm_tokens(tmp_path / "timm", images), opened.encoder.tokens(images), atol=1e-5, rtol=0)
    assert result["difference"] <= 1e-5 and "pretrained=True" in result["use"]
    assert sorted(path.name for path in (tmp_path / "timm").iterdir()) == ["config.json", "model.safetensors"]
    says = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert says["sightline"]["sha256"] == opened.sha256 and says["pretrained_cfg"]["input_size"] == [3, *opened.encoder.image_size]


@pytest.mark.parametrize("method", [name for name in METHODS if name != "croco"])
def test_every_method_goes_to_timm_or_says_why_not(home: Path, tmp_path: Path, method: str) -> None:
    made_run("run", method)
    try:
        result = export(open_encoder("run"), "timm", tmp_path / "timm")
    except SightlineError as error:
        assert error.hint and "timm" in str(error) and not list((tmp_path / "timm").glob("*"))
    else:
        assert result["difference"] <= 1e-5


def test_a_form_that_gives_other_tokens_is_not_written(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_run("run")
    opened = open_encoder("run")
    from sightline.methods.croco import timm as module

    right = module.timm_form

    def wrong(config: Any, state: Any) -> TimmForm:
        form = right(config, state)
        return TimmForm(form.architecture, {**form.arguments, "rope_temperature": 99.0}, form.state, form.mean, form.std)

    monkeypatch.setattr(module, "timm_form", wrong)
    with pytest.raises(SightlineError, match="the timm form does not give the encoder's tokens: they differ by"):
        export(opened, "timm", tmp_path / "timm")
    assert not list((tmp_path / "timm").iterdir())

    def other(config: Any, state: Any) -> TimmForm:
        form = right(config, state)
        return TimmForm(form.architecture, {**form.arguments, "class_token": True}, form.state, form.mean, form.std)

    monkeypatch.setattr(module, "timm_form", other)
    with pytest.raises(SightlineError, match=r"does not take this encoder: .*cls_token"):
        export(opened, "timm", tmp_path / "timm")


def test_maths_that_timm_lacks_is_said(home: Path, tmp_path: Path) -> None:
    made_run("run", **{"model.rope_f0": 0.5})
    with pytest.raises(SightlineError, match=r"timm's rotary embedding has no place for model\.rope_f0 = 0\.5"):
        export(open_encoder("run"), "timm", tmp_path / "timm")


@pytest.mark.parametrize("method", METHODS)
def test_one_file_holds_the_encoder(home: Path, tmp_path: Path, method: str) -> None:
    made_run("run", method)
    opened = open_encoder("run")
    for out in (tmp_path / "one.safetensors", tmp_path / "folder"):
        export(opened, "safetensors", out)
        again = open_encoder(str(out))
        assert again.weights.part == "encoder" and again.sha256 == opened.sha256 and again.source == opened.source


@pytest.mark.parametrize("method", METHODS)
def test_the_authors_layout_goes_out_and_comes_in_again(home: Path, tmp_path: Path, method: str) -> None:
    run = made_run("run", method)
    opened = open_encoder("run")
    export(opened, "official", tmp_path)
    overrides = {f"pretext.{key}": value for key, value in TOYS[method]["pretext"].items()}  # of which the layout says nothing
    taken = take_in(tmp_path / "model.safetensors", method, None, overrides)
    assert taken.match.matched and not taken.match.unexpected and not taken.fresh_encoder
    with torch.no_grad():
        images = images_for(opened.encoder)
        torch.testing.assert_close(taken.weights.encoder().tokens(images), opened.encoder.tokens(images), atol=1e-6, rtol=0)  # type: ignore[operator]
    finish.save_encoder(run, pretext_of(run).encoder(), 12)
    with pytest.raises(SightlineError, match="holds the encoder alone") as caught:
        export(open_encoder(str(run.folder / "encoder")), "official", tmp_path / "again")
    assert "name the run itself" in caught.value.hint


def test_onnx_without_its_packages_names_the_extra(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    made_run("run")
    with pytest.raises(CallError, match="the ONNX packages are not installed") as caught:
        export(open_encoder("run"), "onnx", tmp_path / "onnx")
    assert "sightline-pretext[onnx]" in caught.value.hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own future
@pytest.mark.parametrize("method", METHODS)
def test_onnx_gives_the_same_tokens_for_any_batch(home: Path, tmp_path: Path, method: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    made_run("run", method)
    opened = open_encoder("run")
    export(opened, "onnx", tmp_path)
    session = runtime.InferenceSession(tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = images_for(opened.encoder, batch)
        with torch.no_grad():
            expected = opened.encoder.tokens(images)
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), expected, atol=1e-5, rtol=0)


def test_the_command_offers_what_there_is() -> None:
    from sightline.pipelines import export as command

    assert (*FORMATS, "optuna") == command.FORMATS, "and the study of a sweep"
