"""Scores of fine-tuned models: counted as by hand, and the whole path on labelled images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score, recall_score

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import SightlineError
from sightline.methods.ops.tiling import Passes
from sightline.methods.random import keyed_rng, sample_rng
from sightline.platform.data.clouds import encode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.paired import Measured, compare, unlike
from sightline.platform.evaluation.results import TRAINED, Confusion, MethodResult
from sightline.platform.evaluation.test_metrics import IGNORED, METRICS, class_accuracy, class_iou, confusion, hits, measure_test_metrics
from sightline.platform.evaluation.verdict import verdict_of_run
from sightline.platform.reports.evaluation import method_section

ENCODER = {
    "method": "croco",
    "model": {"image_size": 32, "patch_size": 8, "encoder_dim": 16, "encoder_depth": 1, "encoder_heads": 2, "decoder_dim": 16}
    | {"decoder_depth": 1, "decoder_heads": 2, "position": "rope"},
}


def test_hits_count_the_best_and_the_best_five() -> None:
    logits = torch.eye(8)[:3] * torch.tensor([3.0, 2.0, 1.0])[:, None]
    logits += torch.linspace(0.1, 0.0, 8)  # ties broken: low classes come next
    assert hits(logits, torch.tensor([0, 0, 7])).tolist() == [[1, 1, 1], [1, 0, 1], [1, 0, 0]]


def test_confusion_and_iou_are_those_counted_by_hand() -> None:
    mask = torch.tensor([[[0, 0, 1], [1, IGNORED, 1]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 0]]])
    matrix = confusion(predicted, mask, 3)
    assert matrix.tolist() == [[[1, 1, 0], [1, 2, 0], [0, 0, 0]]]
    iou = class_iou(matrix[0].numpy())
    assert iou[:2].tolist() == [1 / 3, 2 / 4]
    assert np.isnan(iou[2])  # a class without a true pixel does not count


def test_confusion_iou_and_accuracy_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    mask, predicted = rng.choice([0, 1, 2, 3, IGNORED], (3, 9, 7)), rng.integers(0, 4, (3, 9, 7))
    matrix = confusion(torch.from_numpy(predicted), torch.from_numpy(mask), 4).sum(dim=0).numpy()
    counted = mask != IGNORED
    true, found = mask[counted], predicted[counted]
    assert (matrix == confusion_matrix(true, found, labels=range(4))).all()
    assert class_iou(matrix) == pytest.approx(jaccard_score(true, found, average=None))
    assert class_accuracy(matrix) == pytest.approx(recall_score(true, found, average=None))


def labelled(folder: Path, rows: int) -> Dataset:
    with ShardWriter(folder, "images", classes=("dark", "bright")) as writer:
        for index in range(rows):
            label = index % 2
            image = keyed_rng("s", index).integers(0, 60, (40, 40, 3), dtype=np.uint8) + np.uint8(180 * label)
            buffer = io.BytesIO()
            Image.fromarray(np.full((40, 40), label, np.uint8)).save(buffer, "PNG")
            writer.write({"id": str(index), "image": encode_image(image), "label": label, "segmentation": buffer.getvalue()})
    return Dataset.open(folder)


def brightness_knower(task: str) -> tuple[Any, Any]:
    """A predictor whose head is set by hand: class 1 is the brighter one."""
    method = find_method(f"finetune_{task}")
    config = method.Config.model_validate({"model": {"encoder": ENCODER, "classes": 2, "image_size": 32, "drop_path": 0}})
    pretext = method.build(config, BuildContext(seed=0))

    class Bright(torch.nn.Module):
        dim, depth, patch_size = 1, 1, 8

        def forward(self, images: torch.Tensor, kept: object = None) -> tuple[torch.Tensor, torch.Tensor]:
            cells = torch.nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 8).flatten(2).transpose(1, 2)
            return cells, cells.mean(dim=1)

    pretext.predictor.backbone = Bright()
    pretext.predictor.head = torch.nn.Linear(1, 2)
    with torch.no_grad():
        pretext.predictor.head.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        pretext.predictor.head.bias.copy_(torch.tensor([0.5, -0.5]))
    return pretext, method.views(config)


@pytest.mark.parametrize(("task", "figure"), [("classification", "accuracy"), ("segmentation", "miou")])
def test_a_model_that_knows_scores_one_and_one_turned_round_scores_nothing(task: str, figure: str, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 22)
    pretext, views = brightness_knower(task)
    measured = measure_test_metrics(pretext, views, data, batch=8)
    found = json.loads(json.dumps(measured.to_json(), allow_nan=False))
    assert MethodResult.from_json(found, measured.metrics).to_json() == found
    assert found["counts"] == {"samples": 22, "broken_samples": 0}
    assert found["figures"][figure]["value"] == 1
    assert f"{METRICS[figure].label} 100.0%" in found["finding"]
    with torch.no_grad():
        pretext.predictor.head.weight.neg_()
        pretext.predictor.head.bias.neg_()
    assert measure_test_metrics(pretext, views, data, batch=8).values[figure].value == 0


def test_label_maps_are_measured_on_whole_images_beside_what_the_place_alone_tells(tmp_path: Path) -> None:
    """Half of each image is bright, the left one but for every fourth image; the network's crop is 32 x 32, the images are 48 x 96."""

    def halves(folder: Path, rows: int) -> Dataset:
        with ShardWriter(folder, "images", classes=("dark", "bright"), ignore_index=IGNORED) as writer:
            for index in range(rows):
                mask = np.zeros((48, 96), np.uint8)
                mask[:, 48:] = 1
                mask = mask if index % 4 else 1 - mask
                image = np.repeat((mask * 180 + 30)[..., None], 3, axis=2)
                mask[:, 0] = IGNORED
                buffer = io.BytesIO()
                Image.fromarray(mask).save(buffer, "PNG")
                writer.write({"id": str(index), "image": encode_image(image), "segmentation": buffer.getvalue(), "scene": str(index)})
        return Dataset.open(folder)

    pretext, views = brightness_knower("segmentation")
    data = halves(tmp_path / "data", 8)
    measured = measure_test_metrics(pretext, views, data, batch=4, train=[data])
    assert np.array(measured.confusion.counts if measured.confusion else 0).sum() == 8 * 48 * 95  # pixels of the stored images
    values = {name: value.value for name, value in measured.values.items()}
    assert values["miou"] > 0.95 and values["mean_accuracy"] > 0.97
    assert values["miou_place"] == pytest.approx(0.6, abs=0.01)  # three of four images: 3 / 5
    assert values["miou_most_frequent"] == pytest.approx(0.25, abs=0.01)
    assert [one.second for one in measured.contrasts] == ["miou_place", "miou_most_frequent"]
    assert measured.contrasts[0].value.value == pytest.approx(values["miou"] - values["miou_place"])
    assert "the most frequent class of each place 60" in verdict_of_run(measured, {})
    twice = measure_test_metrics(pretext, views, data, batch=4, passes=Passes(0.25, (0.5, 1.0), flip=True))
    assert twice.values["miou"].value > 0.9
    assert twice.resamples[TRAINED].conditions["pixels"] != measured.resamples[TRAINED].conditions["pixels"]


def test_two_classifiers_that_were_measured_apart_are_compared_on_the_same_images(tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 22)
    pretext, views = brightness_knower("classification")
    right = Measured.of(measure_test_metrics(pretext, views, data, batch=8), TRAINED)
    with torch.no_grad():
        pretext.predictor.head.bias.copy_(torch.tensor([0.0, 9.0]))  # every image is bright
    half = Measured.of(measure_test_metrics(pretext, views, data, batch=8), TRAINED)
    assert right is not None and half is not None and unlike(right, half) == []
    found = compare(right, half)
    assert (found.name, found.metric, found.first, found.second) == ("test", "accuracy", 1, 0.5)
    assert found.verdict == "better" and 0.2 < found.difference.low < 0.5 < found.difference.high < 0.8
    other = Measured.of(measure_test_metrics(pretext, views, labelled(tmp_path / "other", 20), batch=8), TRAINED)
    assert other is not None and "test data" in unlike(right, other)


def test_no_usable_row_is_an_error_that_names_the_data(tmp_path: Path) -> None:
    whole = encode_image(keyed_rng("whole").integers(0, 255, (40, 40, 3), dtype=np.uint8))
    with ShardWriter(tmp_path / "data", "images", classes=("dark", "bright")) as writer:
        writer.write({"id": "a", "image": whole[: len(whole) // 2], "label": 0})
    pretext, views = brightness_knower("classification")
    with pytest.raises(SightlineError, match="no usable labelled row"):
        measure_test_metrics(pretext, views, Dataset.open(tmp_path / "data"), batch=8)


class Voter(torch.nn.Module):
    """The class of a number is its sign."""

    task, input, classes = "classification", "points", 2

    def logits(self, numbers: torch.Tensor) -> torch.Tensor:
        return torch.stack([-numbers, numbers], dim=1)


class Drawn:
    """Draws are put in by hand: `draws[row]` is rounds x draws, the plain view sees the first."""

    columns = ("points", "label")

    def __init__(self, draws: np.ndarray, whole: bool = False) -> None:
        self.draws, self.whole = draws, whole
        self.voting = None if whole else Drawn(draws, whole=True)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        seen = self.draws[int(sample["points"][0, 0])]
        return {"points": seen if self.whole else seen[0, 0], "label": np.asarray(sample["label"])}


def test_votes_are_the_mean_logits_and_the_best_of_rounds_has_its_own_name(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "data", "points", classes=("negative", "positive")) as writer:
        for index in range(4):
            writer.write({"id": str(index), "points": encode_points(np.full((1, 3), index)), "label": 1})
    rounds = np.array(
        [
            [[-1.0, 3.0], [-1, -1]],  # plain wrong, first round right: the mean decides, not the number of wins
            [[1.0, -3.0], [1, 1]],
            [[1.0, 1.0], [1, 1]],
            [[-1.0, -1.0], [2, -1]],
        ]
    )
    pretext = torch.nn.Module()
    pretext.predictor, pretext.to_device = Voter(), lambda batch: batch
    measured = measure_test_metrics(pretext, Drawn(rounds), Dataset.open(tmp_path / "data"), batch=3)
    assert {name: measured.values[name].value for name in measured.main_metrics} == {"accuracy": 0.5, "vote": 0.5, "best_of_2": 0.75}
    found = measure_test_metrics(pretext, Drawn(rounds[:, :1]), Dataset.open(tmp_path / "data"), batch=3)
    assert found.main_metrics.keys() == {"accuracy", "vote"}
    assert "vote 50.0%" in found.finding and found.finding.endswith("on 4 test clouds.")


def test_the_iou_of_each_class_is_a_detail_with_a_place_of_its_own(tmp_path: Path) -> None:
    pretext, views = brightness_knower("segmentation")
    found = measure_test_metrics(pretext, views, labelled(tmp_path / "data", 4), batch=8)
    assert list(found.main_metrics) == ["miou", "mean_accuracy", "pixel_accuracy"]
    assert list(found.groups) == ["IoU", "Share of each class that is found"] and found.groups["IoU"] == ["iou_dark", "iou_bright"]
    stored = found.to_json()
    assert stored["iou"] == {"dark": 1.0, "bright": 1.0} and list(stored["figures"]) == ["miou", "mean_accuracy", "pixel_accuracy"]
    assert list(stored)[-6:] == ["finding", "seconds", "iou", "recall", "chance", "confusion"]


def test_a_classifier_is_told_by_class_beside_what_guessing_gives(tmp_path: Path) -> None:
    """Two dark images and one bright one that it takes for bright, and another bright one that it takes for dark."""
    with ShardWriter(tmp_path / "data", "points", classes=("dark", "bright")) as writer:
        for index, label in enumerate((0, 0, 1, 1, 1)):
            writer.write({"id": str(index), "points": encode_points(np.full((1, 3), index)), "label": label})
    pretext = torch.nn.Module()
    pretext.predictor, pretext.to_device = Voter(), lambda batch: batch
    shades = np.array([-1.0, 1.0, 1.0, 1.0, -1.0])[:, None, None]
    found = measure_test_metrics(pretext, Drawn(shades), Dataset.open(tmp_path / "data"), batch=2)
    assert found.confusion == Confusion(("dark", "bright"), ((1, 1), (1, 2))) and found.chance == pytest.approx(0.6)
    told = {key: round(found.values[key].value, 3) for keys in found.groups.values() for key in keys}
    assert told == {"recall_dark": 0.5, "recall_bright": 0.667, "precision_dark": 0.5, "precision_bright": 0.667}
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert MethodResult.from_json(stored, found.main_metrics).to_json() == stored
    assert verdict_of_run(found, {}).startswith("Not shown to have learned: accuracy is 60.0% on 5 test samples; always guessing the most")
    rows = {table.caption.partition(":")[0]: table for table in method_section(found).tables}
    assert [[cell.text for cell in row.cells] for row in rows["Confusion matrix"].rows] == [["1", "1"], ["1", "2"]]
    assert [row.name for row in rows["Each class"].rows] == ["dark", "bright"]


class RowDraws:
    """One number a sample: what it drew."""

    columns = ("label",)

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {"points": np.asarray(rng.normal()), "label": np.asarray(sample["label"])}


def numbers(folder: Path, rows: int) -> Dataset:
    with ShardWriter(folder, "points", classes=("negative", "positive")) as writer:
        for index in range(rows):
            writer.write({"id": str(index), "points": encode_points(np.full((1, 3), index)), "label": 1})
    return Dataset.open(folder)


def test_every_row_is_seen_with_the_draws_of_seed_0_and_its_number(tmp_path: Path) -> None:
    pretext = torch.nn.Module()
    pretext.predictor, pretext.to_device = Voter(), lambda batch: batch
    found = measure_test_metrics(pretext, RowDraws(), numbers(tmp_path / "data", 7), batch=3)
    assert found.values["accuracy"].value == pytest.approx(np.mean([sample_rng(0, row).normal() > 0 for row in range(7)]))


def test_the_stage_of_a_method_with_a_predictor_has_run(tmp_path: Path) -> None:
    """Its predictor takes what the stage makes, and nothing else."""

    class OfStage(Voter):
        input = "turned"

    sizes: list[int] = []

    def stage(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(columns["points"]))
        return {"turned": -columns["points"]}

    pretext = torch.nn.Module()
    pretext.predictor, pretext.to_device = OfStage(), lambda batch: batch
    found = measure_test_metrics(pretext, RowDraws(), numbers(tmp_path / "data", 7), batch=3, stage=stage)
    assert sizes == [3, 3, 1]
    assert found.values["accuracy"].value == pytest.approx(np.mean([sample_rng(0, row).normal() < 0 for row in range(7)]))
