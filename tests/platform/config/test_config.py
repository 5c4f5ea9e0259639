"""Settings: recipe + overrides -> one checked experiment, or one error that names every wrong key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from toy import TOY

from sightline.methods.errors import CallError
from sightline.methods.settings import Duration
from sightline.platform import config
from sightline.platform.config import hashed_text, load, parse_overrides


def tiny(*pairs: str) -> config.Experiment:
    return load("croco-tiny", parse_overrides(pairs))


def refusal(*pairs: str) -> CallError:
    with pytest.raises(CallError) as caught:
        tiny(*pairs)
    return caught.value


@pytest.mark.parametrize("recipe", config.recipe_names())
def test_every_shipped_recipe_loads_and_round_trips(recipe: str) -> None:
    # A fine-tuning recipe takes encoder and classes from what it is given.
    given: dict[str, Any] = {}
    if recipe.startswith("finetune-points-"):
        given = {"model.encoder": {"method": "i2p_mae"}, "model.classes": 3}
    elif recipe.startswith("finetune-parts"):
        given = {"model.encoder": {"method": "i2p_mae"}, "model.classes": 2, "model.parts": 3, "model.parts_of": [[0, 1], [2]]}
    elif recipe.startswith(("finetune-depth", "finetune-normals", "finetune-stereo-tiny", "finetune-flow-tiny", "finetune-pose")):
        given = {"model.encoder": {"method": "croco"}, "model.image_size": 224}
    elif recipe in ("finetune-stereo", "finetune-flow"):
        given = {"model.encoder": {"method": "croco"}}
    elif recipe.startswith("finetune-"):
        given = {"model.encoder": {"method": "croco"}, "model.classes": 3, "model.image_size": 224}
    experiment = load(recipe, given)
    assert experiment.recipe == recipe
    assert load(recipe, settings=experiment.sections()) == experiment
    assert load(recipe, settings=json.loads(json.dumps(experiment.sections()))) == experiment
    assert load(recipe, settings=yaml.safe_load(experiment.to_yaml())) == experiment


def test_an_override_changes_its_setting_and_no_other() -> None:
    plain, other = load("croco-tiny").flat(), tiny("pretext.mask_ratio=0.8", "train.length=2 epochs", "optim.betas=[0.8, 0.9]").flat()
    assert {key: value for key, value in other.items() if plain[key] != value} == {
        "pretext.mask_ratio": 0.8,
        "train.length": "2 epochs",
        "optim.betas": [0.8, 0.9],
    }


def test_a_recipe_file_of_ones_own_is_named_by_its_stem(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(TOY))
    experiment = load(str(path))
    assert (experiment.recipe, experiment.method, experiment.batch.microbatches) == ("mine", "croco", 6)


def test_null_gives_a_setting_back_its_default() -> None:
    assert tiny("optim.clip=1.5").optim.clip == 1.5
    assert tiny("optim.clip=null").optim.clip is None
    assert tiny("optim.lr=null", "optim.base_lr=1.5e-4").optim.peak_lr(256) == pytest.approx(1.5e-4)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("pretext.mask_ration=0.5", "unknown setting 'pretext.mask_ration': did you mean 'pretext.mask_ratio'?"),
        ("pretex.mask_ratio=0.5", "unknown setting 'pretex.mask_ratio': did you mean 'pretext.mask_ratio'?"),
        ("train.worker=1", "unknown setting 'train.worker': did you mean 'train.workers'?"),
        ("data.trian=x", "unknown setting 'data.trian': did you mean 'data.train'?"),
        ("train.lr=1", "unknown setting 'train.lr': did you mean 'optim.lr'?"),
        ("lr=1", "unknown setting 'lr': did you mean 'optim.lr'?"),
        ("train.epochs=4", "unknown setting 'train.epochs': did you mean \"train.length='40 epochs'\"?"),
        ("train.learning_rate=1", "unknown setting 'train.learning_rate': did you mean 'optim.lr'?"),
        ("train.batch_size=1", "unknown setting 'train.batch_size': did you mean 'batch.size'?"),
        ("train.mask_ratio=0.5", "unknown setting 'train.mask_ratio': did you mean 'pretext.mask_ratio'?"),
        ("epochs=4", "unknown setting 'epochs': did you mean \"train.length='40 epochs'\"?"),
        ("train.zzz=1", "unknown setting 'train.zzz': known: train.accelerator_type, train.actors, train.checkpoint_activations"),
        ("batchsize=3", "unknown setting 'batchsize'"),
        ("data.train.deep=1", "unknown setting 'data.train.deep'"),
        ("loss.zzz=1", "unknown setting 'loss.zzz': known: loss.reconstruction"),
        ("pretext.mask_ratio=0", "pretext.mask_ratio = 0: "),
        ("pretext.mask_ratio=1", "pretext.mask_ratio = 1: Input should be less than 1"),
        ("pretext.mask_ratio=-0.1", "pretext.mask_ratio = -0.1: "),
        ("pretext.mask_ratio=much", "pretext.mask_ratio = 'much': "),
        ("pretext.mask_ratio=0.01", "hides int(0.01 * 49) = 0 of the 49 patches"),
        ("model.patch_size=15", "112 / 15 = 7.47 patches; the nearest sizes that work: 105, 120"),
        ("model.image_size=[112, 100]", "100 / 16 = 6.25 patches; the nearest sizes that work: 96, 112"),
        ("batch.size=33", "batch.size = 33 is no multiple of batch.microbatch = 16"),
        ("batch.microbatch=0", "batch.microbatch = 0: "),
        ("train.device=gpu", "train.device = 'gpu': "),
        ("train.length=5 apples", "'5 apples' is no length of training"),
        ("train.length=0 steps", "train.length = '0 steps': must be more than 0"),
        ("train.checkpoint_every=-3", "-3 is no length of training"),
        ("optim.base_lr=1e-4", "give one of optim.lr (as it is) and optim.base_lr (per 256 samples)"),
        ("data.train=5", "data.train = 5: "),
        ("train=5", "'train' is a section, not a setting"),
        ("method=conmim", "unknown setting 'method'"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_wrong(pair: str, said: str) -> None:
    assert said in str(refusal(pair))


def test_all_wrong_settings_are_told_at_once() -> None:
    text = str(refusal("pretext.mask_ratio=2", "batch.size=x", "train.length=long", "loss.recon=1", "augment.hue=0.1"))
    assert len(text.splitlines()) == 5
    for key in ("pretext.mask_ratio", "batch.size", "train.length", "loss.recon", "augment.hue"):
        assert key in text


def test_workers_that_do_not_divide_the_microbatches_are_refused_with_the_arithmetic() -> None:
    error = refusal("batch.size=96", "train.workers=4")
    assert "train.workers = 4 does not divide the 6 microbatches of a step (batch.size / batch.microbatch = 96 / 16)" in str(error)
    assert "[1, 2, 3, 6]" in error.hint


@pytest.mark.parametrize("pair", ["alone", "=3", " = 3", "batch.size=[1", "log.experiment={a: 1"])
def test_what_is_no_setting_at_all_is_quoted(pair: str) -> None:
    with pytest.raises(CallError) as caught:
        parse_overrides([pair])
    assert repr(pair) in str(caught.value)


def test_values_are_yaml() -> None:
    given = parse_overrides(["a.b=1", "a.c=0.5", "a.d=null", "a.e=x=y", "a.f=", "a.g=[1, 2]", " a.h =3 steps"])
    assert given == {"a.b": 1, "a.c": 0.5, "a.d": None, "a.e": "x=y", "a.f": None, "a.g": [1, 2], "a.h": "3 steps"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("croco-tinny", "no recipe 'croco-tinny': did you mean 'croco-tiny'?"),
        ("zzz", "croco-small, croco-tiny"),
        ("absent.yaml", "no file 'absent.yaml'"),
    ],
)
def test_an_unknown_recipe_is_answered_with_those_there_are(name: str, said: str) -> None:
    with pytest.raises(CallError) as caught:
        load(name)
    assert said in str(caught.value) and "croco-tiny" in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: croco\n  model: [", "is no valid YAML"),
        ("- method\n- croco\n", "names no method"),
        ("model: {}\n", "names no method"),
        ("method: croko\n", "unknown method 'croko': did you mean 'croco'?"),
        ("method: croco\nmodell: {}\n", "unknown section 'modell' in mine: did you mean 'model'?"),
        ("method: croco\nbatch: 5\n", "batch = 5"),
        ("method: croco\nmodel: [1]\noptim: {lr: 1}\n", "model"),
        ("method: croco\nlog: !!python/object/apply:os.system [ls]\n", "is no valid YAML"),
    ],
)
def test_a_broken_recipe_file_is_told_by_its_name_and_fault(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(CallError) as caught:
        load(str(path))
    assert said in str(caught.value)


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\x80\x04\xff\xfe")
    with pytest.raises(CallError, match="is no valid YAML"):
        load(str(path))


@pytest.mark.parametrize(
    ("text", "steps"), [("300", 300), ("300 steps", 300), ("1 step", 1), ("2 epochs", 50), ("0.5 epochs", 12.5), ("2e3 samples", 50)]
)
def test_a_length_of_training_is_counted_in_steps(text: str, steps: float) -> None:
    """40 samples a step, 1000 an epoch."""
    assert Duration.parse(text).steps(batch_size=40, samples=1000) == steps


@pytest.mark.parametrize("text", ["300 steps", "40 epochs", "2.5 epochs", "100000 samples"])
def test_a_length_is_written_as_it_is_read(text: str) -> None:
    assert str(Duration.parse(text)) == text


@pytest.mark.parametrize("text", ["2e6 samples", "1234567 samples", "1281167 samples", "0.1234567 epochs"])
def test_a_long_length_keeps_every_digit(text: str) -> None:
    length = Duration.parse(text)
    assert Duration.parse(str(length)) == length


def test_the_clock_of_a_run_has_at_least_one_step() -> None:
    clock = tiny("train.length=2 epochs").clock(samples=320)
    assert (clock.steps, clock.batch_size, clock.samples) == (20, 32, 320)
    assert tiny("train.length=1 samples").clock(samples=320).steps == 1


def test_the_model_registry_name_is_written_log_register() -> None:
    experiment = tiny("log.register=rooms")
    assert experiment.log.register_as == "rooms"
    assert experiment.sections()["log"]["register"] == "rooms" and "register_as" not in experiment.sections()["log"]
    assert load("croco-tiny", settings=experiment.sections()) == experiment


def test_flat_names_every_setting_once() -> None:
    experiment = load("croco-tiny")
    flat, sections = experiment.flat(), experiment.sections()
    assert flat["recipe"] == "croco-tiny" and flat["method"] == "croco" and flat["model.image_size"] == 112
    assert set(flat) == {"recipe", "method"} | {f"{s}.{k}" for s, values in sections.items() if s != "method" for k in values}
    json.dumps(flat)


HOW = {
    "train.workers": 1,
    "train.device": "cpu",
    "train.threads": 1,
    "train.compile": True,
    "train.keep": 5,
    "train.max_failures": 0,
    "train.storage": "s3://bucket/runs",
    "train.checkpoint_every": "7 steps",
    "train.validate_every": "7 steps",
    "train.validate_samples": 7,
    "log.every": 3,
    "log.experiment": "other",
    "log.tracking_uri": "http://127.0.0.1:1",
    "log.register": "other",
    "probe.names": [],
    "probe.train": "/a",
    "probe.test": "/b",
    "probe.samples": 5,
    "data.train": "/elsewhere",
    "data.val": "/elsewhere",
}
"""Settings that say how a run is carried out or measured. Data may lie elsewhere: their own fingerprint is compared."""
WHAT: dict[str, Any] = {
    "model.encoder_depth": 3,
    "pretext.mask_ratio": 0.5,
    "loss.reconstruction": 2.0,
    "augment.brightness": 0.1,
    "batch.size": 64,
    "batch.microbatch": 8,
    "optim.lr": 2e-3,
    "optim.warmup": "3 steps",
    "optim.decay": "500 steps",
    "optim.betas": [0.9, 0.99],
    "optim.eps": 1e-6,
    "optim.weight_decay": 0.1,
    "optim.clip": 1.0,
    "train.length": "401 steps",
    "train.seed": 1,
    "train.precision": "fp32",
    "data.block": 64,
}


@pytest.mark.parametrize("key", HOW)
def test_how_a_run_is_carried_out_may_change_in_a_resume(key: str) -> None:
    plain = load("croco-tiny")
    other = load("croco-tiny", {key: HOW[key]})
    assert other != plain and hashed_text(other) == hashed_text(plain)


@pytest.mark.parametrize("key", WHAT)
def test_what_is_learned_may_not_change_in_a_resume(key: str) -> None:
    assert hashed_text(load("croco-tiny", {key: WHAT[key]})) != hashed_text(load("croco-tiny"))


def test_the_documentation_names_every_setting_of_the_platform_with_its_default() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "recipes-and-settings.md").read_text()
    told = {line.split("`")[1]: line.split("`")[3] for line in text.splitlines() if line.startswith("| `")}
    held = {}
    for section, model in config.PLATFORM_SECTIONS.items():
        for name, field in model.model_fields.items():
            default = field.get_default(call_default_factory=True)
            held[f"{section}.{field.alias or name}"] = list(default) if isinstance(default, tuple) else default
    assert told.keys() == held.keys()
    for key, default in held.items():
        if isinstance(default, Duration):
            assert Duration.parse(told[key]) == default, key
        else:
            shown = yaml.safe_load(told[key])
            assert (float(shown) if isinstance(default, float) else shown) == default, key
