"""The segmentation probe reads classes from patches and is measured on pixels."""

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
from sightline.platform.data.images import encode_image, encode_segmentation
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.probes.segmentation import class_shares, class_sums, evaluated_size, upsampled_classes

COLOURS = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [128, 128, 128]])
IGNORED = 9
Make = Callable[..., Dataset]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Mosaics of four colours, each a class but the last, which is ignored; cells of 16 px, or halves of the image."""

    def make(name: str, rows: int, *, halves: bool = False, ignored: bool = False, names: str = "rgb", scenes: int = 6) -> Dataset:
        rng = keyed_rng("mosaics", name)
        with ShardWriter(tmp_path / name, "images", classes=list(names), ignore_index=IGNORED) as writer:
            for index in range(rows):
                cells = rng.integers(0, 4, (4, 4))
                cells = np.where(np.arange(4)[None] < 2, 0, 1) + 0 * cells if halves else cells
                kinds = np.kron(cells, np.ones((PATCH, PATCH), int))
                image = COLOURS[kinds] + rng.normal(0, 10, (SIDE, SIDE, 3))
                mask = np.where((kinds == 3) | ignored, IGNORED, kinds).astype(np.uint8)
                encoded = encode_image(image.clip(0, 255).astype(np.uint8), quality=95)
                scene = f"{name}{index % scenes}" if scenes > 1 else "one drive"
                writer.write({"id": f"{name}{index:03d}", "scene": scene, "image": encoded, "segmentation": encode_segmentation(mask)})
        return Dataset.open(tmp_path / name)

    return make


def test_features_that_hold_the_class_beat_random_weights_and_position(make: Make) -> None:
    result = probe("segmentation", PatchColour(), make("train", 30), make("test", 18), blind_controls())
    rows = {name: row["metrics"] for name, row in rows_by_name(result).items()}
    assert rows["trained"]["miou"]["value"] > 0.75 > 0.5 > rows["mean of 3 random"]["miou"]["value"]
    assert rows["trained"]["miou"]["value"] == pytest.approx(np.mean([rows["trained"][f"iou_{name}"]["value"] for name in "rgb"]))
    assert rows["trained"]["pixel_accuracy"]["value"] > 0.85 and rows["raw pixels"]["miou"]["value"] > 0.7
    assert rows["position"]["pixel_accuracy"]["value"] == pytest.approx(rows["mean of 3 random"]["pixel_accuracy"]["value"], abs=0.05)
    assert {d["metrics"]["miou"]["verdict"] for d in result["differences"] if "position" in d["name"]} == {"better"}
    assert result["metrics"]["iou_r"]["group"] == "IoU" and result["counts"]["classes"] == 3
    json.dumps(result, allow_nan=False)


def test_where_position_tells_the_class_blind_features_find_it_too(make: Make) -> None:
    result = probe("segmentation", Blind(1), make("train", 12, halves=True), make("test", 6, halves=True))
    rows = rows_by_name(result)
    assert rows["position"]["metrics"]["miou"]["value"] == pytest.approx(1, abs=0.01)
    assert rows["trained"]["metrics"]["miou"]["value"] > 0.75  # eight random numbers for sixteen places


def test_one_drive_on_both_sides_is_said_and_its_blocks_are_resampled(make: Make) -> None:
    result = probe("segmentation", PatchColour(), make("train", 30, scenes=1), make("test", 20, scenes=1))
    assert result["units"] == {"kind": "block of rows", "count": 10}
    assert "Images of one drive are in the training and in the test data without times" in result["covers"]


def test_encoders_of_other_grids_are_compared_on_the_same_pixels(make: Make) -> None:
    result = probe("segmentation", {"a": PatchColour(), "b": PatchColour(8, 64)}, make("train", 15), make("test", 8))
    assert ["a", "b"] in [difference["of"] for difference in result["differences"]]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [({"ignored": True}, "hold 0 classes"), ({"names": "rgz"}, "other classes"), ({"rows": 4}, "4 training images")],
)
def test_masks_that_cannot_be_learnt_skip_the_probe_with_the_reason(make: Make, arguments: dict, reason: str) -> None:
    result = probe("segmentation", PatchColour(), make("train", **({"rows": 15} | arguments)), make("test", 8))
    assert reason in result["skipped"] and "rows" not in result


def test_test_masks_that_only_ignore_skip_the_probe(make: Make) -> None:
    result = probe("segmentation", PatchColour(), make("train", 15), make("test", 8, ignored=True))
    assert "no test pixel has a label" in result["skipped"]


def test_a_mask_of_another_size_than_its_image_is_broken(tmp_path: Path, make: Make) -> None:
    image, masks = (
        encode_image(np.zeros((SIDE, SIDE, 3), np.uint8)),
        [np.zeros((SIDE, SIDE // 2), np.uint8), np.zeros((SIDE, SIDE), np.uint8)],
    )
    with ShardWriter(tmp_path / "odd", "images", classes=list("rgb"), ignore_index=IGNORED) as writer:
        for index in range(3):
            data = encode_image(np.full((SIDE, SIDE, 3), 99 * index, np.uint8)) if index else image
            writer.write({"id": str(index), "image": data, "segmentation": encode_segmentation(masks[min(index, 1)])})
    result = probe("segmentation", PatchColour(), make("train", 15), Dataset.open(tmp_path / "odd"))
    assert result["counts"]["broken_images"] == 1 and result["counts"]["test_images"] == 2


def test_shares_of_a_patch_leave_out_what_has_no_label() -> None:
    shares, labelled = class_shares(np.array([[0, 0, 1, 2], [2, 2, 2, 2]]), 2)  # index 2 is no label
    np.testing.assert_allclose(shares, [[2 / 3, 1 / 3], [0, 0]])
    np.testing.assert_allclose(labelled, [0.75, 0])


def test_pixels_are_counted_by_class_and_ignored_ones_are_not() -> None:
    sums = class_sums(np.array([[[0, 1], [1, 1]]]), np.array([[[0, 0], [1, 2]]]), 2)
    assert sums.tolist() == [[1, 1, 2, 1, 1, 2]]  # right, true, predicted, each by class


def test_predictions_are_upsampled_to_the_evaluated_pixels() -> None:
    shares = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # one row of two patches
    assert upsampled_classes(shares, (1, 2), (2, 6)).tolist() == [[[0, 0, 0, 1, 1, 1]] * 2]
    assert evaluated_size((112, 112), 224) == (224, 224) and evaluated_size((112, 224), 224) == (224, 448)
