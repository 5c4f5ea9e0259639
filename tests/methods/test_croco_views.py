"""What a worker draws for a pair, and the settings that decide it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from sightline.methods.croco import method
from sightline.methods.croco.config import CrocoConfig
from sightline.methods.errors import BrokenSampleError
from sightline.methods.random import sample_rng
from sightline.methods.settings import explain


def config(**sections: dict[str, object]) -> CrocoConfig:
    return CrocoConfig.model_validate(sections)


def pair(height: int = 256, width: int = 256) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for k in ("image1", "image2")}


def test_settings_and_views_load_no_heavy_library() -> None:
    code = (
        "import sys; from sightline.methods.croco import method; method.views(method.Config()); "
        "print([m for m in ('torch', 'ray', 'mlflow', 'timm', 'jaxtyping') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_defaults_are_the_paper_s() -> None:
    c = CrocoConfig()
    assert (c.model.image_size, c.model.patches, c.hidden) == ((224, 224), 196, 176)
    assert c.model_dump()["model"]["image_size"] == 224
    assert method.image_shape(config(model={"image_size": [96, 160]})) == (96, 160)


def test_a_sample_is_a_pure_function_of_its_position() -> None:
    views, sample = method.views(CrocoConfig()), pair()
    first, again, other = (views(sample, sample_rng(7, position)) for position in (3, 3, 4))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
        assert array.flags.c_contiguous
    assert {n: (a.shape, str(a.dtype)) for n, a in first.items()} == {
        "image1": ((224, 224, 3), "uint8"),
        "image2": ((224, 224, 3), "uint8"),
        "mask": ((196,), "bool"),
        "jitter1": ((6,), "float32"),
        "jitter2": ((6,), "float32"),
    }


@pytest.mark.parametrize(("size", "ratio", "hidden"), [(224, 0.9, 176), (112, 0.75, 36), ([64, 96], 0.9, 21), (32, 0.25, 1)])
def test_every_mask_hides_exactly_the_truncated_product(size: int | list[int], ratio: float, hidden: int) -> None:
    c = config(model={"image_size": size}, pretext={"mask_ratio": ratio})
    views, sample = method.views(c), pair()
    masks = np.stack([views(sample, sample_rng(0, p))["mask"] for p in range(400)])
    assert (masks.sum(1) == hidden).all()
    share = hidden / c.model.patches
    assert np.abs(masks.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / 400)  # no patch is favoured


def test_crops_are_cut_where_they_are_drawn_and_reach_all_borders() -> None:
    rows, columns = np.mgrid[0:20, 0:24].astype(np.uint8)
    image = np.stack([rows, columns, rows], axis=-1)
    views = method.views(config(model={"image_size": 16, "patch_size": 8}))
    offsets1, offsets2 = set(), set()
    for position in range(600):
        out = views({"image1": image, "image2": image}, sample_rng(0, position))
        for name, offsets in (("image1", offsets1), ("image2", offsets2)):
            top, left = out[name][0, 0, :2].tolist()
            np.testing.assert_array_equal(out[name], image[top : top + 16, left : left + 16])
            offsets.add((top, left))
    assert offsets1 == offsets2 == {(r, c) for r in range(5) for c in range(9)}


def test_jitter_follows_the_paper_s_law() -> None:
    views, sample = method.views(config(augment={"brightness": 0.4, "contrast": 0.2, "saturation": 0})), pair(224, 224)
    drawn = np.stack([views(sample, sample_rng(0, p))[n] for p in range(400) for n in ("jitter1", "jitter2")])
    for column, strength in enumerate((0.4, 0.2, 0.0)):
        factors = drawn[:, column]
        assert factors.min() >= 1 - strength - 1e-6 and factors.max() <= 1 + strength + 1e-6
        assert abs(factors.mean() - 1) < 0.05 and np.isclose(factors.std(), 2 * strength / np.sqrt(12), rtol=0.1)
    orders, counts = np.unique(drawn[:, 3:], axis=0, return_counts=True)
    assert len(orders) == 6 and counts.min() > 90  # 133 expected


def test_an_image_smaller_than_the_crop_is_a_broken_sample() -> None:
    with pytest.raises(BrokenSampleError, match=r"image1 is 200 x 300 pixels .* smaller than the crop of 224 x 224"):
        method.views(CrocoConfig())(pair(200, 300), sample_rng(0, 0))


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"image_size": 225}}, ["225 / 16 = 14.06", "224, 240"]),
        ({"model": {"image_size": [224, 8]}}, ["8 is no multiple", "16"]),
        ({"model": {"encoder_heads": 7}}, ["encoder_heads 7", "768"]),
        ({"model": {"position": "rope", "decoder_dim": 90, "decoder_heads": 3}}, ["head width divisible by 4", "90 / 3 = 30"]),
        ({"model": {"encoder_dim": 90, "encoder_heads": 3}}, ["width divisible by 4", "90"]),
        ({"pretext": {"mask_ratio": 1.0}}, ["pretext.mask_ratio", "less than 1"]),
        ({"pretext": {"mask_ratio": 0}}, ["pretext.mask_ratio", "greater than 0"]),
        ({"model": {"image_size": 32}, "pretext": {"mask_ratio": 0.2}}, ["int(0.2 * 4) = 0 of the 4 patches", "from 0.25"]),
        ({"pretext": {"mask_ration": 0.5}}, ["pretext.mask_ration", "did you mean 'pretext.mask_ratio'?"]),
        ({"model": {"position": "learned"}}, ["model.position", "'cosine' or 'rope'"]),
        ({"augment": {"brightness": -1}}, ["augment.brightness"]),
        ({"model": {"image_size": "large"}}, ["model.image_size = 'large'"]),
    ],
)
def test_bad_settings_are_named_with_the_arithmetic(sections: dict[str, dict[str, object]], words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**sections)
    message = str(explain(caught.value, CrocoConfig))
    assert all(word in message for word in words), message
