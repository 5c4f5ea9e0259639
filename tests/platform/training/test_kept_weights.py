"""Two sets of weights: a resume goes on with both, and the card says which is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import TOY, TOY_IMAGES, write_images

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.finish import TrainedModel
from sightline.platform.runs.events import RunEvent
from sightline.platform.runs.record import Run

SIZES = {"encoder_dim": 32, "encoder_depth": 1, "encoder_heads": 2, "decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}
CROCO = {"method": "croco", "model": {"image_size": 32, "patch_size": 8, "position": "rope", **SIZES}}
TUNED: dict[str, Any] = {
    "method": "finetune_classification",
    "model": {"encoder": CROCO, "classes": 2, "class_names": ["dark", "bright"], "image_size": 32, "drop_path": 0},
    "pretext": {"ema": 0.9},
    **{name: TOY[name] for name in ("batch", "optim", "train", "log")},
}


@pytest.fixture
def make(home: Path, tmp_path: Path) -> Callable[[str], Run]:
    data = {f"data.{part}": str(write_images(tmp_path / part, rows, rows)) for part, rows in (("train", 60), ("val", 20))}

    def run(name: str) -> Run:
        experiment = config.load("toy", data, settings=copy.deepcopy(TUNED))
        return create_run(name, experiment, Dataset.open(data["data.train"]).fingerprint, "test", "")

    return run


@pytest.mark.slow
def test_a_run_with_an_average_goes_on_to_the_same_bits_and_says_what_it_keeps(
    make: Callable[[str], Run], train_here: Callable[..., list[RunEvent]]
) -> None:
    whole, parts = make("whole"), make("parts")
    train_here(whole)
    for stop_after in (5, 4, None):
        train_here(parts, stop_after=stop_after)
    one, two = (checkpoint.newest(run.folder / "checkpoints") for run in (whole, parts))
    assert one is not None and two is not None and one.state.history == two.state.history
    for which in ("model", "optimizer"):
        ends, resumed = one.tensors(which), two.tensors(which)
        assert ends.keys() == resumed.keys() and all(torch.equal(value, resumed[name]) for name, value in ends.items())
    averages = [name for name in one.tensors("model") if name.startswith("predictor.")]
    assert averages and any(not torch.equal(one.tensors("model")[name], one.tensors("model")[f"student{name[9:]}"]) for name in averages)
    model = TrainedModel.open(whole)
    assert model.size.weights == "the average over the steps (pretext.ema=0.9)"
    assert all(torch.equal(value, one.tensors("model")[f"predictor.{name}"]) for name, value in model.encoder.state_dict().items())


@pytest.mark.parametrize("name", sorted(TOY_IMAGES))
def test_methods_with_a_teacher_say_whose_weights_are_kept(name: str) -> None:
    method, sections = find_method(name), TOY_IMAGES[name]
    for which, words in (("teacher", "the teacher's, an average of the student's"), ("student", "the student's")):
        settings = {part: sections.get(part, {}) for part in ("model", "pretext", "augment")}
        settings["pretext"] = {**settings["pretext"], "encoder": which}
        pretext = method.build(method.Config.model_validate(settings), BuildContext(seed=0))
        assert pretext.kept_weights == words  # type: ignore[attr-defined]
