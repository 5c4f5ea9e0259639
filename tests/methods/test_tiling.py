"""Prediction in tiles: exact where the network is, any size, and what a seam is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sightline.methods.ops.tiling import (
    EVEN_TILES,
    FLOW_TILES,
    STEREO_TILES,
    Passes,
    TileWeight,
    class_scores,
    enlarged_size,
    largest_class,
    predict_fitted,
    predict_in_tiles,
    tile_starts,
)

TILE = (16, 24)


def image(height: int, width: int) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * width))


def copied(*images: Tensor) -> Tensor:
    """The first two channels of image 1, and the third as confidence."""
    return images[0]


@pytest.mark.parametrize(("size", "overlap"), [((16, 24), 0.9), ((17, 24), 0.5), ((16, 25), 0.99), ((33, 80), 0.0), ((31, 47), 0.7)])
def test_a_network_without_context_gives_the_same_in_tiles_as_at_once(size: tuple[int, int], overlap: float) -> None:
    one = image(*size)
    for weight in (STEREO_TILES, TileWeight("expbeta", 3.0), EVEN_TILES):
        done = predict_in_tiles(copied, [one, one], TILE, ("x", "y"), overlap, weight)
        assert torch.allclose(done.values, one[:, :2], atol=1e-6)
        assert done.confidence is not None and torch.allclose(done.confidence, one[:, 2], atol=1e-6)


def test_tiles_cover_the_image_and_share_what_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        tile, overlap = int(rng.integers(1, 60)), float(rng.uniform(0, 0.95))
        length = tile + int(rng.integers(0, 200))
        starts = tile_starts(length, tile, overlap)
        steps = np.diff(starts)
        assert starts[0] == 0 and starts[-1] == length - tile
        assert ((steps <= (1 - overlap) * tile + 1).all() and len(set(starts)) == len(starts)) or overlap * tile > tile - 1.5


def test_the_number_of_tiles_is_counted_in_floating_point() -> None:
    assert len(tile_starts(704, 320, 0.9)) == 14 and tile_starts(720, 704, 0.9) == [0, 16]


@pytest.mark.parametrize("size", [(15, 24), (16, 7), (3, 5), (10, 60)])
def test_an_image_smaller_than_the_tile_is_padded_exactly(size: tuple[int, int]) -> None:
    one = image(*size)
    done = predict_in_tiles(copied, [one, one], TILE, ("x", "y"), 0.5, STEREO_TILES, small="pad")
    assert done.confidence is not None
    assert torch.allclose(done.values, one[:, :2], atol=1e-6) and torch.allclose(done.confidence, one[:, 2], atol=1e-6)


def test_lengths_are_scaled_back_with_an_image_that_was_enlarged() -> None:
    """A shift of 6 pixels in the enlarged image is one of 6 / factor in the image; a depth stays."""
    seen: list[tuple[int, ...]] = []

    def constant(one: Tensor) -> Tensor:
        seen.append(tuple(one.shape[2:]))
        return torch.full((len(one), 4, *one.shape[2:]), 6.0)

    done = predict_in_tiles(constant, [image(10, 12)], TILE, ("x", "y", ""), 0.5, FLOW_TILES)
    assert enlarged_size((10, 12), TILE) == (20, 24) and set(seen) == {TILE}
    assert torch.allclose(done.values[0, :, 0, 0], torch.tensor([3.0, 3.0, 6.0]), atol=1e-5)
    assert done.confidence is not None and done.confidence.shape == (1, 10, 12)


def test_the_enlarged_image_holds_a_tile_and_the_authors_slip_is_behind_a_switch() -> None:
    assert enlarged_size((36, 24), (48, 32)) == (48, 32)
    assert enlarged_size((36, 24), (48, 32), official=True) == (72, 48)
    with pytest.raises(ValueError, match="smaller than a tile"):
        enlarged_size((24, 100), (48, 32), official=True)
    assert enlarged_size((24, 100), (48, 32)) == (48, 200)
    for height in range(1, 40):
        for width in range(1, 40):
            new = enlarged_size((height, width), (32, 32))
            assert new[0] >= 32 and new[1] >= 32


def test_a_large_expected_error_does_not_make_a_weight_vanish() -> None:
    """exp(-3 * 60) is 0 in float32: the authors' sum is then 0 / 1e-16."""

    def sure_of_nothing(one: Tensor) -> Tensor:
        return torch.cat([torch.full_like(one[:, :1], 7.0), torch.full_like(one[:, :1], 60.0)], dim=1)

    weight = TileWeight("expbeta", 3.0)
    assert torch.allclose(predict_in_tiles(sure_of_nothing, [image(20, 30)], TILE, ("x",), 0.5, weight).values, torch.tensor(7.0))
    assert float(predict_in_tiles(sure_of_nothing, [image(20, 30)], TILE, ("x",), 0.5, weight, official=True).values.max()) == 0


def errs_at_its_border(*images: Tensor) -> Tensor:
    """Truth 0; the error grows towards a tile's left and right border, with another sign at each, and a confidence that knows it."""
    b, _, h, w = images[0].shape
    x = torch.linspace(-1, 1, w).expand(b, 1, h, w)
    return torch.cat([x.sign() * x.abs() ** 8, 4 * x.abs() ** 8 - 2], dim=1)


def test_seams_are_smaller_by_place_and_smallest_by_confidence() -> None:
    """The largest step between neighbouring columns, where several tiles lie: 2.0 where tiles stand side by side."""
    field = image(16, 240)
    steps = {}
    for name, overlap, weight in (
        ("side by side", 0.0, EVEN_TILES),
        ("mean", 0.7, TileWeight("expbeta", 0.0)),
        ("by place", 0.7, EVEN_TILES),
        ("by confidence", 0.7, STEREO_TILES),
    ):
        values = predict_in_tiles(errs_at_its_border, [field], TILE, ("x",), overlap, weight).values[..., 24:-24]
        steps[name] = float(values.diff(dim=3).abs().max())
    measured = {"side by side": 2.0, "mean": 0.259, "by place": 0.0246, "by confidence": 0.0132}
    assert steps == {name: pytest.approx(step, rel=0.01) for name, step in measured.items()}


def test_what_cannot_be_tiled_is_said() -> None:
    one = image(20, 30)
    with pytest.raises(ValueError, match="no confidence"):
        predict_in_tiles(lambda x: x[:, :1], [one], TILE, ("x",), 0.5, STEREO_TILES)
    with pytest.raises(ValueError, match="1 channels of its size are needed"):
        predict_in_tiles(lambda x: x[:, :, :4], [one], TILE, ("x",), 0.5)
    with pytest.raises(ValueError, match="differ in shape"):
        predict_in_tiles(copied, [one, image(20, 31)], TILE, ("x", "y"), 0.5)
    with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
        tile_starts(100, 10, 1.0)
    with pytest.raises(ValueError, match="no weighting"):
        TileWeight.parse("conf_exp_3")


@pytest.mark.parametrize("text", ["conf_expsigmoid_15_3", "conf_expsigmoid_10_5", "conf_expbeta3", "conf_expbeta2.5", "even"])
def test_weightings_are_written_as_they_are_read(text: str) -> None:
    assert str(TileWeight.parse(text)) == text


def test_soft_tiles_leave_no_step_where_the_confidence_says_nothing() -> None:
    def by_place(*images: Tensor) -> Tensor:
        """Another value in each tile, the same confidence everywhere."""
        mean = images[0].mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, *TILE)
        return torch.cat([mean, torch.zeros_like(mean)], dim=1)

    one = torch.linspace(0, 1, 60).expand(1, 3, 16, 60)
    steps = []
    for soft in (False, True):
        values = predict_in_tiles(by_place, [one], TILE, ("x",), 0.5, STEREO_TILES, soft=soft).values
        steps.append(float(values[0, 0, 8].diff().abs().max()))
    assert steps[1] < steps[0] / 3
    assert torch.allclose(
        predict_in_tiles(copied, [one, one], TILE, ("x", "y"), 0.5, STEREO_TILES, soft=True).values, one[:, :2], atol=1e-6
    )


def test_scores_of_several_passes_are_the_mean_of_the_probabilities_of_each() -> None:
    def predict(images: Tensor) -> Tensor:  # sees where it is from the left, so that a mirrored image is another one
        return torch.stack([images[:, 0] * 4, images[:, 1] * 4 + torch.linspace(0, 2, images.shape[3])], dim=1)

    images = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    one = class_scores(predict, images, (8, 8), 2, Passes(), 0.5)
    assert torch.equal(one, predict_fitted(predict, images, (8, 8), ("", ""), 0.5).values)
    mirrored = class_scores(predict, images.flip(3), (8, 8), 2, Passes(), 0.5).flip(3)
    both = class_scores(predict, images, (8, 8), 2, Passes(flip=True), 0.5)
    assert torch.allclose(both, (one.softmax(1) + mirrored.softmax(1)) / 2, atol=1e-6)
    assert not torch.allclose(one.softmax(1), mirrored.softmax(1), atol=1e-2)
    small = class_scores(predict, images, (8, 8), 2, Passes(scales=(0.5, 1.0)), 0.5)
    assert small.shape == one.shape and torch.allclose(small.sum(dim=1), torch.ones(1, 8, 12))


def test_the_largest_class_is_that_of_the_enlarged_scores_whatever_is_taken_at_once() -> None:
    scores = torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(0))
    whole = interpolate(scores, size=(11, 9), mode="bilinear", align_corners=False).argmax(dim=1)
    for at_once in (1, 3, 8):
        assert torch.equal(largest_class(scores, (11, 9), at_once), whole)


@pytest.mark.parametrize(("given", "said"), [({"scales": ()}, "scales"), ({"scales": (0.0,)}, "scales 0"), ({"overlap": 1.0}, "overlap")])
def test_passes_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Passes(**given)
