"""The layout of the published stereo and flow files, both ways, on files written in it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_dense import built, images, tiny
from torch import Tensor

from sightline.methods.dense import official
from sightline.methods.dense.criteria import Criterion
from sightline.methods.errors import SightlineError
from sightline.methods.layers.positions import resize_table
from sightline.methods.ops.tiling import STEREO_TILES, TileWeight
from sightline.platform.models.published import take_in, to_published
from sightline.platform.weights.foreign import read

CRITERION = Criterion("bounded2")


def written(path: Path, tensors: dict[str, Tensor], beside: dict[str, Any]) -> Path:
    """As the authors write it: a pickle whose `args` is a namespace."""
    torch.save({"model": tensors, "args": argparse.Namespace(**beside["args"])}, path)
    return path


@pytest.mark.parametrize("position", ["rope", "cosine"])
@pytest.mark.parametrize("two", [True, False])
def test_there_and_back_again_by_a_file(tmp_path: Path, position: str, two: bool) -> None:
    model = tiny((32, 48), two=two, position=position)
    network = built(model, channels=2)
    tensors, beside = official.save(network.state_dict(), model, "stereo", CRITERION, str(STEREO_TILES))
    content = read(written(tmp_path / "stereo.pth", tensors, beside))
    found = official.settings_of(content)
    assert (found.model, found.task, found.criterion, found.channels) == (model, "stereo", CRITERION, 2)
    assert TileWeight.parse(found.tile_weight) == STEREO_TILES
    fresh = built(found.model, found.channels, seed=1)
    state, report = official.load(content, fresh.state_dict(), found.model)
    fresh.load_state_dict(state, strict=True)
    assert not report.missing and not report.unexpected
    assert report.left_out == (("dec_pos_embed",) if position == "cosine" and not two else ())
    views = [images(32, 48, seed=i) for i in range(1 + two)]
    assert torch.equal(network(*views), fresh(*views))


def test_a_published_file_becomes_a_model_of_the_task_and_goes_back_to_its_layout(tmp_path: Path) -> None:
    model = tiny((32, 48), position="rope")
    network = built(model, channels=2)
    tensors, beside = official.save(network.state_dict(), model, "stereo", CRITERION, "conf_expbeta3")
    path = written(tmp_path / "stereo.pth", tensors, beside)
    taken = take_in(path, "finetune_stereo", None, {})
    assert not taken.fresh and taken.weights.config.model_dump()["pretext"]["tiles"] == "conf_expbeta3"
    predictor: Any = taken.weights.encoder()
    views = [images(32, 48, seed=i) for i in range(2)]
    assert torch.equal(predictor.raw(*views), network(*views)) and str(predictor.weight) == "conf_expbeta3"
    again, settings = to_published(taken.weights)
    assert settings == beside and again.keys() == tensors.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(SightlineError, match="is of the task stereo") as caught:
        take_in(path, "finetune_flow", None, {})
    assert "finetune_stereo" in str(caught.value.hint)


def test_a_file_of_tensors_alone_tells_what_its_shapes_tell(tmp_path: Path) -> None:
    model = tiny((32, 48), position="rope")
    tensors, _ = official.save(built(model).state_dict(), model, "flow", CRITERION, "")
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "flow.safetensors")
    with pytest.raises(SightlineError, match="16 is no published width"):
        official.settings_of(read(tmp_path / "flow.safetensors"))


def test_half_of_a_tensors_two_names_will_do_and_two_that_differ_will_not() -> None:
    model = tiny()
    network = built(model)
    tensors, beside = official.save(network.state_dict(), model, "flow", CRITERION, "")
    twice = {name: again for name in tensors if (again := official.second_name(name)) is not None}
    assert len(twice) == 4 + 2 * 7 and all(tensors[name] is tensors[again] for name, again in twice.items())
    for gone in (twice.keys(), twice.values()):
        content = {"model": {name: t for name, t in tensors.items() if name not in set(gone) or "act_1" in name}, **beside}
        state, report = official.load(content, network.state_dict(), model)
        assert not report.missing and state.keys() == network.state_dict().keys()
    again = next(iter(twice.values()))
    with pytest.raises(SightlineError, match="two names of one tensor"):
        official.load({"model": {**tensors, again: tensors[again] + 1}}, network.state_dict(), model)


def test_tables_of_a_square_grid_are_resized_to_the_models() -> None:
    square, wide = tiny((32, 32), position="cosine"), tiny((32, 64), position="cosine")
    tensors, beside = official.save(built(square).state_dict(), square, "flow", CRITERION, "")
    state, report = official.load({"model": tensors, **beside}, built(wide).state_dict(), wide)
    assert report.resized == ("dec_pos_embed", "enc_pos_embed")
    assert torch.equal(state["encoder.enc_pos_embed"], resize_table(tensors["enc_pos_embed"], (2, 2), (2, 4)))


def test_tables_are_written_at_the_size_of_the_crop() -> None:
    """Their networks have the crop's tables; ours keep those of pre-training and resize them when they run."""
    model = tiny((32, 32), position="cosine").model_copy(update={"image_size": (32, 64)})
    network = built(model)
    tensors, beside = official.save(network.state_dict(), model, "flow", CRITERION, "")
    assert tensors["enc_pos_embed"].shape == (8, 16) and beside["args"]["croco_args"]["img_size"] == (32, 64)
    found = official.settings_of({"model": tensors, **beside})
    again = built(found.model, found.channels, seed=1)
    again.load_state_dict(official.load({"model": tensors, **beside}, again.state_dict(), found.model)[0])
    pair = images(32, 64), images(32, 64, seed=1)
    assert torch.allclose(network(*pair), again(*pair), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("LaplacianLossBounded2()", Criterion("bounded2")),
        ("LaplacianLossBounded(a=0.5, b=3, max_gtnorm=50)", Criterion("bounded", 0.5, 3.0, 50.0)),
        ("LaplacianLossBounded()", Criterion("bounded", max_norm=1e4)),
        ("LaplacianLoss()", Criterion("laplacian")),
        ("L1Loss(max_gtnorm=None)", Criterion("l1")),
    ],
)
def test_criteria_are_read_from_their_text(text: str, criterion: Criterion) -> None:
    assert official.criterion_from_text(text) == criterion
    assert official.criterion_from_text(criterion.text()).bounds == criterion.bounds


@pytest.mark.parametrize("text", ["MSELoss()", "LaplacianLossBounded(a=9)", "L1Loss(c=2)", "LaplacianLoss(max_gtnorm=f())", "not a call"])
def test_other_criteria_are_refused(text: str) -> None:
    with pytest.raises(SightlineError):
        official.criterion_from_text(text)


def test_what_is_no_file_of_this_layout_is_refused() -> None:
    with pytest.raises(SightlineError, match="none of the 1 tensors"):
        official.settings_of({"model": {"weight": torch.zeros(2)}})
    for settings, word in (({"head": "linear"}, "linear head"), ({"hooks": (0, 1, 2, 2)}, "hooks")):
        model = tiny(**settings)
        with pytest.raises(SightlineError, match=word):
            official.save(built(model).state_dict(), model, "flow", CRITERION, "")
