"""What a worker draws for an image, and the settings that decide it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.methods.errors import BrokenSampleError
from sightline.methods.loca import method
from sightline.methods.loca.config import LocaConfig
from sightline.methods.loca.views import Box, Resizer, draw_box, patch_targets
from sightline.methods.random import keyed_rng, sample_rng
from sightline.methods.settings import explain

SMALL = {
    "model": {"image_size": 64, "patch_size": 8, "encoder_dim": 48, "encoder_heads": 3},
    "pretext": {"focal_queries": 3},
    "augment": {"focal_size": 32},
}


def config(**sections: dict[str, object]) -> LocaConfig:
    return LocaConfig.model_validate({name: {**SMALL.get(name, {}), **sections.get(name, {})} for name in {**SMALL, **sections}})


def photo(height: int = 96, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_settings_and_views_load_no_heavy_library() -> None:
    code = (
        "import sys; from sightline.methods.loca import method; method.views(method.Config()); "
        "print([m for m in ('torch', 'ray', 'mlflow', 'timm', 'jaxtyping') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_defaults_are_the_released_recipe_s() -> None:
    c = LocaConfig()
    assert (c.model.patches, c.reference_tokens, c.query_tokens, c.focal_grid) == (196, 39, 70, (6, 6))
    assert (c.pretext.focal_queries, c.pretext.prototypes, c.augment.blur, c.loss.model_dump()) == (
        9, 4096, "released", {"position": 1, "cluster": 1, "entropy": 1},
    )  # fmt: skip
    assert method.image_shape(config(model={"image_size": [64, 96]})) == (64, 96)


def test_a_sample_is_a_pure_function_of_its_position() -> None:
    views, sample = method.views(config()), {"image": photo()}
    first, again, other = (views(sample, sample_rng(7, position)) for position in (3, 3, 4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name]), name
        assert array.flags.c_contiguous
    assert {n: (a.shape, str(a.dtype)) for n, a in first.items()} == {
        "reference": ((64, 64, 3), "uint8"),
        "query": ((64, 64, 3), "uint8"),
        "focal": ((3, 32, 32, 3), "uint8"),
        "query_target": ((64,), "int16"),
        "focal_target": ((3, 16), "int16"),
        "query_box": ((5,), "float32"),
        "focal_box": ((3, 5), "float32"),
        "colours": ((5, 12), "float32"),
    }


def test_crops_follow_the_sampler_s_law() -> None:
    """The figures of the specification for a 375 x 500 image: mean area and quantiles of the reference, mean area of focal queries."""
    rng = keyed_rng("boxes")
    large = np.array([draw_box((375, 500), (0.32, 1.0), (0.75, 1.33), rng) for _ in range(4000)])
    area = large[:, 2] * large[:, 3] / (375 * 500)
    assert area.mean() == pytest.approx(0.53, abs=0.01)
    np.testing.assert_allclose(np.quantile(area, [0.1, 0.5, 0.9]), [0.354, 0.51, 0.76], atol=0.02)
    assert area.min() >= 0.32
    focal = np.array([draw_box((375, 500), (0.05, 0.32), (0.75, 1.33), rng) for _ in range(2000)])
    assert (focal[:, 2] * focal[:, 3] / (375 * 500)).mean() == pytest.approx(0.164, abs=0.006)
    ratio = focal[:, 3] / focal[:, 2]
    assert ratio.min() > 0.74 and ratio.max() < 1.34 and abs(ratio.mean() - 1.04) < 0.02
    assert (focal[:, 0] + focal[:, 2]).max() == 374 and (focal[:, 1] + focal[:, 3]).max() == 499  # the last offset is never drawn
    assert draw_box((40, 400), (0.9, 1.0), (0.75, 1.33), rng) == Box(0, 0, 40, 400)  # nothing fits: the whole image


@pytest.mark.parametrize("size", [(64, 64), (24, 40), (150, 130)])
def test_crops_are_resized_bilinearly_without_antialias(size: tuple[int, int]) -> None:
    import torch
    from torch.nn.functional import interpolate

    image, box = photo(100, 120), Box(7, 11, 80, 60)
    crop = torch.from_numpy(image[7:87, 11:71]).permute(2, 0, 1)[None].float()
    expected = interpolate(crop, size=size, mode="bilinear", align_corners=False, antialias=False)[0].permute(1, 2, 0).numpy()
    for flip in (False, True):
        out = np.empty((*size, 3), np.uint8)
        Resizer(image)(box, flip, out)
        assert np.abs(out - (expected[:, ::-1] if flip else expected)).max() < 0.501
    exact = np.empty((80, 60, 3), np.uint8)
    Resizer(image)(box, False, exact)
    np.testing.assert_array_equal(exact, image[7:87, 11:71])


def test_targets_point_at_the_place_where_the_pixel_was_cut() -> None:
    """An image whose colours tell rows and columns: what a query patch shows at its centre is what its reference patch shows."""
    rows, columns = np.mgrid[0:240, 0:240].astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    c = config(augment={"reference_area": [0.3, 0.6]})
    views, seen, outside = method.views(c), 0, 0
    for position in range(15):
        out = views({"image": image}, sample_rng(1, position))
        cells = out["reference"].reshape(8, 8, 8, 8, 3).transpose(0, 2, 1, 3, 4).reshape(64, 64, 3).astype(int)
        for crop, target, grid in (
            (out["query"], out["query_target"], 8),
            *((f, t, 4) for f, t in zip(out["focal"], out["focal_target"], strict=True)),
        ):
            for patch, cell in enumerate(target.tolist()):
                y, x = divmod(patch, grid)
                centre = crop[8 * y + 4, 8 * x + 4].astype(int)
                low, high = cells.min(axis=1) - 6, cells.max(axis=1) + 6
                if cell >= 0:
                    assert (low[cell] <= centre).all() and (centre <= high[cell]).all()
                    seen += 1
                else:
                    whole = out["reference"].reshape(-1, 3).astype(int)
                    assert not ((whole.min(axis=0) + 3 < centre) & (centre < whole.max(axis=0) - 3))[:2].all()
                    outside += 1
    assert seen > 700 and outside > 150


def test_targets_of_rectangles_and_flips() -> None:
    whole, grid = Box(0, 0, 32, 48), (2, 3)
    plain = patch_targets(whole, np.array([whole] * 2), np.array([False, True]), grid, grid, (32, 48))
    assert plain.tolist() == [[0, 1, 2, 3, 4, 5], [2, 1, 0, 5, 4, 3]]
    part = patch_targets(whole, np.array([[16, 16, 16, 32]]), np.array([False]), grid, (1, 2), (16, 32))
    assert part.tolist() == [[4, 5]]


def test_colours_follow_the_recipe() -> None:
    views, sample = method.views(config(augment={"blur": "intended"})), {"image": photo()}
    drawn = np.stack([views(sample, sample_rng(0, p))["colours"] for p in range(400)])
    for column, (centre, strength) in enumerate([(0, 0.4), (1, 0.4), (1, 0.2), (0, 0.1)]):
        values = drawn[..., column]
        assert np.abs(values - centre).max() <= strength + 1e-6 and np.isclose(values.std(), 2 * strength / 12**0.5, rtol=0.05)
    orders = drawn[..., 4:8].reshape(-1, 4)
    assert (np.sort(orders, axis=1) == np.arange(4)).all() and len(np.unique(orders, axis=0)) == 24
    assert drawn[..., 8].mean() == pytest.approx(0.8, abs=0.03) and drawn[..., 9].mean() == pytest.approx(0.2, abs=0.03)
    assert drawn[:, 1, 10].mean() == pytest.approx(0.2, abs=0.06) and not drawn[:, [0, 2, 3, 4], 10].any()
    blurred = drawn[..., 11] > 0
    np.testing.assert_allclose(blurred.mean(axis=0), [1, 0.1, 0.5, 0.5, 0.5], atol=0.08)
    assert drawn[..., 11][blurred].min() >= 0.1 and drawn[..., 11].max() <= 2
    released = method.views(config())(sample, sample_rng(0, 0))["colours"]
    assert not released[:, 11].any()


def test_an_image_with_fewer_pixels_than_patches_is_a_broken_sample() -> None:
    with pytest.raises(BrokenSampleError, match=r"7 x 30 pixels \(height x width\), fewer than the reference's 8 x 8 patches"):
        method.views(config())({"image": photo(7, 30)}, sample_rng(0, 0))
    assert method.views(config())({"image": photo(8, 8)}, sample_rng(0, 0))["reference"].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"image_size": 225}}, ["image_size 225", "225 / 16 = 14.06", "224, 240"]),
        ({"augment": {"focal_size": 100}}, ["augment.focal_size 100", "100 / 16 = 6.25", "96, 112"]),
        ({"model": {"encoder_heads": 7}}, ["encoder_heads 7", "768 / 7"]),
        ({"model": {"image_size": 32}, "pretext": {"reference_keep": 0.2}}, ["int(0.2 * 4) = 0 of the reference's 4", "from 0.25"]),
        ({"pretext": {"sharpening": 0.2}}, ["sharpening 0.2 is above temperature 0.1"]),
        ({"pretext": {"reference_kept": 0.2}}, ["pretext.reference_kept", "did you mean 'pretext.reference_keep'?"]),
        ({"pretext": {"reference_selection": "random"}}, ["pretext.reference_selection", "'consecutive', 'first' or 'unstructured'"]),
        ({"augment": {"focal_area": [0.5, 0.1]}}, ["focal_area [0.5, 0.1] is no range"]),
        ({"augment": {"blur": "on"}}, ["augment.blur", "'released' or 'intended'"]),
        ({"pretext": {"query_tokens": 0}}, ["pretext.query_tokens"]),
    ],
)
def test_bad_settings_are_named_with_the_arithmetic(sections: dict[str, dict[str, object]], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        LocaConfig.model_validate(sections)
    message = str(explain(caught.value, LocaConfig))
    assert all(word in message for word in words), message
