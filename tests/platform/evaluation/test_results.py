"""Results that the code wrote before they were typed (commit 20429d3) are read, and written as they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sightline.platform.evaluation.results import MethodResult, ProbeResult, RowKind, SkippedProbe, Verdict, probe_from_json

STORED: dict[str, Any] = json.loads((Path(__file__).resolve().parents[2] / "data" / "results_of_20429d3.json").read_text())


@pytest.mark.parametrize("name", STORED["probes.json"])
def test_a_probe_is_read_and_written_as_it_was(name: str) -> None:
    stored = STORED["probes.json"][name]
    assert json.dumps(probe_from_json(stored).to_json()) == json.dumps(stored)


def test_what_was_read_has_types() -> None:
    segmentation, depth = (probe_from_json(STORED["probes.json"][name]) for name in ("segmentation", "depth"))
    assert isinstance(segmentation, ProbeResult) and list(segmentation.main_metrics) == ["miou", "pixel_accuracy"]
    assert segmentation.groups == {"IoU": ["iou_dark", "iou_bright"]} and segmentation.metrics["miou"].better == "higher"
    kinds = [row.kind for row in segmentation.rows]
    assert kinds == [RowKind.ENCODER, RowKind.CONTROL_MEAN, RowKind.CONTROL, RowKind.CONTROL, RowKind.BASELINE, RowKind.BASELINE]
    assert segmentation.differences[0].verdicts["miou"] in set(Verdict)
    assert isinstance(depth, SkippedProbe) and depth.reason.startswith("no depth column in")


@pytest.mark.parametrize("name", [name for name in STORED if name.startswith("claims.json")])
def test_control_and_test_metrics_are_read_and_written_as_they_were(name: str) -> None:
    assert json.dumps(MethodResult.from_json(STORED[name]).to_json()) == json.dumps(STORED[name])


def test_what_a_method_said_of_itself_is_told_from_what_a_test_said() -> None:
    pretext, segmenter = (MethodResult.from_json(STORED[f"claims.json of a {what}"]) for what in ("pretext method", "segmenter"))
    assert pretext.name == "control" and len(pretext.contrasts) == 4 and pretext.contrasts[0].second == "psnr_other_view"
    assert segmenter.name == "test" and segmenter.groups == {"IoU": ["iou_dark", "iou_bright"]}
