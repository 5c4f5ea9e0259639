"""One choice of the device: what is wanted, what there is, and whether the GPU is required."""

from __future__ import annotations

import pytest
import torch

from sightline.methods.errors import SightlineError
from sightline.platform.core.device import choose_device


def test_without_a_gpu_the_cpu_is_used_unless_a_gpu_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert {choose_device(wanted).type for wanted in ("auto", "cpu", "cuda")} == {"cpu"}
    assert choose_device("auto", required=True).type == "cpu"
    with pytest.raises(SightlineError, match="sees no GPU"):
        choose_device("cuda", required=True)


def test_the_gpu_that_this_process_uses_is_taken_unless_the_cpu_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert choose_device("auto") == choose_device("cuda", required=True) == torch.device("cuda", 1)
    assert choose_device("cpu").type == "cpu"
