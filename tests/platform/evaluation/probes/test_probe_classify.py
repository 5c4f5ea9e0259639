"""k-NN and the linear probe find classes where features hold them; what belongs together is resampled together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_probes import SIDE, Blind, PatchColour, blind_controls, probe, rows_by_name

from sightline.methods.errors import SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.findings import brief
from sightline.platform.evaluation.probes.knn import vote
from sightline.platform.evaluation.probes.linear import logistic
from sightline.platform.evaluation.results import ProbeResult

COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])
Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Images of one noisy colour, which is their class."""

    def make(name: str, rows: int, *, classes: int = 3, labels: bool = True, names: str = "rgb", scene: str = "class") -> Dataset:
        rng = keyed_rng("colours", name)
        with ShardWriter(tmp_path / name, "images", classes=list(names)) as writer:
            for index in range(rows):
                kind = index % classes
                noise = COLOURS[kind] + rng.normal(0, 50, 3) + rng.normal(0, 20, (SIDE, SIDE, 3))
                row = {"id": f"{name}{index}", "image": encode_image(noise.clip(0, 255).astype(np.uint8))}
                row["scene"] = {"class": names[kind], "video": f"{name}-{index // 6}", "none": None}[scene]
                writer.write(row | ({"label": kind} if labels else {}))
        return Dataset.open(tmp_path / name)

    return make


@pytest.mark.parametrize("name", ["knn", "linear"])
@pytest.mark.slow
def test_features_that_hold_the_class_beat_random_weights_but_not_the_pixels_that_show_it(make: Make, name: str) -> None:
    result = probe(name, PatchColour(), make("train", 60), make("test", 45), blind_controls())
    rows = {row: found["metrics"]["accuracy"]["value"] for row, found in rows_by_name(result).items()}
    assert rows["trained"] > 0.9 and rows["raw pixels"] > 0.9 and rows["mean of 3 random"] == pytest.approx(1 / 3)
    verdicts = {d["name"]: d["metrics"]["accuracy"]["verdict"] for d in result["differences"]}
    assert verdicts["trained minus mean of 3 random"] == "better" and verdicts["trained minus raw pixels"] == "no difference shown"
    assert result["units"] == {"kind": "image", "count": 45} and "45 images" in result["covers"]
    assert "better than random weights" in result["finding"] and "for raw pixels" in result["finding"]
    json.dumps(result, allow_nan=False)


def test_images_of_a_video_are_resampled_together_and_folders_of_a_class_are_not(make: Make) -> None:
    train = make("train", 60, scene="video")
    assert probe("knn", PatchColour(), train, make("test", 48, scene="video"))["units"] == {"kind": "scene", "count": 8}
    assert probe("knn", PatchColour(), train, make("more", 20, scene="none"))["units"]["kind"] == "image"


def test_guessing_stands_beside_the_encoder(make: Make) -> None:
    """Always the class that is most frequent in training, the first of equals: 16 of 47 here."""
    train = make("train", 30)
    result = ProbeResult.from_json(probe("knn", PatchColour(), train, make("test", 47)))
    assert result.guessing == pytest.approx(16 / 47) and brief(result).endswith("guessing 34.0%)")


@pytest.mark.slow
def test_encoders_of_any_size_and_patch_are_compared(make: Make) -> None:
    result = probe("linear", {"a": PatchColour(), "b": PatchColour(8, 32)}, make("train", 30), make("test", 20))
    assert ["a", "b"] in [difference["of"] for difference in result["differences"]]
    assert [row["name"] for row in result["rows"] if row["kind"] == "baseline"] == ["raw pixels"]


def test_an_image_on_both_sides_is_not_trained_on(make: Make) -> None:
    train = make("train", 30)
    assert "0 training images" in probe("knn", PatchColour(), train, train)["skipped"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": False}, "no label column"),
        ({"classes": 1}, "all of one class"),
        ({"names": "rgx"}, "other classes \\(b, x\\)"),
        ({"rows": 5}, "5 training images"),
    ],
)
def test_data_that_cannot_be_classified_skip_the_probe_with_the_reason(make: Make, arguments: dict, reason: str) -> None:
    train = make("train", **({"rows": 30} | arguments))
    for name in ("knn", "linear"):
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(probe(name, PatchColour(), train, make(f"test-{name}", 12))["skipped"])


def test_images_smaller_than_a_patch_are_counted_and_left_out(make: Make) -> None:
    result = probe("knn", PatchColour(128, 128), make("train", 30), make("test", 12))
    assert "only 0 training and 0 test images" in result["skipped"]


def test_votes_are_weighted_by_cosine_and_the_mean_is_taken_off() -> None:
    train = torch.tensor([[10.0, 11.0], [11.0, 10.0], [9.0, 9.5], [8.0, 9.0]], dtype=torch.float64)
    found = vote(train, torch.tensor([0, 1, 2, 2]), torch.tensor([[10.0, 11.0], [8.5, 9.4]], dtype=torch.float64), 4, 0.07)
    assert found.tolist() == [0, 2]
    # Without the mean taken off every cosine is 0.99 and more, and the class with two images wins everywhere.


def test_the_linear_head_is_the_minimum_whatever_the_scale_and_correlation_of_features() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(300, 6, generator=generator, dtype=torch.float64)
    x = torch.cat(
        [base, base[:, :3] * 100 + 0.01 * torch.randn(300, 3, generator=generator, dtype=torch.float64), torch.ones(300, 1)], dim=1
    )
    labels = (base[:, :3] + torch.randn(300, 3, generator=generator, dtype=torch.float64)).argmax(dim=1)
    head = logistic(x, labels, 3, 0.01, 1e-9)
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-9)
    z, weight = (x - mean) / scale, (head.weight * scale[:, None]).requires_grad_()
    bias = (head.bias + mean @ head.weight).requires_grad_()
    (torch.nn.functional.cross_entropy(z @ weight + bias, labels) + 0.005 * weight.square().sum()).backward()
    assert weight.grad is not None and bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-7 and float(bias.grad.abs().max()) < 1e-7
    with pytest.raises(SightlineError, match="did not converge"):
        logistic(x, labels, 3, 0.01, 1e-30)


@pytest.mark.slow
def test_features_without_any_class_are_at_chance(make: Make) -> None:
    result = probe("linear", Blind(4), make("train", 30), make("test", 30))
    assert rows_by_name(result)["trained"]["metrics"]["accuracy"]["value"] == pytest.approx(1 / 3)
