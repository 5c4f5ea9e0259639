"""Two encoders that were measured at different times are compared as if they had been measured together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sightline.methods.errors import SightlineError
from sightline.platform.evaluation.intervals import Resampling
from sightline.platform.evaluation.paired import Measured, compare, read_measured, unlike, write_measured
from sightline.platform.evaluation.probes.spec import share
from sightline.platform.evaluation.result_table import Measurement, ResultTable, measure_table
from sightline.platform.evaluation.results import ProbeResult, Resamples, Verdict
from sightline.platform.evaluation.units import Units

UNITS = Units([str(i) for i in range(40)], "image")


def measured(**hits: np.ndarray) -> ProbeResult:
    """The result of a made-up probe of encoders by name; of each unit whether its class was found."""
    table = ResultTable(dict.fromkeys(hits, ()), {}, {}, dict.fromkeys(hits, ""))
    sums = {name: np.stack([found, np.ones(40)], axis=1) for name, found in hits.items()}
    metrics = {"accuracy": share("accuracy", "share of test images whose class is found")}
    found = measure_table(
        Measurement(table, sums, UNITS, lambda s: {"accuracy": s[..., 0] / s[..., 1]}, {}), metrics, Resampling(draws=300)
    )
    conditions = {"protocol": "abc", "test data": "fingerprint", "units": UNITS.digest}
    return ProbeResult(
        name="knn",
        title="",
        metrics=found.metrics,
        rows=found.rows,
        unit_kind="image",
        unit_count=40,
        covers="",
        counts={},
        seconds=0.0,
        differences=found.differences,
        data={"train": "a", "test": "b"},
        resamples={name: Resamples(draws, 0.95, conditions) for name, draws in found.draws.items()},
    )


def of(result: ProbeResult, row: str) -> Measured:
    found = Measured.of(result, row)
    assert found is not None
    return found


@pytest.mark.parametrize(("better", "verdict"), [(0.9, Verdict.BETTER), (0.1, Verdict.WORSE), (0.52, Verdict.NO_DIFFERENCE)])
def test_what_was_measured_apart_says_what_measuring_together_says(tmp_path: Path, better: float, verdict: Verdict) -> None:
    rng = np.random.default_rng(0)
    one, other = (rng.random(40) < better).astype(float), (rng.random(40) < 0.5).astype(float)
    (together,) = measured(one=one, other=other).differences
    files = {}
    for name, hits in (("one", one), ("other", other)):
        files[name] = write_measured(tmp_path / name, f"sha of {name}", [of(measured(alone=hits), "alone")])
    (sha256, first), (_, second) = read_measured(files["one"]), read_measured(files["other"])
    apart = compare(first["knn"], second["knn"])
    assert sha256 == "sha of one" and apart.difference == together.values["accuracy"]
    assert apart.verdict is together.verdicts["accuracy"] is verdict


def test_other_data_or_another_protocol_cannot_be_compared() -> None:
    one = of(measured(one=np.ones(40)), "one")
    for key in ("protocol", "test data", "units"):
        changed = replace(one, resamples=replace(one.resamples, conditions={**one.resamples.conditions, key: "another"}))
        assert unlike(one, changed) == unlike(changed, one) == [key]
        with pytest.raises(ValueError, match=key):
            compare(one, changed)
    assert Measured.of(measured(one=np.ones(40)), "another row") is None


@pytest.mark.parametrize("content", [b"", b"not safetensors", b'{"a": 1}'])
def test_a_damaged_file_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "resamples.safetensors"
    path.write_bytes(content)
    with pytest.raises(SightlineError, match="not readable"):
        read_measured(path)
