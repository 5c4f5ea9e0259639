"""`precision: auto`: when an answer is clear, and that the machine remembers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sightline.platform.training import precision
from sightline.platform.training.precision import MOST_PAIRS, choose_precision, clear_choice, run_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("ratios", "choice"),
    [
        ([1.9], None),  # one pair says nothing
        ([1.9, 1.5], "bf16"),
        ([0.6, 0.9], "fp32"),
        ([1.9, 1.2], None),
        ([1.2] * 5, None),
        ([1.2] * 6, "bf16"),
        ([1.1] * 6, "fp32"),
        ([1.1] + [1.2] * 8, None),
        ([1.1] + [1.2] * 9, "bf16"),
        ([1.1, 1.2] * (MOST_PAIRS // 2), "fp32"),  # a tie
    ],
)
def test_pairs_are_taken_until_the_answer_is_clear(ratios: list[float], choice: str | None) -> None:
    assert clear_choice(ratios) == choice


class Counting(nn.Module):
    """A pretext that is as fast as its test says, and notes how many samples it sees."""

    def __init__(self, fp32: float = 2.0, bf16: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seconds, self.clock = {False: fp32, True: bf16}, 0.0
        self.seen: list[int] = []

    def to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch

    def forward(self, batch: dict[str, Tensor], rng: object) -> dict[str, Tensor]:
        self.seen.append(len(batch["image"]))
        self.clock += self.seconds[torch.is_autocast_enabled("cpu")]
        return {"loss": self.weight * batch["image"].sum()}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Any:
    pretext = Counting()
    monkeypatch.setattr(precision, "_product_seconds", lambda device: {"fp32": 2.0, "bf16": 1.0})
    monkeypatch.setattr(precision, "_now", lambda device: pretext.clock)
    return pretext


@pytest.mark.parametrize(("seconds", "measured"), [(1.0, 8), (2.0, 5), (40.0, 2)])
def test_as_much_of_the_microbatch_is_measured_as_takes_no_minutes_and_no_gradient_stays(timed: Any, seconds: float, measured: int) -> None:
    """`seconds` of a pass of two samples."""
    timed.seconds = {False: seconds, True: seconds / 2}
    assert choose_precision(timed, {"image": torch.ones(8, 3)}, {"loss": 1.0}, CPU) == ("bf16", {"fp32": seconds, "bf16": seconds / 2})
    assert timed.seen == [2] * 3 + [measured] * 4
    assert timed.weight.grad is None


def test_an_answer_is_remembered_for_the_same_work_on_the_same_machine(timed: Any, tmp_path: Path, monkeypatch: Any) -> None:
    def chosen(name: str, samples: int = 8, **what: int) -> str:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True, exist_ok=True)
        columns = {"image": np.ones((samples, 3), dtype=np.float32)}
        return run_precision("auto", folder, {"method": "counting", **what}, timed, columns, {"loss": 1.0}, CPU)

    assert chosen("first") == "bf16"
    timed.seconds, before = {False: 1.0, True: 2.0}, len(timed.seen)
    assert chosen("second") == "bf16" and len(timed.seen) == before
    assert chosen("deeper", depth=3) == "fp32"
    assert chosen("larger", samples=16) == "fp32"
    with monkeypatch.context() as other:
        other.setattr(torch, "__version__", "9.9")
        assert chosen("other torch") == "fp32"
    assert chosen("first", depth=4) == "bf16"  # a run keeps what it noted
    for note in (tmp_path / "precision").iterdir():
        note.write_text("{")
    assert chosen("damaged") == "fp32"


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(timed: Any, tmp_path: Path) -> None:
    (tmp_path / "precision").write_text("")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    assert run_precision("auto", tmp_path / "runs" / "one", {}, timed, {"image": np.ones((4, 3), np.float32)}, {"loss": 1.0}, CPU) == "bf16"
