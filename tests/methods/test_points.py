"""Farthest points, nearest neighbours and Chamfer distance against the plainest code there is; ties, duplicates and the origin."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from sightline.methods.i2p_mae.pretext import I2PMaePretext
from sightline.methods.layers import points as layer
from sightline.methods.layers.points import chamfer, chamfer_pairs, farthest_point_sampling, nearest, squared_distances, take
from sightline.methods.ops.farthest_point_sampling import farthest_point_sampling as numpy_sampling


def cloud(n: int, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.rand(batch, n, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


def plain_farthest(points: np.ndarray, count: int, skip_origin: bool) -> list[int]:
    """One point at a time, as the text of the rule says it."""
    n = len(points)
    threads = 1
    while threads * 2 <= min(512, n):
        threads *= 2
    bits = threads.bit_length() - 1

    def rank(index: int) -> tuple[int, int]:
        slot = index % threads
        return int(f"{slot:0{bits}b}"[::-1], 2) if bits else 0, index

    candidates = [i for i in range(n) if not (skip_origin and (points[i] ** 2).sum(dtype=np.float32) <= np.float32(1e-3))]
    least = {i: np.float32(np.inf) for i in candidates}
    picks = [0]
    while len(picks) < count:
        for i in candidates:
            least[i] = min(least[i], ((points[i] - points[picks[-1]]) ** 2).sum(dtype=np.float32))
        picks.append(min(candidates, key=lambda i: (-least[i], rank(i))) if candidates else 0)
    return picks


LATTICE = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), dim=-1).view(1, 64, 3) - 1.5
DOUBLED = cloud(20).repeat(1, 3, 1)


@pytest.mark.parametrize("skip_origin", [False, True])
@pytest.mark.parametrize(
    ("points", "count"),
    [
        (cloud(100), 40),
        (cloud(700, seed=3), 30),
        (LATTICE, 64),
        (DOUBLED, 60),
        (0.03 * cloud(50), 10),
        (torch.zeros(1, 7, 3), 7),
        (cloud(1), 1),
    ],
    ids=["random", "more than 512", "lattice", "duplicates", "near the origin", "one point seven times", "one point"],
)
def test_farthest_points_are_those_of_the_rule(points: Tensor, count: int, skip_origin: bool) -> None:
    picks = farthest_point_sampling(points, count, skip_origin=skip_origin)
    assert picks[0].tolist() == plain_farthest(points[0].numpy(), count, skip_origin)
    assert numpy_sampling(points[0].numpy(), count, skip_origin=skip_origin).tolist() == picks[0].tolist(), "NumPy's are the same"


def test_every_sample_of_a_batch_is_picked_by_itself() -> None:
    points = cloud(80, batch=3)
    together = farthest_point_sampling(points, 20)
    assert torch.equal(together, torch.cat([farthest_point_sampling(one[None], 20) for one in points]))
    assert all(len(set(picks.tolist())) == 20 for picks in together)


@pytest.mark.parametrize("points", [cloud(90, batch=2), LATTICE, DOUBLED], ids=["random", "lattice", "duplicates"])
@pytest.mark.parametrize("count", [1, 7, 20])
def test_nearest_are_in_order_and_ties_keep_the_lower_index(points: Tensor, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    centres = points[:, :15]
    found = nearest(centres, points, count)
    for b in range(len(points)):
        table = ((centres[b, :, None].numpy() - points[b].numpy()) ** 2).astype(np.float32).sum(axis=-1)
        assert np.array_equal(found[b].numpy(), np.argsort(table, axis=1, kind="stable")[:, :count])
    monkeypatch.setattr(layer, "LARGEST_ON_CPU", 4 * points.shape[1])  # one centre at a time
    assert torch.equal(nearest(centres, points, count), found)


@pytest.mark.parametrize("points", [cloud(90, batch=2), 1e4 + cloud(90), LATTICE, DOUBLED, torch.zeros(1, 30, 3)])
@pytest.mark.parametrize("count", [1, 6, 29, 30])
def test_a_tree_finds_the_same_as_all_distances(points: Tensor, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    count = min(count, points.shape[1])
    centres = torch.cat([points[:, :20], cloud(10, batch=len(points), seed=2)], dim=1)
    plain = nearest(centres, points, count)
    monkeypatch.setattr(layer, "TREE", 0)
    monkeypatch.setattr(layer, "_nearest", None)
    assert torch.equal(nearest(centres, points, count), plain)


def test_where_a_tree_fails_all_distances_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(30)
    points[0, 7] = torch.nan
    plain = nearest(points, points, 4)
    monkeypatch.setattr(layer, "TREE", 0)
    assert torch.equal(nearest(points, points, 4), plain)


def test_all_points_may_be_asked_for_and_no_more() -> None:
    points = cloud(9)
    assert sorted(nearest(points, points, 9)[0, 0].tolist()) == list(range(9))
    with pytest.raises(ValueError, match="10 neighbours of 9 points"):
        nearest(points, points, 10)


def test_no_table_of_distances_is_larger_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = squared_distances

    def noted(a: Tensor, b: Tensor) -> Tensor:
        out = original(a, b)
        made.append(out.numel() * 4)
        return out

    monkeypatch.setattr(layer, "squared_distances", noted)
    monkeypatch.setattr(layer, "LARGEST_ON_CPU", 1 << 16)
    monkeypatch.setattr(layer, "TREE", 1 << 62)
    points = cloud(300, batch=4)
    nearest(points[:, :64], points, 8)
    assert len(made) > 1 and max(made) <= 1 << 16


def test_chamfer_is_the_mean_of_nearest_squares_both_ways() -> None:
    a, b = cloud(8, batch=5, seed=1).requires_grad_(), cloud(6, batch=5, seed=2)
    table = (a.detach()[:, :, None] - b[:, None]).square().sum(dim=-1)
    expected = table.amin(dim=2).mean() + table.amin(dim=1).mean()
    loss = chamfer(a, b)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert a.grad is not None
    moved = a.detach() - 1e-3 * a.grad
    assert chamfer(moved, b) < expected
    same = chamfer(b.clone().requires_grad_(), b)
    same.backward()
    assert same == 0


def test_chamfer_ties_take_the_lower_index_and_nothing_gives_zero() -> None:
    a = torch.tensor([[[0.0, 0, 0]]])
    b = torch.tensor([[[1.0, 0, 0], [-1.0, 0, 0]]])
    assert [index.tolist() for index in chamfer_pairs(a, b)] == [[[0]], [[0, 0]]]
    none = torch.empty(0, 8, 3, requires_grad=True)
    loss = chamfer(none, torch.empty(0, 8, 3))
    loss.backward()
    assert loss == 0


def test_take_gathers_rows_by_index_of_any_shape() -> None:
    values = torch.arange(24.0).view(2, 4, 3)
    index = torch.tensor([[[0, 3]], [[2, 2]]])
    assert torch.equal(take(values, index), torch.stack([values[0, [0, 3]][None], values[1, [2, 2]][None]]))


@pytest.mark.slow
def test_search_is_exported_for_batches_of_any_size() -> None:
    class Search(torch.nn.Module):
        def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
            picks = farthest_point_sampling(points, 8, skip_origin=True)
            return picks, nearest(take(points, picks), points, 4)

    sizes = ({0: torch.export.Dim("batch", min=2, max=64)},)
    exported = torch.export.export(Search(), (cloud(40, batch=2),), dynamic_shapes=sizes).run_decompositions().module()
    points = cloud(40, batch=5, seed=1)
    for found, expected in zip(exported(points), Search()(points), strict=True):
        assert torch.equal(found, expected)


def test_losses_of_clouds_are_means_over_their_own_tokens() -> None:
    """A cloud without any has the mean of all."""
    told = SimpleNamespace(sample_losses={})
    I2PMaePretext._tell(told, "points", torch.tensor([1.0, 3, 5]), torch.tensor([0, 0, 2]), 3)  # type: ignore[arg-type]
    assert told.sample_losses["points"].tolist() == [2, 3, 5]
