"""Control metrics are measured on validation samples, against samples of other scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sightline.methods.contract import MetricInfo
from sightline.methods.errors import SightlineError
from sightline.methods.random import MicrobatchRng, sample_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.images import encode_image
from sightline.platform.data.writer import ShardWriter
from sightline.platform.evaluation.control_metrics import measure_control_metrics, weighted_medians
from sightline.platform.evaluation.results import TRAINED, MethodResult
from sightline.platform.experiments.finish import comparable
from sightline.platform.reports.summary import numbers


def views(sample: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"colour": sample["image1"][:1, 0], "draw": rng.integers(0, 256, 4, dtype=np.uint8)}


class Fake(torch.nn.Module):
    """Says how bright its sample and the other sample are, and remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[bool, bool, int, int]] = []
        self.different: list[bool] = []

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.float() for name, tensor in batch.items()}

    def control_metrics(self, batch: dict, other: dict, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
        self.calls.append((self.training, torch.is_grad_enabled(), noise.step, len(batch["colour"])))
        own, others = batch["colour"].flatten(1).mean(1), other["colour"].flatten(1).mean(1)
        self.different += (own != others).tolist()
        return {"psnr_true": own + 1, "psnr_other": own, "psnr_mean": own - 2, "hidden": batch["draw"].mean(1)}


def dataset_of(folder: Path, scenes: int, per_scene: int, *, video: bool = False, spoil: int | None = None) -> Dataset:
    with ShardWriter(folder, "pairs") as writer:
        for index in range(scenes * per_scene):
            shade = 10 * index if video else 20 * (index // per_scene) + 20
            image = encode_image(np.full((48, 48, 3), shade, np.uint8))
            row = {"id": str(index), "image1": image if index != spoil else image[:200] + b"\0" * 400, "image2": image}
            writer.write(row | ({"scene": "one", "time": float(index)} if video else {"scene": f"s{index // per_scene}"}))
    return Dataset.open(folder)


PSNR = MetricInfo(unit="dB", family="psnr")
INFOS = {"psnr_true": PSNR, "psnr_other": PSNR, "psnr_mean": PSNR}


def test_every_metric_has_an_interval_and_those_of_a_family_are_compared_in_pairs(tmp_path: Path) -> None:
    fake = Fake().train()
    data = dataset_of(tmp_path / "d", 6, 4)
    found = measure_control_metrics(fake, views, data, seed=3, batch=10, limit=100, metrics=INFOS)
    result = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert list(result) == ["figures", "differences", "units", "covers", "counts", "seconds"]
    assert result["figures"]["psnr_true"]["value"] == pytest.approx(71, abs=1)
    assert result["figures"]["psnr_true"]["high"] - result["figures"]["psnr_true"]["low"] > 10
    assert [d["name"] for d in result["differences"]] == ["psnr_true minus psnr_other", "psnr_true minus psnr_mean"]
    assert result["differences"][1] | {"low": 3.0, "high": 3.0} == result["differences"][1]
    assert result["units"] == {"kind": "scene", "count": 6} and result["counts"] == {"samples": 24, "broken_samples": 0}
    assert MethodResult.from_json(result, found.metrics) == replace(found, data={})
    draws = found.resamples[TRAINED]
    assert np.percentile(draws.draws, [2.5, 97.5]).tolist() == [found.values["psnr_true"].low, found.values["psnr_true"].high]
    assert draws.conditions["test data"] == data.fingerprint and draws.conditions["input"] == "colour 1x3, draw 4"
    assert [(one.name, one.metric) for one in comparable(found, {}, "model")] == [("test", "psnr_true")]
    assert comparable(found, {}, "encoder") == [], "of a pretext method they say nothing about the encoder"
    assert numbers(found, {}) == "psnr true: 71.00 dB; psnr other: 70.00 dB."


class Whole:
    """Views with samples of their own sizes; `evaluation` is not what control metrics see then."""

    columns: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.evaluation = None
        self.whole = lambda sample, rng: {"colour": sample["image1"], "draw": np.full(4, np.nan if sample["id"] == "5" else 3.0)}

    def __call__(self, sample: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        raise AssertionError


def test_whole_samples_of_any_size_come_one_by_one_and_what_is_nan_is_not_measured(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", "pairs") as writer:
        for index in range(12):
            image = encode_image(np.full((40 + index, 48 + 2 * index, 3), 20 * (index // 2) + 20, np.uint8))
            spoilt = image[:200] + b"\0" * 400
            writer.write({"id": str(index), "image1": spoilt if index == 7 else image, "image2": image, "scene": f"s{index // 2}"})
    fake = Fake()
    found = measure_control_metrics(fake, Whole(), Dataset.open(tmp_path / "d"), seed=3, batch=10, limit=100, metrics=INFOS)
    samples = found.counts["samples"]
    assert samples + found.counts["broken_samples"] == 12 and found.counts["broken_samples"] >= 1
    assert len(fake.calls) == samples and all(count == 1 for *_, count in fake.calls) and all(fake.different)
    assert found.values["hidden"].value == 3.0 and found.values["psnr_true"].value == pytest.approx(found.values["psnr_other"].value + 1)


def test_a_metric_may_be_a_median(tmp_path: Path) -> None:
    data, median = dataset_of(tmp_path / "d", 6, 4), replace(PSNR, average="median")
    found = measure_control_metrics(Fake(), views, data, seed=3, batch=10, limit=100, metrics=dict.fromkeys(INFOS, median))
    middle = found.values["psnr_other"]
    assert middle.value == pytest.approx(60, abs=1) and middle.low < middle.value < middle.high, "the lower of 60 and 80; their mean is 70"
    assert found.contrasts[1].value.value == pytest.approx(3, abs=1e-3)
    drawn = weighted_medians(np.array([3.0, 1.0, 2.0]), np.array([[1, 1, 1], [5, 1, 1], [1, 3, 0], [0, 0, 0]]))
    assert np.array_equal(drawn, [2, 3, 1, np.nan], equal_nan=True)


def test_metrics_of_no_family_are_compared_with_nothing(tmp_path: Path) -> None:
    """Names alone say nothing, alike as they may be."""
    found = measure_control_metrics(Fake(), views, dataset_of(tmp_path / "d", 6, 4), seed=3, batch=10, limit=100)
    assert found.contrasts == () and list(found.values) == ["psnr_true", "psnr_other", "psnr_mean", "hidden"]


def test_rows_and_draws_are_those_of_the_seed_and_the_row(tmp_path: Path) -> None:
    """The keys of every draw are stated here once more, so that numbers of older runs can be had again."""
    given: list[list[int]] = []

    class Watch(Fake):
        def control_metrics(self, batch: dict, other: dict, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
            given.extend(batch["draw"].int().tolist())
            return super().control_metrics(batch, other, noise)

    measure_control_metrics(Watch(), views, dataset_of(tmp_path / "d", 6, 4, spoil=23), seed=3, batch=2, limit=5)
    rows = [0, 6, 12, 17]  # of 0, 5.75, 11.5, 17.25, 23, the last of which is broken
    assert given == [sample_rng(3, row).integers(0, 256, 4, dtype=np.uint8).tolist() for row in rows]


class Staged(Fake):
    """Cannot do without what the stage makes."""

    def control_metrics(self, batch: dict, other: dict, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
        found = super().control_metrics(batch, other, noise)
        return found | {"own_stage": batch["brightness"], "other_stage": other["brightness"]}


def test_the_stage_of_the_method_has_run_on_both_samples(tmp_path: Path) -> None:
    sizes: list[int] = []

    def stage(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        sizes.append(len(columns["colour"]))
        return {"brightness": columns["colour"].reshape(len(columns["colour"]), -1).mean(axis=1)}

    data = dataset_of(tmp_path / "d", 6, 4, spoil=1)
    found = measure_control_metrics(Staged(), views, data, seed=3, batch=10, limit=100, stage=stage).values
    assert sizes == [10, 10, 3]
    assert found["own_stage"].value == pytest.approx(found["psnr_other"].value) and found["other_stage"].value > 0


def test_the_method_is_frozen_while_it_is_measured_and_put_back_afterwards(tmp_path: Path) -> None:
    fake = Fake().train()
    measure_control_metrics(fake, views, dataset_of(tmp_path / "d", 6, 4), seed=3, batch=10, limit=100)
    assert fake.calls == [(False, False, 0, 10), (False, False, 1, 10), (False, False, 2, 4)] and fake.training


def test_the_other_sample_is_of_another_scene(tmp_path: Path) -> None:
    fake = Fake()
    measure_control_metrics(fake, views, dataset_of(tmp_path / "d", 6, 4), seed=3, batch=10, limit=100)
    assert all(fake.different)


def test_in_a_single_video_the_other_sample_is_half_the_recording_away(tmp_path: Path) -> None:
    far: list[float] = []

    class Watch(Fake):
        def control_metrics(self, batch: dict, other: dict, noise: MicrobatchRng) -> dict[str, torch.Tensor]:
            far.extend((batch["colour"] - other["colour"]).abs().flatten(1).mean(1).tolist())
            return super().control_metrics(batch, other, noise)

    result = measure_control_metrics(Watch(), views, dataset_of(tmp_path / "d", 1, 20, video=True), seed=3, batch=8, limit=100)
    assert min(far) >= 95 and max(far) <= 105 and result.unit_kind == "time block"


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "d", 6, 4)
    one, same, another = (measure_control_metrics(Fake(), views, dataset, seed=s, batch=10, limit=100).values for s in (3, 3, 4))
    assert one == same and one["hidden"] != another["hidden"]


def test_a_limit_takes_samples_from_the_whole_data_and_broken_ones_are_counted(tmp_path: Path) -> None:
    result = measure_control_metrics(Fake(), views, dataset_of(tmp_path / "d", 6, 4, spoil=23), seed=3, batch=10, limit=6)
    assert result.counts == {"samples": 5, "broken_samples": 1} and result.unit_count >= 4
    with pytest.raises(SightlineError, match="1 usable sample"):
        measure_control_metrics(Fake(), views, dataset_of(tmp_path / "e", 1, 2, spoil=1), seed=3, batch=10, limit=6)
