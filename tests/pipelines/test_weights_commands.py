"""The commands import, export and encode: words in, one answer out, mistakes named."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from asking import Ask
from made import made_run, pretext_of, toy_settings
from toy import write_pairs

from sightline.methods.croco.official import to_official
from sightline.platform.models.encoders import open_encoder
from sightline.platform.weights import foreign

TEXT = (
    "CroCoNet(img_size=64, enc_embed_dim=32, enc_depth=1, enc_num_heads=2, dec_embed_dim=32, dec_depth=1, dec_num_heads=2, "
    "pos_embed='RoPE100', mask_ratio=0.75)"
)


def published(path: Path, without: str = "", **more: torch.Tensor) -> dict[str, torch.Tensor]:
    """A file as CroCo's trainer writes it: a pickle with an `argparse.Namespace` in it. Returns its tensors.

    `without`: start of names that are left out; `more`: tensors beside the known ones.
    """
    run = made_run("theirs")
    tensors, _ = to_official(pretext_of(run).state_dict(), run.experiment.method_config)  # type: ignore[arg-type]
    if without:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(without)}
    arguments = argparse.Namespace(model=TEXT, lr=1e-4, mask_ratio=0.75)
    whole = {"model": {**tensors, **more}, "optimizer": {"state": {}}, "scaler": {}, "args": arguments, "epoch": 400}
    torch.save(whole, path)
    return tensors


def test_a_published_file_comes_in_and_goes_everywhere(ask: Ask, tmp_path: Path) -> None:
    tensors = published(tmp_path / "theirs.pth")
    out = tmp_path / "ours.safetensors"
    code, said, _ = ask("import", tmp_path / "theirs.pth", "--method", "croco", "--out", out, "--json")
    answer = json.loads(said)
    assert code == 0 and sorted(answer["matched"]) == sorted(tensors)
    assert not (answer["missing"] or answer["unexpected"] or answer["random"])
    assert answer["settings"]["model"]["encoder_dim"] == 32 and answer["settings"]["pretext"]["mask_ratio"] == 0.75
    opened = open_encoder(str(out))
    assert opened.sha256 == open_encoder("theirs").sha256 and opened.source == "theirs.pth"
    assert ask("export", out, "--format", "official", "--out", tmp_path / "back")[0] == 0
    assert ask("import", tmp_path / "back" / "model.safetensors", "--method", "croco", "--out", tmp_path / "again")[0] == 0
    assert open_encoder(str(tmp_path / "again")).weights.sha256 == opened.weights.sha256
    data = write_pairs(tmp_path / "pairs", 24, 1)
    code, said, _ = ask("encode", out, data, "--out", tmp_path / "f.parquet")
    assert code == 0 and "48 images" in said and len(pq.read_table(tmp_path / "f.parquet")) == 48
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(toy_settings("croco").to_yaml())
    code, said, _ = ask("pretrain", recipe, f"init={out}", f"data.train={data}", "--dry-run", "--json")
    begins = json.loads(said)["estimate"]["begins"]
    assert code == 0 and begins == "the whole state of theirs.pth: 47 tensors matched, 0 stay fresh, 0 found no place"


def test_what_found_no_place_is_told_and_a_random_encoder_is_warned_of(ask: Ask, tmp_path: Path) -> None:
    part = published(tmp_path / "part.pth", without="enc_norm", head=torch.zeros(3))
    code, said, _ = ask("import", tmp_path / "part.pth", "--method", "croco", "--out", tmp_path / "x")
    assert code == 0
    words = [line.split() for line in said.splitlines()]
    assert ["matched", str(len(part))] in words and ["unexpected", "1", "head"] in words
    assert ["missing", "2", "enc_norm.bias,", "enc_norm.weight"] in words
    assert "warning: 2 tensors of the encoder stay random: backbone.enc_norm." in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["import", "{tmp}/none.pth", "--method", "croco", "--out", "x"], 2, "there is no file"),
        (["import", "{tmp}/a.pth", "--method", "crocco", "--out", "x"], 2, "did you mean 'croco'?"),
        (["import", "{tmp}/a.pth", "--method", "croco", "--out", "x", "model.encoder_dimm=1"], 2, "did you mean 'model.encoder_dim'?"),
        (["import", "{tmp}/a.pth", "--method", "croco", "--out", "x", "model.encoder_heads=5"], 2, "encoder_heads 5 does not divide"),
        (["import", "{tmp}/a.pth", "--method", "croco", "--out", "x", "model.encoder_dim=48"], 1, "has shape"),
        (["import", "{tmp}/a.pth", "--method", "croco", "--out", "x", "--preset", "croco-tinny"], 2, "did you mean 'croco-tiny'?"),
        (["import", "{tmp}/zero.pth", "--method", "croco", "--out", "x"], 1, "none of the 1 tensors has a CroCo name"),
        (
            ["import", "{tmp}/bare.pth", "--method", "croco", "--out", "x"],
            1,
            "none of the 1 tensors has a CroCo name; the first is 'weight'",
        ),
        (["import", "{tmp}/a.pth", "--out", "x"], 2, "--method"),
        (["export", "their", "--format", "timm", "--out", "x"], 2, "did you mean 'theirs'?"),
        (["export", "theirs", "--format", "tim", "--out", "x"], 2, "invalid choice: 'tim'"),
        (["export", "theirs", "--format", "timm", "--out", "{tmp}/a.pth"], 1, "cannot write to"),
        (["encode", "their", "{tmp}", "--out", "f.parquet"], 2, "did you mean 'theirs'?"),
        (["encode", "theirs", "{tmp}/home", "--out", "f.parquet"], 2, "holds no images"),
        (["encode", "theirs", "{tmp}", "--out", "{tmp}"], 2, "is a folder"),
        (["encode", "theirs", "{tmp}", "--out", "f.parquet", "--batch", "0"], 2, "--batch 0"),
        (["encode", "{tmp}/a.pth", "{tmp}", "--out", "f.parquet"], 2, "is no file that Sightline wrote"),
    ],
)
def test_a_wrong_call_names_the_thing_and_writes_nothing(
    words: list[str], code: int, said: str, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    published(tmp_path / "a.pth")
    torch.save({"model": {"layer1.weight": torch.ones(2)}, "croco_kwargs": {}}, tmp_path / "zero.pth")
    torch.save({"weight": torch.ones(2)}, tmp_path / "bare.pth")
    got, out, err = ask(*(word.format(tmp=tmp_path) for word in words))
    assert (got, out) == (code, "") and said in err and "Traceback" not in err
    assert not (tmp_path / "x").exists() and not (tmp_path / "f.parquet").exists()


def test_a_recipe_tells_what_a_file_does_not(ask: Ask, tmp_path: Path) -> None:
    run = made_run("tiny", **{"model.position": "cosine"})
    tensors, _ = to_official(pretext_of(run).state_dict(), run.experiment.method_config)  # type: ignore[arg-type]
    torch.save({"model": tensors}, tmp_path / "v1.pth")
    code, _, err = ask("import", tmp_path / "v1.pth", "--method", "croco", "--out", tmp_path / "x")
    assert code == 1 and "has shape" in err, "a file without settings has the authors' defaults"
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(run.experiment.to_yaml())
    code, said, _ = ask("import", tmp_path / "v1.pth", "--method", "croco", "--preset", recipe, "--out", tmp_path / "x", "--json")
    assert code == 0 and json.loads(said)["settings"]["model"]["position"] == "cosine"
    assert open_encoder(str(tmp_path / "x")).sha256 == open_encoder("tiny").sha256


@pytest.mark.slow
def test_random_weights_are_those_of_their_seed(ask: Ask, tmp_path: Path) -> None:
    small = ("model.image_size=32", "model.patch_size=8", "model.encoder_dim=16", "model.encoder_depth=1", "model.encoder_heads=2")
    sums = []
    for seed, name in ((0, "one"), (0, "again"), (1, "other")):
        code, said, _ = ask("import", f"random:{seed}", "--method", "loca", *small, "--out", tmp_path / f"{name}.safetensors")
        assert code == 0 and "matched" not in said and "encoder_dim=16" in said
        opened = open_encoder(str(tmp_path / f"{name}.safetensors"))
        assert opened.source == f"random weights, seed {seed}"
        sums.append(opened.sha256)
    assert sums[0] == sums[1] != sums[2]
    assert ask("import", "random:x", "--method", "loca", "--out", tmp_path / "none.safetensors")[0] == 2


CASES = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "weights-croco-trainers"


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
def test_files_of_other_trainers_come_in_and_say_whose_they_are(ask: Ask, tmp_path: Path) -> None:
    code, said, _ = ask("import", CASES / "module.pth", "--method", "croco", "--out", tmp_path / "a", "--json")
    answer = json.loads(said)
    assert code == 0 and answer["taken"] == "model" and len(answer["matched"]) == 19 and not answer["unexpected"]
    code, said, _ = ask("import", CASES / "dust3r.pth", "--method", "croco", "--out", tmp_path / "b")
    assert code == 0 and "the file is of AsymmetricCroCo3DStereo" in said and "tensors of the encoder stay random" in said
    assert open_encoder(str(tmp_path / "b")).config.model.encoder_depth == 2  # type: ignore[attr-defined]


def test_an_average_is_taken_first_and_a_key_chooses(ask: Ask, tmp_path: Path) -> None:
    tensors = published(tmp_path / "a.pth")
    whole = foreign.read(tmp_path / "a.pth")
    raw = {name: tensor + 1 for name, tensor in tensors.items()}
    torch.save({**whole, "model": raw, "model_ema": {f"module.{name}": tensor for name, tensor in tensors.items()}}, tmp_path / "a.pth")
    code, said, _ = ask("import", tmp_path / "a.pth", "--method", "croco", "--out", tmp_path / "x")
    assert code == 0 and "taken from  model_ema" in said and "not taken   model (choose with --key)" in said
    code, said, _ = ask("import", tmp_path / "a.pth", "--method", "croco", "--key", "model", "--out", tmp_path / "y", "--json")
    assert code == 0 and json.loads(said)["not_taken"] == []
    x, y = (open_encoder(str(tmp_path / name)).encoder.state_dict() for name in "xy")
    assert all(torch.equal(x[name] + 1, y[name]) for name in x)
    code, _, err = ask("import", tmp_path / "a.pth", "--method", "croco", "--key", "emma", "--out", tmp_path / "z")
    assert code == 1 and "no tensors under 'emma'" in err and "model_ema" in err


@pytest.mark.parametrize("text", ["enc_depth=1000000", "enc_embed_dim=1200000000", "img_size=10000000"])
def test_a_network_much_larger_than_its_file_is_not_built(text: str, ask: Ask, tmp_path: Path) -> None:
    tensors = published(tmp_path / "a.pth")
    torch.save({"model": tensors, "args": {"model": f"CroCoNet({text}, pos_embed='cosine')"}}, tmp_path / "a.pth")
    code, _, err = ask("import", tmp_path / "a.pth", "--method", "croco", "--out", tmp_path / "x")
    assert code == 1 and "make a network of more than" in err


def test_settings_that_cannot_be_understood_are_needed_only_where_none_are_given(ask: Ask, tmp_path: Path) -> None:
    tensors = published(tmp_path / "a.pth")
    torch.save({"model": tensors, "args": {"model": "Other(depth=12)"}}, tmp_path / "a.pth")
    code, _, err = ask("import", tmp_path / "a.pth", "--method", "croco", "--out", tmp_path / "x")
    assert code == 1 and "are of Other, which shares none with CroCoNet" in err and "section.key=value" in err
    recipe = tmp_path / "toy.yaml"
    recipe.write_text(made_run("given").experiment.to_yaml())
    code, said, _ = ask("import", tmp_path / "a.pth", "--method", "croco", "--preset", recipe, "--out", tmp_path / "x")
    assert code == 0 and "warning: the settings in the file are not used: the settings in the file are of Other" in said
