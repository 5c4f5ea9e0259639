"""A run begins from weights: fitted and kept when it is made, so that nothing that happens to the original changes a resume."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import METHODS, made_run, pretext_of, toy_settings

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import CallError, SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.experiments import finish
from sightline.platform.experiments.create import create_run
from sightline.platform.models.encoders import open_encoder
from sightline.platform.models.resolve import find_initial
from sightline.platform.runs.events import RunEvent, ValidationDone
from sightline.platform.runs.pinned import RECORD, WEIGHTS, load_initial
from sightline.platform.runs.record import Run
from sightline.platform.weights.format import digest, write_file

Train = Callable[..., list[RunEvent]]


def begun(method: str, init: str, **overrides: Any) -> Any:
    """A fresh pretext after a run that begins from `init` was made."""
    run = create_run("begun", toy_settings(method, init=init, **overrides), "f" * 64, "test", "")
    pretext = find_method(method).build(run.experiment.method_config, BuildContext(seed=99))
    load_initial(pretext, run.experiment, run.folder)
    return run, pretext


@pytest.mark.parametrize("method", METHODS)
def test_a_run_gives_its_whole_state(home: Path, method: str) -> None:
    source = made_run("source", method)
    run, pretext = begun(method, "source")
    expected = pretext_of(source).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in pretext.state_dict().items())
    record = json.loads((run.folder / RECORD).read_text())
    assert (len(record["matched"]), record["missing"], record["unexpected"]) == (len(expected), [], [])
    sha256 = digest(expected)
    assert run.settings["train"]["init"] == record["place"] == f"{source.folder}@sha256:{sha256}"


@pytest.mark.parametrize("method", METHODS)
def test_an_encoder_fills_every_copy_of_it_and_leaves_the_rest(home: Path, tmp_path: Path, method: str) -> None:
    source = made_run("source", method)
    encoder = pretext_of(source).encoder()
    folder = finish.save_encoder(source, encoder, 12)
    run, pretext = begun(method, str(folder))
    fresh = find_method(method).build(run.experiment.method_config, BuildContext(seed=99)).state_dict()
    prefixes = pretext.encoder_prefixes
    filled = 0
    for name, value in pretext.state_dict().items():
        inside = [name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)]
        expected = encoder.state_dict().get(inside[0]) if inside else None
        filled += expected is not None
        assert torch.equal(value, fresh[name] if expected is None else expected), name
    assert filled == len(prefixes) * len(encoder.state_dict()), "the encoder as a whole, in every place"
    with torch.no_grad():
        images = torch.rand(2, 3, *encoder.image_size)
        assert torch.equal(pretext.encoder().eval().tokens(images), encoder.eval().tokens(images))
    record = json.loads((run.folder / RECORD).read_text())
    assert record["part"] == "encoder" and len(record["matched"]) == len(encoder.state_dict()) and not record["unexpected"]


@pytest.mark.slow
def test_training_begins_there_and_a_resume_needs_neither_original_nor_luck(
    toy_run: Callable[..., Run], train_here: Train, tmp_path: Path
) -> None:
    short = {"train.length": "6 steps", "train.checkpoint_every": "2 steps", "train.validate_samples": 8}
    source = toy_run("source", **short)
    train_here(source)
    file = write_file(open_encoder("source").weights, tmp_path / "weights.safetensors")
    calm = toy_run("calm", **{**short, "init": str(file)})
    first = train_here(calm)
    trained = next(event.losses["loss"] for event in first if isinstance(event, ValidationDone))
    fresh = next(event.losses["loss"] for event in train_here(toy_run("fresh", **short)) if isinstance(event, ValidationDone))
    end = next(event.losses["loss"] for event in source.events() if isinstance(event, ValidationDone) and event.step == 6)
    assert trained == pytest.approx(end, abs=1e-6) and trained != pytest.approx(fresh, abs=1e-3)

    killed = toy_run("killed", **{**short, "init": str(file)})
    train_here(killed, stop_after=2)
    shutil.rmtree(killed.folder / "checkpoints")  # killed before its first checkpoint
    file.unlink()
    shutil.rmtree(source.folder)
    train_here(killed)
    last = [checkpoint.newest(run.folder / "checkpoints") for run in (calm, killed)]
    assert all(found is not None and found.state.step == 6 for found in last)
    a, b = (found.tensors("model") for found in last if found is not None)
    assert all(torch.equal(a[name], b[name]) for name in a)

    lost = Run.open("killed")
    shutil.rmtree(lost.folder / "checkpoints")
    (lost.folder / WEIGHTS).unlink()
    with pytest.raises(SightlineError, match="the weights that run killed begins from are gone"):
        train_here(lost)


def test_where_a_run_begins_is_part_of_what_is_learned(home: Path) -> None:
    made_run("source")
    experiments = [toy_settings("croco"), toy_settings("croco", init="source"), toy_settings("croco", init="other")]
    assert len({config.hashed_text(experiment) for experiment in experiments}) == 3
    assert config.load("toy", {"train.init": "source"}, settings={**toy_settings("croco").sections()}) == experiments[1]
    in_yaml = {**toy_settings("croco").sections(), "init": "source"}
    assert config.load("toy", settings=in_yaml).train.init == "source"


def test_weights_that_changed_are_not_those_of_the_recipe(home: Path) -> None:
    made_run("source")
    pinned = find_initial(toy_settings("croco", init="source")).place
    assert find_initial(toy_settings("croco", init=pinned)).place == pinned
    shutil.rmtree(home / "runs" / "source")
    made_run("source", seed=8)
    with pytest.raises(CallError, match=r"are not those of train\.init: their SHA-256 is"):
        find_initial(toy_settings("croco", init=pinned))
    with pytest.raises(CallError, match="'abc' is no SHA-256"):
        find_initial(toy_settings("croco", init="source@sha256:abc"))


def test_what_does_not_fit_is_named_with_the_hint_and_no_run_is_left(home: Path) -> None:
    made_run("source")
    with pytest.raises(CallError, match=r"has shape \(32,\) in .*source, \(48,\) in this run") as caught:
        create_run("next", toy_settings("croco", init="source", **{"model.encoder_dim": 48}), "f" * 64, "test", "")
    assert caught.value.hint == "use the settings of these weights: model.encoder_dim=32"
    assert not (home / "runs" / "next").exists()
    with pytest.raises(CallError, match="did you mean 'source'"):
        create_run("next", toy_settings("croco", init="sorce"), "f" * 64, "test", "")
    deeper = find_initial(toy_settings("croco", init="source", **{"model.encoder_depth": 2}))
    assert len(deeper.match.missing) == 12 and "12 stay fresh (backbone.enc_blocks.1." in deeper.describe()


@pytest.mark.skipif(len(METHODS) < 2, reason="one method is installed")
def test_weights_of_another_method_give_their_encoder_or_are_refused(home: Path) -> None:
    made_run("source", "croco")
    other = next(name for name in METHODS if name != "croco")
    with pytest.raises(CallError, match=rf"none of the \d+ tensors in .*source \(croco\) has a place in {other}|has shape"):
        find_initial(toy_settings(other, init="source"))
