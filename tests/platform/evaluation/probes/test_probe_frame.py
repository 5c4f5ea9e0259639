"""All probes share one frame: names, protocols, rows, controls, differences, words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_probes import Blind, PatchColour, blind_controls

from sightline.methods.contract import MetricInfo
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.findings import brief, finding_of, flat_metrics, heading_of, table
from sightline.platform.evaluation.intervals import Resampling
from sightline.platform.evaluation.probes.catalog import check_probe, find_probe, ranked
from sightline.platform.evaluation.probes.context import EvaluatedModel, Grid, ImageEvalContext, patch_pixels
from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
from sightline.platform.evaluation.probes.protocol import protocol_hash
from sightline.platform.evaluation.probes.run import run_probes
from sightline.platform.evaluation.result_table import Measurement, ResultTable, measure_table
from sightline.platform.evaluation.results import ProbeResult, SkippedProbe, Verdict, probe_from_json
from sightline.platform.evaluation.units import Units
from sightline.platform.reports.summary import numbers

HASHES = {
    "part_segmentation": "4ce39f2384bc",
    "few_shot": "042cd857e024",
    "shape_knn": "a50f47cadc6e",
    "shape_svm": "e299d63a84dd",
    "knn": "945abaf3c36b",
    "linear": "31b6069ec6a1",
    "segmentation": "789d6070a4a0",
    "depth": "6c770ae4143e",
    "correspondence": "5a4e0e1547be",
    "pose": "79d4b0653a4e",
}


def test_protocols_are_frozen() -> None:
    """A change of any word or number needs a new version: then, and only then, this table changes."""
    assert {probe.name: protocol_hash(probe.protocol) for probe in ranked()} == HASHES
    named = {"svm_modelnet40": "c35a3bca6819", "svm_scanobjectnn": "73ca26645e26"}
    assert {name: protocol_hash(find_probe(name).protocol) for name in named} == named
    assert protocol_hash(find_probe("knn").protocol.model_copy(update={"k": 10})) != HASHES["knn"]


def test_reports_and_sweeps_take_the_probes_in_a_stated_order() -> None:
    order = ["knn", "linear", "segmentation", "depth", "correspondence", "pose", "shape_svm", "shape_knn", "few_shot", "part_segmentation"]
    assert [probe.name for probe in ranked()] == order
    assert [probe.name for probe in ranked(["depth", "knn"])] == ["knn", "depth"]


def test_names_are_checked_without_importing_a_probe() -> None:
    code = (
        "import sys; from sightline.platform import config; config.load('croco-tiny', {'probe.names': ['linear']});"
        "print([name for name in sys.modules if name == 'torch' or '.evaluation' in name])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_documentation_names_every_protocol_by_its_hash() -> None:
    text = (Path(__file__).resolve().parents[4] / "docs" / "probes.md").read_text()
    for probe in ranked():
        assert f"version {probe.protocol.version} (`{HASHES[probe.name]}`)" in text, probe.name
        assert tuple(probe.metrics) == probe.protocol.metrics


def test_a_misspelt_probe_is_told_the_nearest() -> None:
    with pytest.raises(CallError, match="did you mean 'segmentation'"):
        check_probe("segmentaton")
    with pytest.raises(CallError, match=r"probe.names.*no probe 'lineer'.*did you mean 'linear'"):
        config.load("croco-tiny", {"probe.names": ["lineer"]})


def test_probe_data_come_in_pairs_and_default_to_the_data_of_the_run() -> None:
    assert config.load("croco-tiny", {"data.train": "a", "data.val": "b"}).probe_data == [("a", "b")]
    assert config.load("croco-tiny", {"data.train": "a"}).probe_data == []
    one = config.load("croco-tiny", {"data.train": "a", "probe.test": "c"})
    assert one.probe_data == [("a", "c")] and config.load("x", settings=one.sections()) == one.model_copy(update={"recipe": "x"})
    several = config.load("croco-tiny", {"probe.train": ["a", "b"], "probe.test": ["c", "d"]})
    assert several.probe_data == [("a", "c"), ("b", "d")]
    with pytest.raises(CallError, match=r"2 data sets in probe\.train and 1 in probe\.test"):
        config.load("croco-tiny", {"probe.train": ["a", "b"], "probe.test": "c"})


def test_every_probe_takes_the_first_data_that_have_what_it_needs(tmp_path: Path) -> None:
    image = [encode_image(np.full((64, 64, 3), 9 * index, np.uint8)) for index in range(28)]
    for name, labelled in (("plain", False), ("labelled", True)):
        for side, first in (("train", 0), ("test", 14)):
            with ShardWriter(tmp_path / name / side, "images", classes=["a", "b"] if labelled else []) as writer:
                for index in range(first, first + 14):
                    writer.write({"id": str(index), "image": image[index]} | ({"label": index % 2} if labelled else {}))
    dataset_pairs = [DatasetPair(*(Dataset.open(tmp_path / name / side) for side in ("train", "test"))) for name in ("plain", "labelled")]
    names = [probe.name for probe in ranked()]
    outcomes = run_probes(names, [EvaluatedModel("one", PatchColour())], dataset_pairs)
    skipped = {name: outcome.reason for name, outcome in outcomes.items() if isinstance(outcome, SkippedProbe)}
    assert list(outcomes) == names and outcomes.keys() - skipped.keys() == {"knn", "linear"}
    knn = outcomes["knn"]
    assert isinstance(knn, ProbeResult) and "labelled" in str(knn.data["test"])
    assert "no segmentation column in" in skipped["segmentation"]
    assert "pairs are needed, and" in skipped["correspondence"]
    untrained = run_probes(["knn"], [EvaluatedModel("one", PatchColour())], [DatasetPair(None, dataset_pairs[1].test)])["knn"]
    assert isinstance(untrained, SkippedProbe) and "its head needs training data" in untrained.reason


def test_the_probes_of_classification_look_at_an_image_once(tmp_path: Path) -> None:
    class Counting(PatchColour):
        seen = 0

        def tokens(self, images: torch.Tensor) -> torch.Tensor:
            Counting.seen += len(images)
            return super().tokens(images)

    with ShardWriter(tmp_path / "all", "images", classes=["a", "b"]) as writer:
        for index in range(40):
            writer.write({"id": str(index), "image": encode_image(np.full((64, 64, 3), index, np.uint8)), "label": index % 2})
    with ShardWriter(tmp_path / "test", "images", classes=["a", "b"]) as writer:
        for index in range(10):
            writer.write({"id": str(index), "image": encode_image(np.full((64, 64, 3), 100 + index, np.uint8)), "label": index % 2})
    dataset_pair = DatasetPair(Dataset.open(tmp_path / "all"), Dataset.open(tmp_path / "test"))
    run_probes(["knn", "linear"], [EvaluatedModel("one", Counting())], [dataset_pair])
    assert Counting.seen == 50


def test_models_of_one_architecture_share_their_controls() -> None:
    shared, other = blind_controls(), (Blind(5), Blind(6))
    context = ImageEvalContext(
        [EvaluatedModel("a", Blind(0), shared), EvaluatedModel("b", Blind(9), shared), EvaluatedModel("c", Blind(8), other)]
    )
    table = context.table({"pixels": "raw pixels"}, lambda grid: grid)
    assert table.controls["mean of 3 random like a"] == ("random 1 like a", "random 2 like a", "random 3 like a")
    assert table.encoders["b"] == ("mean of 3 random like a", "raw pixels") and table.encoders["c"][0] == "mean of 2 random like c"
    assert len(context.modules) == 3 + 3 + 2
    alone = ImageEvalContext([EvaluatedModel("a", Blind(0), shared)])
    assert list(alone.modules) == ["a", "random 1", "random 2", "random 3"]
    with pytest.raises(CallError, match="need different names"):
        ImageEvalContext([EvaluatedModel("a", Blind(0)), EvaluatedModel("a", Blind(1))])


def test_an_encoder_that_breaks_the_contract_is_named() -> None:
    class Short(Blind):
        def tokens(self, images: torch.Tensor) -> torch.Tensor:
            return super().tokens(images)[:, 1:]

    context = ImageEvalContext([EvaluatedModel("short", Short(0))])
    with pytest.raises(CallError, match="short gives 15 tokens for 4 x 4 patches of 16 px"):
        list(context.tokens({(64, 64): np.zeros((2, 64, 64, 3), np.uint8)}))


def test_raw_pixels_of_a_patch_are_mean_colours_in_raster_order() -> None:
    image = np.zeros((1, 32, 48, 3), np.uint8)
    image[0, 16:, 32:, 1] = 255  # the last of 2 x 3 patches is green
    features = patch_pixels(image, Grid((32, 48), 16))
    assert features.shape == (1, 6, 192) and features[0, :5].abs().sum() == 0 and features[0, 5].sum() == 64
    assert patch_pixels(image[:, :28, :28], Grid((28, 28), 14)).shape == (1, 4, 192)  # 8 does not divide 14


def hits(shares: list[float], units: int = 40, images: int = 25) -> np.ndarray:
    return np.stack([np.array([shares[0] * images] * units), np.full(units, images)], axis=1)


def metrics_of(s: np.ndarray) -> dict[str, np.ndarray]:
    share = s[..., 0] / s[..., 1]
    return {"accuracy": share, "never": share * np.nan, "detail": share, "rmse": 4 * share}


INFOS = {
    "accuracy": MetricInfo(label="accuracy", unit="%"),
    "never": MetricInfo(label="never", unit="%"),
    "detail": MetricInfo(label="detail", unit="%", group="class"),
    "rmse": MetricInfo(label="RMSE", unit="m", better="lower"),
}


def made(first: str = "accuracy") -> ProbeResult:
    """The result of a made-up probe whose metric `first` comes first."""
    rows = ResultTable(
        {"net": ("mean of 2 random", "raw pixels")}, {"mean of 2 random": ("r1", "r2")}, {"raw pixels": "pixels"}, {"net": ""}
    )
    sums = {"net": hits([0.6]), "r1": hits([0.40]), "r2": hits([0.42]), "raw pixels": hits([0.6])}
    found = Measurement(rows, sums, Units([str(i) for i in range(40)], "scene"), metrics_of, counts={})
    infos = {first: INFOS[first], **{key: info for key, info in INFOS.items() if key != first}}
    measured = measure_table(found, infos, Resampling(draws=200))
    return ProbeResult(
        name="toy",
        title="Toy",
        metrics=measured.metrics,
        rows=measured.rows,
        unit_kind="scene",
        unit_count=40,
        covers=measured.covers,
        counts={},
        seconds=1.0,
        finding=finding_of(measured, rows, "It reaches {value}"),
        differences=measured.differences,
    )


def test_metrics_are_paired_and_a_metric_without_data_is_left_out() -> None:
    result = made()
    assert [(row.name, row.kind.value) for row in result.rows] == [
        ("net", "encoder"),
        ("mean of 2 random", "control mean"),
        ("r1", "control"),
        ("r2", "control"),
        ("raw pixels", "baseline"),
    ]
    assert list(result.metrics) == ["accuracy", "detail", "rmse"] and list(result.main_metrics) == ["accuracy", "rmse"]
    first, second = result.differences
    assert first.values["accuracy"].value == pytest.approx(0.19) and first.values["accuracy"].low == pytest.approx(0.18)
    assert first.verdicts["accuracy"] == Verdict.BETTER
    zero = second.values["accuracy"]
    assert zero.value == zero.low == zero.high == 0 and second.verdicts["accuracy"] == Verdict.NO_DIFFERENCE


def test_findings_say_what_may_be_called_a_difference() -> None:
    result = made()
    told = result.finding
    assert told.startswith("It reaches 60.0%, against 41.0% for the mean of 2 random-weights networks, which lie between 40.0% and 42.0%")
    assert "better than random weights; against 60.0% for raw pixels (+0.0 points" in told and told.endswith("no difference is shown.")
    assert brief(result) == "toy accuracy 60.0% (random weights 41.0%, better; raw pixels 60.0%, no difference)"
    skipped = SkippedProbe("other", "Other", "why")
    assert brief(skipped) == ""
    assert {key: round(value, 2) for key, value in flat_metrics({"toy": result, "other": skipped}).items()} == {
        "probe/toy/accuracy": 0.6,
        "probe/toy/random_accuracy": 0.41,
        "probe/toy/pixels_accuracy": 0.6,
        "probe/toy/rmse": 2.4,
        "probe/toy/random_rmse": 1.64,
        "probe/toy/pixels_rmse": 2.4,
    }
    assert [row[0] for row in table(result)] == ["net", "mean of 2 random", "raw pixels"]
    assert table(result)[0][2][0].endswith("against mean of 2 random: better")


def test_a_probe_that_leads_with_an_error_in_metres_is_told_in_metres() -> None:
    """Higher is worse, and nothing is a percentage."""
    result = made("rmse")
    assert result.finding.startswith(
        "It reaches 2.400 m, against 1.640 m for the mean of 2 random-weights networks, which lie between 1.600 m and 1.680 m (+0.760 m, "
    )
    assert "worse than random weights" in result.finding and "%" not in result.finding and "points" not in result.finding
    assert brief(result) == "toy RMSE 2.400 m (random weights 1.640 m, worse; raw pixels 2.400 m, no difference)"
    assert heading_of(result) == "Toy: RMSE in m" and table(result)[1][:2] == ("mean of 2 random", "1.640 (1.600 to 1.680)")
    assert table(result)[0][2][0] == "+0.760 (+0.720 to +0.800) against mean of 2 random: worse"
    assert numbers(None, {"toy": result, "again": result}).startswith("Probes of the frozen encoder: toy RMSE 2.400 m (")


def test_a_stored_result_is_read_as_it_was_written() -> None:
    result = made()
    stored = json.loads(json.dumps(result.to_json()))
    assert probe_from_json(stored) == result
    assert list(stored) == [
        *("probe", "title", "protocol", "protocol_hash", "metrics", "rows", "differences"),
        *("units", "covers", "counts", "data", "finding", "seconds"),
    ]
    assert stored["metrics"]["detail"] == {"label": "detail", "unit": "%", "better": "higher", "means": "", "group": "class"}
    assert stored["rows"][-1].keys() == {"name", "kind", "metrics", "baseline", "penalty"}
    assert stored["differences"][0]["of"] == ["net", "mean of 2 random"]
    skipped = SkippedProbe("toy", "Toy", "no depth", 0.5, {"rmse": INFOS["rmse"]}, {"version": 1}, "abc")
    assert skipped.to_json()["skipped"] == "probe toy skipped: no depth" and probe_from_json(skipped.to_json()) == skipped
