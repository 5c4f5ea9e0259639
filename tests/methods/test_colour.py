"""Colour on the device agrees with Pillow, up to the 8 bits that Pillow rounds to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from sightline.methods.layers.colour import HUE, colour_jitter, gaussian_blur, shift_hue, solarise
from sightline.methods.random import keyed_rng


@pytest.fixture
def picture() -> Image.Image:
    small = keyed_rng("colour").integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC)


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("turns", [-0.1, 0.03, 0.1, 0.5])
def test_hue_moves_as_in_pillow(picture: Image.Image, turns: float) -> None:
    hue, saturation, value = picture.convert("HSV").split()
    steps = int(turns * 255)
    moved = Image.fromarray(((np.array(hue).astype(np.int64) + steps) % 256).astype(np.uint8))
    theirs = tensor(Image.merge("HSV", (moved, saturation, value)).convert("RGB"))
    error = (shift_hue(tensor(picture), torch.tensor([steps / 255])) - theirs).abs()
    assert error.mean() < 1 / 255 and error.max() < 13 / 255  # a step of the 8-bit hue moves a channel by up to 6 / 255


def test_a_whole_turn_and_grey_change_nothing(picture: Image.Image) -> None:
    images = tensor(picture)
    torch.testing.assert_close(shift_hue(images, torch.tensor([1.0])), images, atol=1e-5, rtol=0)
    flat = images.mean(1, keepdim=True).expand_as(images).contiguous()
    torch.testing.assert_close(shift_hue(flat, torch.tensor([0.3])), flat)


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0])
def test_blur_is_that_of_pillow(picture: Image.Image, radius: float) -> None:
    theirs = tensor(picture.filter(ImageFilter.GaussianBlur(radius)))
    error = (gaussian_blur(tensor(picture), torch.tensor([radius]), 6) - theirs).abs()
    assert error.mean() < 1 / 255 and error[..., 8:-8, 8:-8].max() < 4 / 255  # near edges repeated boxes see repeated edges differently


def test_each_image_has_its_own_blur(picture: Image.Image) -> None:
    images = tensor(picture)
    both = gaussian_blur(images.repeat(2, 1, 1, 1), torch.tensor([0.1, 2.0]), 6)
    torch.testing.assert_close(both[:1], images, atol=1e-4, rtol=0)
    torch.testing.assert_close(both[1:], gaussian_blur(images, torch.tensor([2.0]), 6))


def test_solarise_is_that_of_pillow(picture: Image.Image) -> None:
    torch.testing.assert_close(solarise(tensor(picture)), tensor(ImageOps.solarize(picture, 128)))


def test_jitter_with_hue_does_its_operations_in_the_drawn_order(picture: Image.Image) -> None:
    images = tensor(picture).repeat(2, 1, 1, 1)
    factors = torch.tensor([1.2, 0.8, 1.1, 0.07])
    first, last = torch.tensor([HUE, 0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 2.0, HUE])
    out = colour_jitter(images, torch.stack([torch.cat([factors, first]), torch.cat([factors, last])]))
    three = torch.cat([factors[:3], torch.tensor([0.0, 1.0, 2.0])])[None]
    torch.testing.assert_close(out[:1], colour_jitter(shift_hue(images[:1], factors[3:]), three))
    torch.testing.assert_close(out[1:], shift_hue(colour_jitter(images[:1], three), factors[3:]))
