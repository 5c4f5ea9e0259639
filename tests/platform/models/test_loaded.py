"""A notebook gives pictures and clouds in the form it has, and gets features without gradients, or a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_clouds
from made import TOYS, made_run
from PIL import Image

from sightline import load_encoder
from sightline.methods.errors import CallError
from sightline.methods.ops.clouds import fitted
from sightline.platform.data.encoder_input import fit_image
from sightline.platform.models.loaded import LoadedEncoder


@pytest.fixture
def encoder(home: Path) -> LoadedEncoder:
    made_run("first")
    return load_encoder("first")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_every_form_of_a_picture_gives_the_same_features(encoder: LoadedEncoder) -> None:
    height, width = encoder.image_size
    pixels = picture(height, width)
    floats = pixels.astype(np.float64) / 255
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = encoder.module.tokens(chw[None].float() / 255).detach()
    forms: list[Any] = [Image.fromarray(pixels), pixels, pixels.transpose(2, 0, 1), floats, floats.astype(np.float32).transpose(2, 0, 1)]
    forms += [chw, chw.float() / 255, chw[None], torch.from_numpy(pixels), [Image.fromarray(pixels)], [pixels], pixels[None], (chw,)]
    for form in forms:
        tokens = encoder.tokens(form)
        assert not tokens.requires_grad and torch.allclose(tokens, expected, atol=1e-5), type(form)
    two = encoder.pooled([Image.fromarray(pixels), pixels])
    assert torch.allclose(two, expected.mean(dim=1).expand(2, -1), atol=1e-5)
    assert torch.allclose(encoder(pixels), expected, atol=1e-5) and encoder.dim == expected.shape[2] and "run first" in repr(encoder)


def test_a_picture_of_another_size_is_fitted_as_encode_does_and_turned_as_its_exif_says(encoder: LoadedEncoder, tmp_path: Path) -> None:
    pixels = picture(90, 50)
    fit = torch.tensor(fit_image(pixels, encoder.image_size).tolist()).permute(2, 0, 1)[None].float() / 255
    assert torch.allclose(encoder.prepare(pixels), fit) and torch.allclose(encoder.prepare(pixels / 255.0), fit)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    assert torch.allclose(encoder.prepare(Image.open(tmp_path / "turned.png")), fit)
    grey = Image.fromarray(pixels[..., 0])
    assert torch.allclose(encoder.prepare(grey), encoder.prepare(pixels[..., 0]))


def test_gradients_come_where_they_are_wanted(encoder: LoadedEncoder) -> None:
    given = torch.rand(1, 3, *encoder.image_size, requires_grad=True)
    assert not encoder.pooled(given).requires_grad
    encoder.pooled(given, gradients=True).sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.rand(1, 3, 40, 50), "the tensor's pictures have 40 x 50 pixels"),
        (np.zeros((8, 8, 4), np.uint8), r"the shape \(8, 8, 4\) is that of no picture"),
        (np.zeros((3, 8, 3), np.uint8), r"the shape \(3, 8, 3\) can be read in two ways"),
        (np.full((8, 8, 3), 200.0), r"floats of a picture lie in \[0, 1\]; these go from 200 to 200"),
        (np.full((8, 8, 3), -1.5), "go from -1.5 to -1.5"),
        (np.zeros((8, 8, 3), np.uint16), "pictures of uint16"),
        (Image.new("I;16", (8, 8)), "more than 8 bits"),
        ("photo.jpg", "str is no picture"),
        ([], "an empty list of pictures"),
    ],
)
def test_what_cannot_be_taken_is_said_in_a_sentence(encoder: LoadedEncoder, given: Any, words: str) -> None:
    with pytest.raises(CallError, match=words):
        encoder.tokens(given)


def test_an_encoder_knows_no_classes_and_has_no_methods_of_clouds(encoder: LoadedEncoder) -> None:
    with pytest.raises(CallError, match="knows no classes"):
        _ = encoder.class_names
    with pytest.raises(CallError, match="has no at_points"):
        encoder.at_points(picture(8, 8))
    assert not hasattr(encoder, "nothing_of_the_kind")


def test_clouds_are_drawn_centred_and_scaled_as_in_training(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOYS, "i2p_mae", toy_clouds.SETTINGS)
    made_run("cloud", "i2p_mae", **{"pretext.mask": "random", "loss.features": 0})
    encoder = load_encoder("cloud")
    cloud = np.random.default_rng(0).normal(5, 3, size=(500, 3))
    expected = torch.from_numpy(fitted(cloud, encoder.points, encoder.least))[None]
    assert torch.equal(encoder.prepare(cloud), expected) and torch.equal(encoder.prepare([cloud]), expected)
    assert torch.equal(encoder.prepare(expected), expected)
    assert encoder.pooled(cloud).shape == (1, encoder.dim) and not encoder.tokens(cloud).requires_grad
    for given, words in (
        (cloud[:, :2], "a cloud is points x 3"),
        (expected[:, :9], "the tensor's clouds have 9 points"),
        ("a", "no cloud"),
    ):
        with pytest.raises(CallError, match=words):
            encoder.tokens(given)
    with pytest.raises(CallError, match="this cloud cannot be used: "):
        encoder.tokens(np.zeros((9, 3)))
