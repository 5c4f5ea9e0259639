"""The depth probe finds depth where features hold it, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_probes import PATCH, SIDE, Blind, PatchColour, blind_controls, probe, rows_by_name

from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_depth, encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.image_crops import centre_box, fit_image, patch_depth
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.probes.context import EvaluatedModel
from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
from sightline.platform.evaluation.probes.image_frames import list_frames
from sightline.platform.evaluation.probes.known_rows import KnownRows
from sightline.platform.evaluation.probes.ridge import Moments, ridge
from sightline.platform.evaluation.probes.run import run_probes
from sightline.platform.evaluation.result_table import verdict_of

Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Data sets of scenes in which grey means depth: the nearer, the brighter."""

    def make(name: str, scenes: int, frames: int = 4, *, shuffled: bool = False, depth: bool = True, video: float | None = None) -> Dataset:
        rng = keyed_rng("depth probe test", name)
        true = [1 + 4 * rng.random((SIDE // PATCH, SIDE // PATCH)) * rng.uniform(0.5, 1) for _ in range(scenes * frames * 2)]
        stored = [true[i] for i in rng.permutation(len(true))] if shuffled else true
        big = np.ones((PATCH, PATCH))
        with ShardWriter(tmp_path / name, "pairs") as writer:
            for index in range(scenes * frames):
                row: dict[str, object] = {"id": f"{name}{index}", "scene": f"{name}-{index // frames}" if video is None else "one video"}
                row["time"] = None if video is None else video + index
                for side in (0, 1):
                    grey = 255 / np.kron(true[2 * index + side], big) + rng.normal(0, 4, (SIDE, SIDE))
                    image = np.repeat(grey.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)
                    row[f"image{side + 1}"] = encode_image(image, quality=95)
                    if depth:
                        row[f"depth{side + 1}"] = encode_depth(np.kron(stored[2 * index + side], big))
                writer.write(row)
        return Dataset.open(tmp_path / name)

    return make


def test_features_that_hold_depth_beat_random_weights_and_the_interval_says_so(make: Make) -> None:
    result = probe("depth", PatchColour(), make("train", 12), make("test", 8), blind_controls())
    rows = rows_by_name(result)
    assert rows["trained"]["metrics"]["delta1"]["value"] > 0.95
    assert rows["trained"]["metrics"]["rmse"]["value"] < 0.3 < rows["mean of 3 random"]["metrics"]["rmse"]["value"]
    difference = result["differences"][0]
    assert difference["name"] == "trained minus mean of 3 random"
    assert difference["metrics"]["delta1"]["low"] > 0.1 and difference["metrics"]["absrel"]["high"] < 0
    assert result["units"] == {"kind": "scene", "count": 8} and "8 scenes" in result["covers"]
    assert "better than random weights" in result["finding"]
    json.dumps(result, allow_nan=False)


def test_better_than_random_weights_is_said_only_beyond_their_own_spread() -> None:
    sure = Interval(0.05, 0.03, 0.07, 20)
    assert verdict_of(sure, 0.70, [0.64, 0.65, 0.66], "higher") == "better"
    assert verdict_of(sure, 0.67, [0.60, 0.63, 0.66], "higher") == "no difference shown"
    assert verdict_of(sure, 0.70, [0.64, 0.65, 0.66], "lower") == "worse"
    assert verdict_of(Interval(0.05, -0.01, 0.07, 20), 0.70, [], "higher") == "no difference shown"


def test_features_without_depth_are_no_better_than_the_place_in_the_image(make: Make) -> None:
    result = probe("depth", Blind(9), make("train", 8), make("test", 6), blind_controls())
    rows, difference = rows_by_name(result), result["differences"][0]["metrics"]["rmse"]
    assert rows["trained"]["metrics"]["rmse"]["value"] == pytest.approx(rows["position"]["metrics"]["rmse"]["value"], rel=0.05)
    assert difference["low"] <= 0 <= difference["high"] or abs(difference["value"]) < 0.02


def test_a_shuffled_target_destroys_the_advantage(make: Make) -> None:
    result = probe("depth", PatchColour(), make("train", 12, shuffled=True), make("test", 8), blind_controls())
    assert rows_by_name(result)["trained"]["metrics"]["delta1"]["value"] < 0.7
    assert abs(result["differences"][0]["metrics"]["delta1"]["value"]) < 0.1


def test_the_same_input_gives_the_same_numbers_and_leaves_the_encoder_as_it_was(make: Make) -> None:
    train, test, encoder = make("train", 6), make("test", 5), PatchColour().train()
    first, second = (probe("depth", encoder, train, test, blind_controls()) for _ in range(2))
    for result in (first, second):
        result.pop("seconds")
    assert first == second and encoder.training


def test_data_without_depth_skip_the_probe_with_a_reason(make: Make) -> None:
    result = probe("depth", PatchColour(), make("train", 6), make("test", 5, depth=False))
    assert result["skipped"].startswith("probe depth skipped: no depth1, depth2 column") and "rows" not in result


def test_neighbouring_frames_never_stand_on_both_sides(make: Make) -> None:
    train, test = make("train", 10, video=0.0), make("test", 3, video=30.0)  # training frames of 0-39 s, test frames of 30-41 s
    result = probe("depth", PatchColour(), train, test, blind_controls())
    assert result["counts"]["train_images"] == 2 * 29  # 0-28 s: 29 s is less than two seconds before 30 s
    assert result["counts"]["left_out_near_test"] == 2 * 11
    assert result["units"]["kind"] == "time block" and "nothing about other scenes" in result["covers"]


def test_one_video_without_times_is_refused_because_neighbours_cannot_be_told_apart(make: Make) -> None:
    train = make("train", 6)
    result = probe("depth", PatchColour(), train, train)
    assert "its frames have no time" in result["skipped"]


def test_an_image_stored_in_two_pairs_counts_once(tmp_path: Path) -> None:
    image, depth = encode_image(np.zeros((SIDE, SIDE, 3), np.uint8)), encode_depth(np.ones((SIDE, SIDE)))
    with ShardWriter(tmp_path / "twice", "pairs") as writer:
        for index in range(3):
            writer.write({"id": str(index), "image1": image, "image2": image, "depth1": depth, "depth2": depth})
    assert len(list_frames(Dataset.open(tmp_path / "twice"), "depth", 100)) == 1


def test_encoders_of_different_grids_stand_beside_each_other_without_a_difference(make: Make) -> None:
    encoders = {"a": PatchColour(), "b": PatchColour(8, 32), "c": PatchColour()}
    result = probe("depth", encoders, make("train", 6), make("test", 5))
    assert {"raw pixels, 4 x 4 patches of 16 px", "position, 4 x 4 patches of 8 px"} <= rows_by_name(result).keys()
    compared = [difference["of"] for difference in result["differences"]]
    assert ["a", "c"] in compared and ["a", "b"] not in compared and ["b", "raw pixels, 4 x 4 patches of 8 px"] in compared


def test_single_images_with_depth_are_probed_too(tmp_path: Path) -> None:
    rng = keyed_rng("single images")
    for name, count in (("train", 24), ("test", 8)):
        with ShardWriter(tmp_path / name, "images") as writer:
            for index in range(count):
                true = np.kron(1 + 4 * rng.random((4, 4)), np.ones((PATCH, PATCH)))
                grey = np.repeat((255 / true).round().astype(np.uint8)[..., None], 3, axis=2)
                row = {"id": str(index), "scene": f"{name}{index}", "image": encode_image(grey, quality=95), "depth": encode_depth(true)}
                writer.write(row)
    result = probe("depth", PatchColour(), Dataset.open(tmp_path / "train"), Dataset.open(tmp_path / "test"))
    rows = rows_by_name(result)
    assert rows["trained"]["metrics"]["delta1"]["value"] > 0.95
    assert rows["raw pixels"]["baseline"] == "pixels" and rows["raw pixels"]["metrics"]["delta1"]["value"] > 0.6


def test_depth_and_image_are_cropped_alike() -> None:
    depth = np.full((48, 80), 2.0, np.float32)
    depth[:, :16], depth[:16, 16:32] = 9.0, 0.0  # left margin is cropped off; the first patch is unknown
    image = np.repeat((depth * 20).astype(np.uint8)[..., None], 3, axis=2)
    assert centre_box(48, 80, (48, 48)) == (16, 0, 64, 48)
    patches = patch_depth(depth, (48, 48), 16, 0.5)
    assert np.isnan(patches[0, 0]) and (patches.reshape(-1)[1:] == 2.0).all()
    assert fit_image(image, (48, 48)).max() == 40


def test_patch_depth_is_a_median_of_known_depths_never_a_blend() -> None:
    depth = np.full((16, 16), 1.0, np.float32)
    depth[:, 9:] = 10.0
    depth[:4] = 0.0
    assert patch_depth(depth, (16, 16), 16, 0.5).item() == 1.0
    assert np.isnan(patch_depth(depth, (16, 16), 16, 0.9).item())


def test_ridge_from_sums_is_ridge_on_the_samples() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.1, 2.0, 1.0]) + 4
    x[:, 4] = 7.0  # a constant feature
    y = (x[:, 0] - 2 * x[:, 2] + torch.randn(200, generator=generator, dtype=torch.float64))[:, None]
    head = ridge(Moments.of(x[:80], y[:80]) + Moments.of(x[80:], y[80:]), 0.1)
    z = (x[:, :4] - x[:, :4].mean(0)) / x[:, :4].std(0, correction=0)
    weight = torch.linalg.solve(z.T @ z / 200 + 0.1 * torch.eye(4, dtype=torch.float64), z.T @ (y - y.mean()) / 200)
    assert torch.allclose(head(x), z @ weight + y.mean())
    assert head.mean_squared_error(Moments.of(x, y)) == pytest.approx(float(((head(x) - y) ** 2).mean()))
    assert head.weight[4] == 0


def test_random_weights_and_pixels_are_measured_once_for_all_runs(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run of the same settings measures its own encoder alone, and finds the same bits."""
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path))
    seen: list[str] = []
    pairs = [DatasetPair(make("train", 5), make("test", 4))]

    class Watched(Blind):
        def tokens(self, images: torch.Tensor) -> torch.Tensor:
            seen.append("random")
            return super().tokens(images)

    def run(network: dict[str, str] | None) -> dict[str, object]:
        seen.clear()
        evaluated = EvaluatedModel("trained", PatchColour(), tuple(Watched(seed) for seed in (1, 2, 3)))
        outcomes = run_probes(["depth", "linear"], [evaluated], pairs, network=network)
        return {name: {**outcome.to_json(), "seconds": 0} for name, outcome in outcomes.items()}

    plain = run(None)
    assert seen and not (tmp_path / "controls").exists()
    assert run({"settings": "a"}) == plain and seen
    assert run({"settings": "a"}) == plain and not seen
    assert run({"settings": "b"}) == plain and seen  # of other settings nothing is known
    for file in (tmp_path / "controls").iterdir():
        file.write_bytes(b"damaged")
    assert run({"settings": "a"}) == plain and seen
    monkeypatch.setattr(KnownRows, "join", lambda self, found: None)  # of other images
    assert run({"settings": "a"}) == plain and seen
