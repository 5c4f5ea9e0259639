"""Probes of point clouds find shapes and parts where features hold them, beside controls and a baseline made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from toy_probes import PatchColour, probe, rows_by_name
from toy_shapes import POINTS, BlindToClouds, Extents, Normed, make_clouds

from sightline.methods.errors import BrokenSampleError, CallError
from sightline.platform.data.clouds import decode_points
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.eval_mode import eval_mode
from sightline.platform.evaluation.findings import brief
from sightline.platform.evaluation.probes.catalog import ranked
from sightline.platform.evaluation.probes.cloud_context import FIRST_BATCHES, CloudEvalContext, first_points, fit_cloud, list_clouds
from sightline.platform.evaluation.probes.cloud_features import distance_histograms
from sightline.platform.evaluation.probes.context import EvaluatedModel
from sightline.platform.evaluation.probes.few_shot import FewShotProtocol, draw
from sightline.platform.evaluation.probes.part_segmentation import shape_iou
from sightline.platform.evaluation.probes.published_svm import PublishedSvmProtocol, caution, measure
from sightline.platform.evaluation.probes.run import make_contexts
from sightline.platform.evaluation.probes.shape_svm import choose_c, deal_folds
from sightline.platform.evaluation.results import probe_from_json


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    folder = tmp_path_factory.mktemp("clouds")
    return make_clouds(folder / "train", 60, parts=True), make_clouds(folder / "test", 30, parts=True)


def controls() -> tuple[BlindToClouds, ...]:
    return tuple(BlindToClouds(seed) for seed in (1, 2, 3))


def values(result: dict, metric: str) -> dict[str, float]:
    return {name: row["metrics"][metric]["value"] for name, row in rows_by_name(result).items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["shape_svm", "shape_knn"])
def test_features_that_hold_the_shape_beat_random_weights(data: tuple[Dataset, Dataset], name: str) -> None:
    result = probe(name, Extents(), *data, controls())
    found = values(result, "accuracy")
    assert found["trained"] > 0.9 and found["distance histograms"] > 0.7 and found["mean of 3 random"] == pytest.approx(1 / 3)
    assert {d["of"][1]: d["metrics"]["accuracy"]["verdict"] for d in result["differences"]}["mean of 3 random"] == "better"
    assert result["units"] == {"kind": "cloud", "count": 30} and "30 clouds" in result["covers"]
    assert result["counts"]["train_clouds"] == 60 and result["counts"]["broken_clouds"] == 0
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_the_svm_states_the_accuracy_with_the_papers_c_beside(data: tuple[Dataset, Dataset]) -> None:
    result = probe("shape_svm", Extents(), *data)
    assert {"accuracy", "accuracy_c_0.0093", "accuracy_c_0.018"} == set(result["metrics"])
    assert rows_by_name(result)["trained"]["penalty"] in result["protocol"]["penalties"]


@pytest.mark.slow
def test_few_shots_are_measured_over_ten_draws_with_their_deviation(tmp_path: Path, data: tuple[Dataset, Dataset]) -> None:
    assert "5 classes with at least 15 labelled clouds each" in probe("few_shot", Extents(), *data)["skipped"]
    dataset_pair = [make_clouds(tmp_path / side, rows, classes=6, names="bprcst") for side, rows in (("train", 60), ("test", 36))]
    result = probe("few_shot", Extents(), dataset_pair[0], dataset_pair[1], controls())
    found = values(result, "accuracy_5w10s")
    assert found["trained"] > 0.7 and found["random 1"] == pytest.approx(0.2) and "accuracy_5w20s" not in result["metrics"]
    assert result["units"] == {"kind": "draw", "count": 10} and result["counts"]["tasks_without_enough_clouds"] == 3
    assert result["counts"]["least_queries_a_class"] == 6, "16 clouds of a class, 10 in the support"
    spread = values(result, "deviation_5w10s")
    assert 0 < spread["distance histograms"] < 0.2 and spread["random 1"] == pytest.approx(0, abs=1e-6)


def test_a_draw_keeps_support_and_queries_apart_and_is_the_same_for_all() -> None:
    labels = np.repeat(np.arange(6), 40)
    task, again = draw(labels, 5, 10, FewShotProtocol(), 3), draw(labels, 5, 10, FewShotProtocol(), 3)
    other = draw(labels, 5, 10, FewShotProtocol(), 4)
    assert task is not None and again is not None and other is not None
    assert len(task.support) == 50 and len(task.queries) == 100 and not set(task.support) & set(task.queries)
    assert np.array_equal(task.support, again.support) and not np.array_equal(task.support, other.support)
    assert set(labels[task.support]) == set(labels[task.queries]) and len(set(labels[task.support])) == 5
    assert draw(labels, 7, 10, FewShotProtocol(), 0) is None


def test_parts_are_found_where_points_tell_them(data: tuple[Dataset, Dataset]) -> None:
    result = probe("part_segmentation", Extents(), *data, controls())
    found = values(result, "instance_miou")
    assert found["trained"] > 0.85 and found["position"] > 0.7
    assert found["most frequent part"] == pytest.approx(found["mean of 3 random"], abs=0.05), "half of the points, and a part not found"
    assert found["most frequent part"] < 0.4 and {"miou_b", "miou_p", "miou_r", "class_miou"} <= set(result["metrics"])
    assert rows_by_name(result)["position"]["baseline"] == "position"


def test_the_iou_of_a_part_in_neither_is_one() -> None:
    true = np.array([0, 0, 1, 1, -1])
    assert shape_iou(np.array([0, 0, 1, 1, 2]), true, np.array([0, 1, 2])) == 1.0, "the unlabelled point does not count"
    assert shape_iou(np.array([0, 1, 1, 1, 0]), true, np.array([0, 1])) == pytest.approx((1 / 2 + 2 / 3) / 2)


@pytest.mark.slow
def test_controls_with_running_statistics_stand_three_times(data: tuple[Dataset, Dataset]) -> None:
    fresh = (Normed(), Normed())
    result = probe("shape_knn", Extents(), *data, fresh)
    means = {"mean of 2 random", "mean of 2 random, calibrated", "mean of 2 random, partly calibrated"}
    assert means <= {row["name"] for row in result["rows"]}
    told = brief(probe_from_json(result))
    assert "random weights, calibrated " in told and "random weights, partly calibrated " in told and told.count("random weights ") == 1
    assert torch.equal(fresh[0].norm.running_mean, torch.zeros(3)), "what the caller gave is untouched"
    context = CloudEvalContext([EvaluatedModel("trained", Extents(), fresh)])
    clouds = list_clouds(data[0], 1000)
    with eval_mode(list(context.modules.values()), "cpu"):
        context.calibrate(data[0], clouds, 512)
    batches = [torch.from_numpy(batch.points[POINTS]) for batch in context.batches(data[0], clouds, {})]
    expected = torch.stack([batch.std(dim=1).mean(dim=0) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(context.modules["random 1, calibrated"].norm.running_mean, expected)
    partly = torch.zeros(3)
    for batch in batches[:FIRST_BATCHES]:
        partly = 0.9 * partly + 0.1 * batch.std(dim=1).mean(dim=0)
    torch.testing.assert_close(context.modules["random 1, partly calibrated"].norm.running_mean, partly)
    assert not torch.allclose(partly, expected, rtol=0.05)


def test_the_same_points_are_drawn_every_time_and_their_parts_with_them() -> None:
    rng = np.random.default_rng(0)
    points, parts = rng.normal(size=(200, 3)).astype(np.float32) + 5, np.arange(200)
    one, drawn = fit_cloud(points, parts, 64)
    again, _ = fit_cloud(points, None, 64)
    assert np.array_equal(one, again)
    assert np.linalg.norm(one, axis=1).max() == pytest.approx(1, abs=1e-6) and np.abs(one.mean(axis=0)).max() < 1e-6
    assert drawn is not None and len(set(drawn.tolist())) == 64
    raw = points[drawn].astype(np.float64)
    centred = raw - raw.mean(axis=0)
    np.testing.assert_allclose(one, centred / np.linalg.norm(centred, axis=1).max(), atol=1e-6)


@pytest.mark.slow
def test_a_broken_cloud_is_counted(tmp_path: Path, data: tuple[Dataset, Dataset]) -> None:
    from sightline.platform.data.clouds import encode_points
    from sightline.platform.data.writer import ShardWriter

    with ShardWriter(tmp_path / "flat", "points", classes=list("bpr")) as writer:
        for index in range(5):
            writer.write(
                {"id": f"{index}", "label": 0, "points": encode_points(np.full((80, 3), 0.0 if index == 0 else index) * np.eye(80, 3))}
            )
    result = probe("shape_knn", Extents(), data[0], Dataset.open(tmp_path / "flat"))
    assert result["counts"]["broken_clouds"] == 1 and result["counts"]["test_clouds"] == 4


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": False}, "no label column"),
        ({"classes": 1}, "all of one class"),
        ({"names": "bpx"}, "other classes \\(r, x\\)"),
        ({"rows": 5}, "5 labelled training clouds"),
    ],
)
def test_data_that_cannot_be_used_skip_the_probe_with_the_reason(tmp_path: Path, arguments: dict, reason: str) -> None:
    train = make_clouds(tmp_path / "train", **({"rows": 30} | arguments))
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(probe("shape_knn", Extents(), train, make_clouds(tmp_path / "test", 12))["skipped"])


@pytest.mark.slow
def test_each_probe_measures_the_encoders_that_take_its_data(data: tuple[Dataset, Dataset]) -> None:
    assert "measures encoders of points, and there is none" in probe("shape_knn", PatchColour(), *data)["skipped"]
    assert "measures encoders of images, and there is none" in probe("knn", Extents(), *data)["skipped"]
    both = probe("shape_knn", {"cloud": Extents(), "image": PatchColour()}, *data)
    assert [row["name"] for row in both["rows"] if row["kind"] == "encoder"] == ["cloud"]
    with pytest.raises(CallError, match="different names"):
        make_contexts([EvaluatedModel("a", Extents()), EvaluatedModel("a", PatchColour())])


def test_histograms_do_not_change_with_rotation_or_size() -> None:
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(100, 3)) * [1, 2, 3]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    assert np.abs(distance_histograms(cloud) ** 2 - distance_histograms(cloud @ turn * 7 + 1) ** 2).sum() < 0.02
    assert (distance_histograms(cloud) ** 2).sum() == pytest.approx(2)


def test_c_is_chosen_on_the_training_clouds_and_the_smallest_of_equals_wins() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [40, 20])
    x = rng.normal(size=(60, 4)) * 1e-3
    x[:, 0] += labels * 1e-2
    folds = deal_folds(labels, 4)
    assert [np.bincount(labels[folds == fold]).tolist() for fold in range(4)] == [[10, 5]] * 4
    assert choose_c(x, labels, folds, (1e-4, 1.0, 1e6)) == 1e6, "a small C calls small features all of the larger class"
    assert choose_c(x * 1e4, labels, folds, (1.0, 100.0, 1e4)) == 1.0


class Spreads(Extents):
    """Takes any number of points; features tell how many it got, and where they lie."""

    points = 32

    def pooled(self, points: torch.Tensor) -> torch.Tensor:
        count = torch.full((len(points), 1), float(points.shape[1]))
        return torch.cat([points.std(dim=1), points.mean(dim=1), count], dim=1)


def test_the_published_svm_takes_the_first_points_as_stored_every_row_and_the_published_c(tmp_path: Path) -> None:
    protocol = PublishedSvmProtocol(name="svm_modelnet40", points=50, penalty=0.0093, classes=40, data="ModelNet40", published="93.35 %")
    train, test = make_clouds(tmp_path / "train", 30), make_clouds(tmp_path / "test", 12)
    contexts = make_contexts([EvaluatedModel("trained", Spreads())])
    context = contexts["points"]
    assert isinstance(context, CloudEvalContext)
    found = measure(context, train, train, protocol)
    assert found.counts["left_out_as_test_clouds"] == 0 and found.units.count == 30, "a copy is not left out"
    context.cache.clear()
    found = measure(context, train, test, protocol)
    (shapes,) = context.cache.values()

    def features(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        rows = [row for table in dataset.scan() for row in table.to_pylist()]
        clouds = torch.stack([torch.tensor(decode_points(row["points"])[:50]) for row in rows])
        return Spreads().pooled(clouds).double().numpy(), np.array([row["label"] for row in rows])

    (x, y), (asked, truth) = features(train), features(test)
    by_hand = SVC(kernel="linear", C=0.0093).fit(x, y).predict(asked) == truth
    np.testing.assert_allclose(shapes.test.features["trained"].numpy(), asked)
    assert (asked[:, -1] == 50).all() and np.array_equal(found.sums["trained"][:, 0], by_hand)
    assert found.penalties["trained"] == 0.0093
    assert "no published figure compares" in found.caution and "93.35 %" in caution(protocol, 40)
    assert not {"svm_modelnet40", "svm_scanobjectnn"} & {probe.name for probe in ranked()}, "measured only where it is named"
    with pytest.raises(BrokenSampleError, match="takes the first 50"):
        first_points(50)(np.zeros((49, 3)), None, 32)
