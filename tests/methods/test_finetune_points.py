"""Fine-tuning on clouds through the contract: points that are drawn, one rotation a group, smoothing, votes, keyed draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_discs import ENCODER, MODEL, toy_cloud

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import BrokenSampleError, SightlineError
from sightline.methods.finetune_points.network import DROPPED, smoothed_cross_entropy
from sightline.methods.finetune_points.pretext import turned
from sightline.methods.ops.farthest_point_sampling import farthest_point_sampling
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.random import MicrobatchRng, keyed_rng
from sightline.platform.data.kinds import input_of

METHOD = find_method("finetune_points")
STILL = {"scale": [1, 1], "shift": 0}


def configured(model: dict[str, Any] | None = None, **sections: dict[str, Any]) -> Any:
    return METHOD.Config.model_validate({"model": {"encoder": ENCODER, "classes": 3, **MODEL, **(model or {})}, **sections})


def sample(label: int = 1, points: int = 96) -> dict[str, Any]:
    return {"points": toy_cloud(label, label, points), "label": label}


def batch(config: Any, count: int = 4) -> dict[str, torch.Tensor]:
    views = METHOD.views(config)
    made = [views(sample(i % 3), keyed_rng("views", i)) for i in range(count)]
    return {name: torch.from_numpy(np.stack([m[name] for m in made])) for name in made[0]}


def build(config: Any, seed: int = 0) -> Any:
    return METHOD.build(config, BuildContext(seed=seed))


def rows(points: np.ndarray) -> set[tuple[float, ...]]:
    return {tuple(row) for row in points.round(5).tolist()}


@pytest.mark.parametrize(("points", "pool"), [(1024, 1200), (2048, 2400), (64, 75)])
def test_a_draw_is_taken_from_as_many_farthest_points_as_the_authors(points: int, pool: int) -> None:
    assert configured({"points": points}, pretext={"votes": 0}).pool == pool


@pytest.mark.parametrize("stored", [70, 300])
def test_training_draws_from_the_farthest_points_and_validation_takes_them(stored: int) -> None:
    """With 300 stored points 75 are farthest, of which 64 are drawn; with 70 all of them are."""
    config = configured(augment={**STILL, "normalise": False})
    views = METHOD.views(config)
    one = sample(points=stored)
    first = views(one, keyed_rng("a"))["points"]
    assert first.shape == (64, 3) and first.dtype == np.float32
    assert len(rows(first)) == 64, "without replacement"
    seen = views.evaluation(one, keyed_rng("any"))["points"]
    assert np.array_equal(seen, one["points"][farthest_point_sampling(one["points"], 64, skip_origin=True)])


def test_every_drawn_point_is_one_of_the_pool_from_a_random_first_point() -> None:
    config = configured(augment={**STILL, "normalise": False})
    one = sample(points=300)
    drawn = METHOD.views(config)(one, keyed_rng("a"))["points"]
    pools = [np.roll(one["points"], -start, axis=0) for start in range(300)]
    found = [rows(drawn) <= rows(pool[farthest_point_sampling(pool, 75, skip_origin=True)]) for pool in pools]
    assert any(found) and not all(found)


def test_views_are_pure_and_validation_knows_no_chance() -> None:
    views = METHOD.views(configured())
    for one in (views, views.voting):
        first, second, other = (one(sample(), keyed_rng(name))["points"] for name in ("a", "a", "b"))
        assert np.array_equal(first, second)
        assert not np.array_equal(first, other)
    assert np.array_equal(*(views.evaluation(sample(), keyed_rng(name))["points"] for name in ("a", "b")))


def test_each_cloud_is_scaled_and_shifted_by_axis_after_it_is_normalised() -> None:
    config = configured(augment={"scale": [0.5, 2.0], "shift": 0.3})
    plain = configured(augment=STILL)
    one = sample(points=64)  # all are drawn, in the same order for the same generator
    augmented, still = (METHOD.views(c)(one, keyed_rng("x"))["points"] for c in (config, plain))
    assert np.linalg.norm(still, axis=1).max() == pytest.approx(1, abs=1e-6)
    for axis in range(3):
        scale, shift = np.polyfit(still[:, axis], augmented[:, axis], 1)
        np.testing.assert_allclose(still[:, axis] * scale + shift, augmented[:, axis], atol=1e-5)
        assert 0.5 <= scale <= 2 and abs(shift) <= 0.3
    whole = configured(augment={**STILL, "normalise": False})
    assert rows(METHOD.views(whole).evaluation(one, keyed_rng("x"))["points"]) == rows(one["points"])
    assert [input_of(build(c).encoder()).words for c in (config, whole)] == [
        "float32 coordinates, centred on the mean, the farthest at distance 1; any batch, this many points",
        "float32 coordinates, as in the training data; any batch, this many points",
    ]


def test_one_rotation_about_y_turns_the_whole_microbatch() -> None:
    points = torch.randn(5, 20, 3, generator=torch.Generator().manual_seed(0))
    out = turned(points, 180.0, MicrobatchRng(0, 3, 0))
    assert torch.equal(out[..., 1], points[..., 1])
    torch.testing.assert_close(out.norm(dim=-1), points.norm(dim=-1))
    before, after = (torch.atan2(p[..., 0], p[..., 2]) for p in (points, out))
    angle = torch.remainder(after - before + 1e-3, 2 * math.pi)
    assert angle.max() - angle.min() < 1e-4
    assert not torch.allclose(out, turned(points, 180.0, MicrobatchRng(0, 4, 0)))
    assert torch.equal(out, turned(points, 180.0, MicrobatchRng(0, 3, 0)))
    small = (
        torch.remainder(torch.atan2(*turned(points, 10.0, MicrobatchRng(0, 9, 0))[0, 0, [0, 2]]) - before[0, 0] + math.pi, 2 * math.pi)
        - math.pi
    )
    assert abs(math.degrees(small)) <= 10


def test_a_microbatch_is_turned_in_training_alone() -> None:
    config = configured(augment={"rotation": 180}, pretext={"votes": 0, "label_smoothing": 0})
    still = configured(pretext={"votes": 0, "label_smoothing": 0})
    data, noise = batch(config), MicrobatchRng(0, 0, 0)
    trained, other = build(config), build(still)
    assert trained(data, noise)["cross_entropy"] != other(data, noise)["cross_entropy"]
    moved = {**data, "points": turned(data["points"], 180.0, noise)}
    assert trained(data, noise)["cross_entropy"] == other(moved, noise)["cross_entropy"]
    trained, other = build(config).eval(), build(still).eval()
    assert trained(data, noise)["cross_entropy"] == other(data, noise)["cross_entropy"]


def test_smoothing_goes_to_the_other_classes_alone() -> None:
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    p = [math.exp(v) / (math.exp(2) + 1 + math.e) for v in (2, 0, 1)]
    by_hand = -(0.8 * math.log(p[0]) + 0.1 * math.log(p[1]) + 0.1 * math.log(p[2]))
    assert smoothed_cross_entropy(logits, torch.tensor([0]), 0.2).item() == pytest.approx(by_hand, rel=1e-6)
    assert torch.nn.functional.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.2).item() != pytest.approx(by_hand, rel=1e-3)


def test_training_is_smoothed_and_validation_is_not() -> None:
    config = configured()
    pretext, data = build(config), batch(config)
    kept, alive = pretext.draws(4, MicrobatchRng(0, 0, 0), torch.device("cpu"))
    logits = pretext.predictor.logits(data["points"], kept, alive)
    assert torch.equal(pretext(data, MicrobatchRng(0, 0, 0))["cross_entropy"], smoothed_cross_entropy(logits, data["label"], 0.2))
    pretext.eval()
    logits = pretext.predictor.logits(data["points"])
    assert torch.equal(pretext(data, MicrobatchRng(0, 0, 0))["cross_entropy"], torch.nn.functional.cross_entropy(logits, data["label"]))


def test_what_is_dropped_is_drawn_from_the_noise() -> None:
    config = configured({"drop_path": 0.0})
    pretext, data = build(config), batch(config)
    state = torch.get_rng_state()
    first, again, other = (pretext(data, MicrobatchRng(0, step, 0))["cross_entropy"].item() for step in (1, 1, 2))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())
    pooled = torch.ones(1, 48)
    head = pretext.predictor.eval()
    alive = torch.ones(2, 1, 256, dtype=torch.bool)
    alive[1, 0, 7:] = False
    hidden = head.cls_head_finetune[4:7](2 * head.cls_head_finetune[:3](pooled))
    expected = hidden[:, :7] / (1 - DROPPED) @ head.cls_head_finetune[8].weight[:, :7].T + head.cls_head_finetune[8].bias
    torch.testing.assert_close(head.head(pooled, alive), expected)


def test_votes_are_further_draws_of_the_same_farthest_points() -> None:
    config = configured(augment={**STILL, "normalise": False}, pretext={"votes": 4})
    one = sample(points=300)
    made = METHOD.views(config).voting(one, keyed_rng("a"))
    assert made["points"].shape == (1, 4, 64, 3)
    pool = rows(one["points"][farthest_point_sampling(one["points"], 75, skip_origin=True)])
    drawn = [rows(draw) for draw in made["points"][0]]
    assert all(draw <= pool and len(draw) == 64 for draw in drawn)
    assert drawn[0] != drawn[1]
    best = configured(pretext={"votes": 4, "best_of_49": True})
    assert METHOD.views(best).voting(one, keyed_rng("a"))["points"].shape == (49, 4, 64, 3)
    assert METHOD.views(configured(pretext={"votes": 0})).voting is None


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pretext": {"votes": 10}, "model": {"points": 2048}}, "vote with 1,024 points alone"),
        ({"pretext": {"votes": 0, "best_of_49": True}}, "pretext.votes is 0"),
        ({"model": {"neighbours": [6, 17, 3]}}, r"neighbours\[1\] 17 is more than model.groups\[0\] 16"),
        ({"model": {"points": 12}}, r"groups\[0\] 16 is more than model.points 12"),
        ({"model": {"radius": [0.1, 0.0, 1.0]}}, "radius"),
        ({"model": {"encoder": {"method": "conmim"}}}, "conmim has another encoder than i2p_mae"),
        ({"model": {"encoder": {}}}, "name no method"),
    ],
)
def test_settings_that_do_not_go_together_are_told(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        configured(**changed)


def test_clouds_that_cannot_be_used_are_broken_samples() -> None:
    views = METHOD.views(configured())
    for one, says in (
        (sample(points=63), "63 points; model.points needs 64"),
        ({**sample(), "label": 3}, "label 3 is none of the 3 classes"),
        ({**sample(), "points": np.ones((80, 3), np.float32)}, "all points are the same"),
    ):
        for view in (views, views.evaluation, views.voting):
            with pytest.raises(BrokenSampleError, match=says):
                view(one, keyed_rng("v"))


def test_a_microbatch_of_one_is_refused() -> None:
    config = configured()
    with pytest.raises(SightlineError, match="one cloud"):
        build(config)(batch(config, 1), MicrobatchRng(0, 0, 0))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["sum", "concat"])
def test_a_few_steps_learn(pooling: str) -> None:
    config = configured({"pooling": pooling}, pretext={"label_smoothing": 0.0})
    pretext, data = build(config), batch(config, 6)
    assert not any(p.is_meta for p in pretext.parameters())
    optimizer = torch.optim.AdamW(pretext.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        loss = pretext(data, MicrobatchRng(0, step, 0))["cross_entropy"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is not None for p in pretext.parameters()), "DDP waits for all gradients"
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_the_authors_rules_for_decay_and_rates() -> None:
    pretext = build(configured())
    groups = {g.name: g for g in pretext.param_groups(OptimConfig(lr=1.0))}
    names = {id(p): n.removeprefix("predictor.") for n, p in pretext.named_parameters()}
    decayed = {names[id(p)] for p in groups["decay"].params}
    assert {"cls_head_finetune.0.weight", "h_encoder.encoder_blocks.0.blocks.0.attn.qkv.weight"} <= decayed
    assert not any("token" in name or name.endswith(".bias") or name.startswith("norm") for name in decayed)
    optim = OptimConfig.model_validate({"lr": 5e-4, "min_lr": 1e-6, "warmup": "10 epochs", "decay": "300 epochs"})
    clock = Clock(steps=301 * 7, batch_size=2, samples=14)
    lr = pretext.schedules(optim, clock)["lr"]
    assert lr(0) == lr(13) == 1e-6 and lr(14) == pytest.approx(1e-6 + (5e-4 - 1e-6) / 10)
    smooth = build(configured(pretext={"official": False})).schedules(optim, clock)["lr"]
    assert smooth(7) == pytest.approx(lr(14)) and smooth(8) > smooth(7)


def test_the_quirk_of_the_origin_is_behind_its_switch() -> None:
    near = {**sample(points=64)}
    near["points"] = near["points"].copy()
    near["points"][:8] *= 0.01
    for official, missing in ((True, True), (False, False)):
        config = configured(pretext={"official": official}, augment={**STILL, "normalise": False})
        seen = METHOD.views(config).evaluation(near, keyed_rng("a"))["points"]
        assert (len(rows(near["points"]) - rows(seen)) == 7) == missing, "index 0 is always picked"
        assert build(config).predictor.official is official


def test_the_exported_classifier_is_the_trained_network() -> None:
    config = configured()
    pretext, data = build(config).eval(), batch(config)
    predictor = pretext.encoder().eval()
    assert torch.equal(predictor(data["points"]), pretext.predictor.logits(data["points"]))
    assert predictor.tokens(data["points"]).shape == (4, 4, 48)
    assert {p.data_ptr() for p in predictor.parameters()}.isdisjoint(p.data_ptr() for p in pretext.parameters())


@pytest.mark.parametrize("pooling", ["sum", "concat"])
def test_the_official_layout_goes_out_and_comes_back(pooling: str) -> None:
    assert METHOD.official is not None
    official, config = METHOD.official(), configured({"pooling": pooling})
    state = build(config, seed=4).state_dict()
    tensors, settings = official.save(state, config)
    assert {"norm.weight", "cls_head_finetune.8.bias", "h_encoder.token_embed.0.first_conv.0.weight"} <= tensors.keys()
    assert tensors["h_encoder.token_embed.0.first_conv.0.weight"].shape == (8, 3, 1)
    assert not any("encoder_norms" in name or name.startswith("predictor") for name in tensors)
    told = official.settings_of({"model": tensors, **settings})
    again = METHOD.Config.model_validate(told)
    assert again.model.network.model_dump(exclude={"decoder_depths", "decoder_up_blocks"}) == config.model.network.model_dump(
        exclude={"decoder_depths", "decoder_up_blocks"}
    )
    assert (again.model.pooling, again.model.radius, again.model.classes) == (pooling, config.model.radius, 3)
    fresh = build(again)
    loaded, match = official.load({"model": {f"module.{n}": t for n, t in tensors.items()}}, fresh.state_dict(), again)
    assert not match.missing and not match.unexpected
    fresh.load_state_dict(loaded)
    data = batch(config)
    assert torch.equal(
        fresh.eval()(data, MicrobatchRng(0, 0, 0))["cross_entropy"], _loaded(config, state)(data, MicrobatchRng(0, 0, 0))["cross_entropy"]
    )
    with pytest.raises(SightlineError, match=r"cls_head_finetune\.0\.weight is not in the file"):
        official.settings_of({"model": {n: t for n, t in tensors.items() if "cls_head" not in n}})


def _loaded(config: Any, state: dict[str, torch.Tensor]) -> Any:
    pretext = build(config)
    pretext.load_state_dict(state)
    return pretext.eval()
