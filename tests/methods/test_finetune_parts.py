"""Part segmentation by fine-tuning: a category keeps to its own parts, unlabelled points do not count, the widths are the authors'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from toy_discs import ENCODER

from sightline.methods.contract import BuildContext
from sightline.methods.errors import BrokenSampleError
from sightline.methods.finetune_parts import method
from sightline.methods.finetune_parts.config import FinetunePartsConfig
from sightline.methods.finetune_parts.network import PartSegmenter
from sightline.methods.finetune_parts.pretext import FinetunePartsPretext
from sightline.methods.finetune_parts.views import NO_PART
from sightline.methods.random import MicrobatchRng, sample_rng

OF = [[0, 1], [2, 3, 4]]
MODEL: dict[str, Any] = {
    "encoder": {"method": "i2p_mae", **{name: ENCODER.get(name, {}) for name in ("model", "pretext", "loss", "augment")}},
    **{"classes": 2, "parts": 5, "parts_of": OF, "points": 64, "neighbours": [8, 4, 4]},
    **{"propagation": [12, 8], "category_dim": 4, "head": [16, 8, 8]},
}


def config(**changed: Any) -> FinetunePartsConfig:
    return FinetunePartsConfig.model_validate({"model": {**MODEL, **changed}})


@pytest.fixture(scope="module")
def pretext() -> FinetunePartsPretext:
    made = method.build(config(), BuildContext(seed=3))
    assert isinstance(made, FinetunePartsPretext)
    return made


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = torch.stack([torch.arange(64) % 2, 2 + torch.arange(64) % 3])
    parts[:, :10] = NO_PART
    return {"points": torch.randn(2, 64, 3, generator=generator), "part": parts, "label": torch.tensor([0, 1])}


def test_the_widths_are_those_of_the_authors() -> None:
    """3072 global + 64 of the category + 3072 local = 6208 -> 1024 -> 512 -> 256 -> 50; every scale 3 + D -> 1536 -> 1024."""
    wide = config(classes=16, parts=50, parts_of=[[i] for i in range(16)], propagation=[1536, 1024], category_dim=64, head=[1024, 512, 256])
    with torch.device("meta"):
        network = PartSegmenter(wide.model)
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["first.weight"] == (1024, 6208) and shapes["rest.linears.1.weight"] == (256, 512) and shapes["last.weight"] == (50, 256)
    dims = network.model.dims
    assert [shapes[f"propagation.{i}.linears.0.weight"] for i in range(3)] == [(1536, 3 + dim) for dim in dims]
    assert shapes["category.0.weight"] == (64, 16) and "category.0.bias" not in shapes


def test_the_head_is_one_layer_on_global_category_and_local_features_side_by_side(pretext: FinetunePartsPretext) -> None:
    network = pretext.predictor.eval()
    local, category = torch.randn(2, 64, 24, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 0])
    with torch.no_grad():
        whole = (local.amax(dim=1) + local.mean(dim=1))[:, None].expand(-1, 64, -1)
        of_category = network.category(torch.eye(2)[category])[:, None].expand(-1, 64, -1)
        x = network.first_norm(network.first(torch.cat([whole, of_category, local], dim=-1)).flatten(0, 1)).relu()
        expected = network.last(network.rest(x)).view(2, 64, 5)
        torch.testing.assert_close(network.head(local, category), expected)


def test_parts_are_those_of_the_category_and_points_without_one_do_not_count(
    pretext: FinetunePartsPretext, batch: dict[str, torch.Tensor]
) -> None:
    network = pretext.eval().predictor
    rng = MicrobatchRng(0, 0, 0)
    with torch.no_grad():
        logits = network.logits(batch["points"], batch["label"])
        found = network.found(logits, batch["label"])
        losses = pretext(batch, rng)
        known = batch["part"] != NO_PART
        expected = torch.nn.functional.cross_entropy(logits[known], batch["part"][known])
        assert losses["cross_entropy"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert losses["accuracy"].item() == pytest.approx((found == batch["part"])[known].double().mean().item())
        assert {0, 1} >= set(found[0].tolist()) and {2, 3, 4} >= set(found[1].tolist())
        # Without a category: the one whose own parts have the larger mean log-probability.
        scores = [
            torch.stack([network.logits(batch["points"], torch.full((2,), c)).softmax(-1)[..., own].sum(-1).log().mean(1)])
            for c, own in enumerate(OF)
        ]
        likely = torch.cat(scores).argmax(dim=0)
        torch.testing.assert_close(network(batch["points"]), network.logits(batch["points"], likely))
    sheet = pretext.visualisations(batch, rng)[0].image
    assert sheet.dtype == np.uint8 and sheet.shape[0] > 100


@pytest.mark.slow
def test_an_exported_graph_takes_any_batch(pretext: FinetunePartsPretext) -> None:
    network = pretext.encoder().eval()
    batch = {"points": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        graph = torch.export.export(network, (torch.randn(2, 64, 3),), dynamic_shapes=batch).module()
        for count in (1, 3):
            points = torch.randn(count, 64, 3, generator=torch.Generator().manual_seed(count))
            torch.testing.assert_close(graph(points), network(points))


def test_gradients_reach_every_weight_and_draws_are_those_of_the_microbatch(
    pretext: FinetunePartsPretext, batch: dict[str, torch.Tensor]
) -> None:
    pretext.train()
    first, again, other = (pretext(batch, MicrobatchRng(0, step, 0))["cross_entropy"] for step in (1, 1, 2))
    assert first.item() == again.item() != other.item()
    first.backward()
    assert [name for name, p in pretext.named_parameters() if p.grad is None] == []


def test_a_cloud_is_centred_drawn_scaled_by_one_factor_and_shifted() -> None:
    cloud = np.random.default_rng(0).random((100, 3)).astype(np.float32) + 5
    part = np.where(cloud[:, 0] > 5.5, 1, 0)
    sample = {"points": cloud, "part": part, "label": 0}
    views = method.views(config())
    still, moved = views.evaluation(sample, sample_rng(0, 4)), views(sample, sample_rng(0, 4))
    factor = (moved["points"][1:] - moved["points"][:-1]) / np.where((d := still["points"][1:] - still["points"][:-1]) == 0, np.nan, d)
    assert np.nanstd(factor) < 1e-2 and 0.8 <= np.nanmedian(factor) <= 1.25
    assert len(np.unique(still["points"], axis=0)) < 64, "with replacement, as the authors draw"
    centred = cloud - cloud.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1).max()
    nearest = np.linalg.norm(still["points"][:, None] - centred, axis=2).argmin(axis=1)
    assert (still["part"] == part[nearest]).all() and np.allclose(still["points"], centred[nearest], atol=1e-5)
    for wrong, told in (({"part": np.full(100, 3)}, "part 3 is none of its category"), ({"part": np.full(100, -1)}, "no point has a part")):
        with pytest.raises(BrokenSampleError, match=told):
            views({**sample, **wrong}, sample_rng(0, 0))


def test_what_does_not_fit_is_named() -> None:
    for changed, told in (
        ({"parts_of": [[0, 1]]}, "the parts of 1 categories, and there are 2"),
        ({"parts_of": [[0], [5]]}, r"parts_of\[1\] \[5\]"),
        ({"part_names": ["a"]}, "1 class_names for 5 classes"),
    ):
        with pytest.raises(ValueError, match=told):
            config(**changed)
