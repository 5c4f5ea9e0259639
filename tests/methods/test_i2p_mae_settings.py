"""What the settings of I2P-MAE's views, targets and masks change, on numbers that can be seen through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import CallError
from sightline.methods.i2p_mae import _adapt, _stage_settings, method
from sightline.methods.i2p_mae.config import I2PConfig
from sightline.methods.i2p_mae.network import group_points
from sightline.methods.i2p_mae.stage import TeacherStage
from sightline.methods.i2p_mae.views2d import depth_images, depth_map, frame_of
from sightline.methods.layers.colour import imagenet_normalise
from sightline.methods.random import MicrobatchRng

MODEL = {
    "points": 64,
    "groups": [32, 16, 8],
    "neighbours": [8, 4, 4],
    "dims": [12, 24, 48],
    "depths": [1, 1, 1],
    "heads": 2,
    "teacher_dim": 6,
}


def config(**task: Any) -> I2PConfig:
    return I2PConfig.model_validate({"model": {**MODEL, "teacher": "t"}, "pretext": {"mask_ratio": 0.5, **task}})


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("value", "both"), [("sum", 0.7), ("nearest", 0.5)])
@pytest.mark.parametrize("splat", [1, 3, 5])
def test_a_point_covers_its_square_and_two_at_a_pixel_give_sum_or_nearest(value: str, both: float, splat: int) -> None:
    corners = [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]  # of the frame; depths of 0 cannot be seen
    view = torch.tensor([[*corners, [0.5, 0.5, 0.2], [0.5, 0.5, 0.5], [0.2, 0.8, -0.3]]])
    image = depth_map(view, frame_of(view[..., :2]), splat, value)[0]
    assert image.unique().tolist() == pytest.approx([-0.3, 0, both])
    assert [int((image == number).sum()) for number in (image.max(), image.min())] == [splat**2] * 2


class Colours(torch.nn.Module):
    """A teacher that keeps what its network would see."""

    dim, patch_size, image_size = 3, 32, (224, 224)

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.mean, self.std = torch.full((3, 1, 1), mean), torch.full((3, 1, 1), 0.5)

    def tokens(self, images: Tensor) -> Tensor:
        self.seen = (images - self.mean) / self.std
        return images.new_zeros(len(images), 49, 3)

    def saliency(self, images: Tensor) -> Tensor:
        return images.new_full((len(images), 49), 1 / 49)


def test_the_teacher_sees_its_own_colours_or_imagenets() -> None:
    cloud, teacher = noise(50, 3), Colours(0.4)
    own, theirs = (TeacherStage(config(teacher_input=which), teacher) for which in ("own", "imagenet"))
    own.see(cloud)
    before = teacher.seen
    theirs.see(cloud)
    assert torch.allclose(teacher.seen, imagenet_normalise(before * 0.5 + 0.4), atol=1e-6)
    assert (teacher.seen - before).abs().max() > 0.1


def test_targets_may_have_length_one_or_be_standardised_view_by_view() -> None:
    points, features = noise(2, 64, 3), noise(2, 3, 6, 7, 7) * 3 + 1
    found = {}
    for target in ("plain", "l2", "standardised"):
        pretext = method.build(config(target=target), BuildContext(seed=0))
        scales = group_points(points, pretext.config.model, skip_origin=True)
        found[target] = pretext.target_features({"points": points, "features": features}, scales).unflatten(2, (3, 6))
    assert torch.allclose(found["l2"].norm(dim=3), torch.tensor(1.0)) and torch.allclose(
        found["l2"], found["plain"] / found["plain"].norm(dim=3, keepdim=True)
    )
    assert found["standardised"].mean(dim=3).abs().max() < 1e-5
    assert torch.allclose(found["standardised"].var(dim=3, correction=0), torch.tensor(1.0), atol=1e-3)


def test_an_inverse_mask_hides_what_a_guided_one_shows() -> None:
    points = noise(1, 64, 3)
    batch = {"points": points, "saliency": noise(1, 3, 7, 7)}
    hidden = []
    for mask in ("guided", "inverse"):
        pretext = method.build(config(mask=mask, mask_temperature=1e-4), BuildContext(seed=0))
        scales = group_points(points, pretext.config.model, skip_origin=True)
        hidden.append(pretext.hide(batch, scales, MicrobatchRng(0, 0, 0)).masks[2])
    assert torch.equal(hidden[0], ~hidden[1]), "half of the tokens, and no noise to speak of"


def test_a_cache_of_older_settings_stays_valid_and_another_view_has_its_own() -> None:
    before = {"model.points", "model.groups[0]", "pretext.views", "augment.scale", "augment.shift"}
    assert set(_stage_settings(config(target="l2", mask="inverse"))) == before
    changed = _stage_settings(config(teacher_input="imagenet", splat=3))
    assert set(changed) - before == {"pretext.teacher_input", "pretext.splat"} and changed["pretext.splat"] == 3


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
def test_features_may_come_from_a_block_or_stage_of_the_teacher(name: str) -> None:
    timm_method = find_method("timm")
    teacher = timm_method.build(timm_method.Config.model_validate({"model": {"name": name}}), BuildContext(seed=0)).encoder().eval()
    cloud, level = noise(80, 3), -2
    asked = config(teacher_level=level)
    maps, saliency = TeacherStage(asked, teacher).see(cloud)
    plain, same = TeacherStage(config(), teacher).see(cloud)
    images = interpolate(depth_images(cloud[None], 3)[:, None], size=teacher.image_size, mode="bilinear", antialias=True)
    seen = (images.expand(-1, 3, -1, -1) - teacher.mean) / teacher.std
    with torch.inference_mode():
        theirs = teacher.network.forward_intermediates(seen, indices=[level], intermediates_only=True)[0]
    assert torch.allclose(maps, theirs, atol=1e-5) and torch.equal(saliency, same)
    assert maps.shape != plain.shape or not torch.allclose(maps, plain, atol=0.1)
    assert _adapt(asked, {"model.teacher": teacher}).model.teacher_dim == maps.shape[1]
    with pytest.raises(CallError, match="teacher_level -40: the teacher has"):
        _adapt(config(teacher_level=-40), {"model.teacher": teacher})
