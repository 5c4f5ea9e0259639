"""What a worker draws for ConMIM."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from golden import picture
from pydantic import ValidationError

from sightline.methods.conmim import method
from sightline.methods.conmim.config import ConMIMConfig
from sightline.methods.conmim.views import BLUR, GREY, JITTERED, SOLARISE
from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import sample_rng


def config(
    model: dict[str, Any] | None = None, pretext: dict[str, Any] | None = None, augment: dict[str, Any] | None = None
) -> ConMIMConfig:
    return ConMIMConfig.model_validate({"model": model or {}, "pretext": pretext or {}, "augment": augment or {}})


def drawn(chosen: ConMIMConfig, count: int = 20, image: np.ndarray | None = None) -> dict[str, np.ndarray]:
    views = method.views(chosen)
    rows = [views({"image": picture(0) if image is None else image}, sample_rng(0, i)) for i in range(count)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def test_a_sample_is_a_crop_a_mask_and_the_parameters_of_the_strong_view() -> None:
    made = drawn(config())
    assert {name: (array.shape[1:], array.dtype.name) for name, array in made.items()} == {
        "image": ((224, 224, 3), "uint8"),
        "mask": ((196,), "bool"),
        "colours": ((1, 12), "float32"),
    }
    again = drawn(config())
    assert all(np.array_equal(made[name], again[name]) for name in made)


@pytest.mark.parametrize(
    ("task", "count"),
    [
        ({}, 148),
        ({"mask": "random"}, 147),
        ({"mask_cell": 16}, 147),
        ({"mask_cell": 112, "mask_ratio": 0.5}, 98),
        ({"mask_ratio": 0.6}, 120),
    ],
)
def test_the_number_of_hidden_patches_is_exact(task: dict[str, Any], count: int) -> None:
    assert config(pretext=task).masked == count
    assert set(drawn(config(pretext=task))["mask"].sum(axis=1)) == {count}


def test_blocks_hide_at_most_the_share_and_lie_together() -> None:
    launch = config(pretext={"mask": "block", "mask_ratio": 0.383})
    assert launch.masked == 75
    mask = drawn(launch, 100)["mask"].reshape(-1, 14, 14)
    counts = mask.sum(axis=(1, 2))
    assert counts.max() == 75 and counts.min() > 60
    beside = (mask[:, 1:] & mask[:, :-1]).sum() / mask.sum()
    assert beside > 0.6  # 0.38 for single patches


def test_cells_hide_whole_squares_also_of_rectangles() -> None:
    mask = drawn(config({"image_size": [96, 160]}))["mask"].reshape(-1, 3, 2, 5, 2)
    assert (mask.any(axis=(2, 4)) == mask.all(axis=(2, 4))).all()
    assert mask.shape[0] == 20 and (mask.sum(axis=(1, 2, 3, 4)) == 48).all()


def test_crops_differ_and_stay_in_the_image() -> None:
    ramp = np.broadcast_to(np.arange(100, 180, dtype=np.uint8)[None, :, None], (60, 80, 3)).copy()
    made = drawn(config({"image_size": 64}), 60, ramp)["image"].astype(int)
    assert made.min() >= 99 and made.max() <= 180
    rising = made[:, :, -1, 0].mean(axis=1) > made[:, :, 0, 0].mean(axis=1)
    assert 15 < rising.sum() < 45  # half are flipped
    spans = np.abs(made[:, :, -1, 0].mean(axis=1) - made[:, :, 0, 0].mean(axis=1))
    assert spans.min() < 35 and spans.max() > 60  # small crops and large ones


def test_without_crops_and_flips_the_image_is_resized_as_pillow_does() -> None:
    from PIL import Image

    still = config({"image_size": 64}, augment={"area": [1, 1], "ratio": [1, 1], "flip": 0})
    image = picture(1)[:, :72]
    assert np.array_equal(drawn(still, 1, image)["image"][0], np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)))


@pytest.mark.slow
def test_parameters_of_the_strong_view_have_the_distribution_of_the_settings() -> None:
    colours = drawn(config({"image_size": 32}, {"mask_cell": 16}), 3000)["colours"][:, 0]
    for place, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = colours[:, place]
        assert low <= values.min() < low + 0.02 and high - 0.02 < values.max() <= high + 1e-6
        assert abs(values.mean() - (low + high) / 2) < 0.02
    assert (np.sort(colours[:, 4:8]) == np.arange(4)).all() and len(np.unique(colours[:, 4:8], axis=0)) == 24
    for place, share in ((JITTERED, 0.8), (GREY, 0.2), (SOLARISE, 0.2), (BLUR, 0.1)):
        assert abs((colours[:, place] > 0).mean() - share) < 0.03
    radii = colours[colours[:, BLUR] > 0, BLUR]
    assert radii.min() >= 0.1 and radii.max() <= 2 and abs(radii.mean() - 1.05) < 0.2


def test_small_images_are_enlarged_and_only_those_under_a_patch_are_broken() -> None:
    assert drawn(config(), 3, picture(0)[:16, :20])["image"].shape == (3, 224, 224, 3)
    with pytest.raises(BrokenSampleError, match=r"12 x 40 pixels .*, smaller than a patch of 16"):
        drawn(config(), 1, picture(0)[:12, :40])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"image_size": 200}}, r"200 / 16 = 12.50 patches; the nearest sizes that work: 192, 208"),
        ({"model": {"heads": 7}}, r"768 / 7 = 109.71"),
        ({"model": {"image_size": 112}}, r"112 / 32 = 3.50 cells; cells that fit 112 pixels: 16, 112"),
        ({"pretext": {"mask_cell": 24}}, r"24 / 16 = 1.50 patches; the nearest cells that work: 16, 32"),
        ({"pretext": {"mask_ratio": 0.99}}, r"hides 196 of the 196 patches"),
        ({"pretext": {"mask": "random", "mask_ratio": 0.001}}, r"hides 0 of the 196 patches"),
        ({"pretext": {"mask": "block", "mask_ratio": 0.05}}, r"block_min 16 is more than the 9 patches"),
        ({"augment": {"area": [0.5, 0.2]}}, r"rising order"),
        ({"augment": {"area": [0.5, 1.2]}}, r"more than the whole image"),
        ({"augment": {"blur_radius": [0, 1]}}, r"rising order"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_arithmetic(sections: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ConMIMConfig.model_validate(sections)
