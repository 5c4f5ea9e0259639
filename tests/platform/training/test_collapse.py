"""RankMe and LiDAR are what their papers say, and tell a collapse of a real encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sightline.methods import collective
from sightline.platform.training.collapse import CollapseMeter, lidar, rankme


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def of_rank(k: int, rows: int = 40, d: int = 16) -> torch.Tensor:
    """`rows` x `d` with `k` singular values of 3, the others 0."""
    left, right = (torch.linalg.qr(noise(size, size).double()).Q[:, :k] for size in (rows, d))
    return 3 * left @ right.T


@pytest.mark.parametrize("k", [1, 2, 7, 16])
def test_rankme_of_a_matrix_of_rank_k_is_k(k: int) -> None:
    assert abs(rankme(of_rank(k)) - k) < 1e-3 * k
    assert abs(rankme(of_rank(k).T) - k) < 1e-3 * k


def test_rankme_of_rows_that_are_all_the_same_is_one() -> None:
    assert abs(rankme(torch.ones(50, 1) * noise(16)) - 1) < 1e-4
    assert rankme(torch.zeros(5, 16)) == 1 and rankme(torch.full((5, 16), torch.nan)).isnan()


def test_rankme_is_its_formula() -> None:
    rows = noise(30, 8)
    share = torch.linalg.svdvals(rows.double())
    share = share / share.sum()
    torch.testing.assert_close(rankme(rows), (-(share * share.log()).sum()).exp().float(), rtol=1e-5, atol=0)


def test_inputs_are_made_outside_of_autocast_as_in_training() -> None:
    """A blur of images is a convolution, which autocast would make in bf16."""
    inside: list[tuple[str, bool]] = []

    class Pretext:
        def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            inside.append(("inputs", torch.is_autocast_enabled("cpu")))
            return batch

        def embeddings(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            inside.append(("embeddings", torch.is_autocast_enabled("cpu")))
            return batch["x"]

    meter = CollapseMeter({"x": np.random.default_rng(0).normal(size=(12, 4, 6)).astype(np.float32)}, torch.device("cpu"))
    assert set(meter.measure(Pretext(), 16, torch.autocast("cpu", torch.bfloat16))) == {"rankme", "lidar"}
    assert inside == [("inputs", False), ("embeddings", True)] * 3


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_divide_the_samples_and_find_what_one_finds(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 samples, 4 at a time: of 5 processes 2 have nothing of their own."""
    embedded: list[int] = []

    class Pretext:
        def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return batch

        def embeddings(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            embedded.append(len(batch["x"]))
            return batch["x"]

    meter = CollapseMeter({"x": np.random.default_rng(0).normal(size=(12, 4, 6)).astype(np.float32)}, torch.device("cpu"))
    autocast = torch.autocast("cpu", torch.bfloat16)
    alone = meter.measure(Pretext(), 16, autocast)
    parts: list[torch.Tensor] = []

    def sum_(tensor: torch.Tensor) -> torch.Tensor:
        parts.append(tensor)
        return torch.stack(parts).sum(dim=0)

    monkeypatch.setattr(collective, "world_size", lambda: world)
    monkeypatch.setattr(collective, "sum_", sum_)
    embedded.clear()
    for rank in range(world):
        monkeypatch.setattr(collective, "rank", lambda rank=rank: rank)
        found = meter.measure(Pretext(), 16, autocast)
    assert found == alone and len(embedded) == max(3, world)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_lidar_counts_the_directions_that_tell_samples_apart(k: int) -> None:
    """What the draws add lies in other directions, is as large, and does not count. RankMe counts it."""
    centred = noise(8, 7).double() - noise(8, 7).double().mean(dim=0)
    means, draws = torch.zeros(8, 1, 16).double(), torch.zeros(8, 6, 16).double()
    means[:, 0, :k] = 100 * torch.linalg.qr(centred).Q[:, :k]
    draws[..., 10:] = 100 * noise(8, 6, 6).double()
    embeddings = means + draws - draws.mean(dim=1, keepdim=True)
    assert abs(lidar(embeddings) - k) < 1e-3 * k
    assert rankme(embeddings.flatten(0, 1)) > k + 2


def test_lidar_is_its_formula_and_one_where_all_samples_are_the_same() -> None:
    embeddings = 2 + noise(12, 5, 4) + 3 * noise(12, 1, 4)
    means = embeddings.double().mean(dim=1)
    around = (embeddings.double() - means[:, None]).flatten(0, 1)
    within = around.T @ around / len(around) + 1e-4 * torch.eye(4)
    between = (means - means.mean(dim=0)).T @ (means - means.mean(dim=0)) / 12
    half = torch.linalg.inv(torch.linalg.cholesky(within))
    share = torch.linalg.eigvalsh(half @ between @ half.T)
    share = share / share.sum()
    torch.testing.assert_close(lidar(embeddings), (-(share * share.log()).sum()).exp().float(), rtol=1e-5, atol=0)
    assert lidar(torch.ones(6, 3, 4)) == 1 and lidar(torch.full((6, 3, 4), torch.inf)).isnan()
    assert abs(lidar(noise(1, 5, 4).expand(9, 5, 4)) - 1) < 1e-4, "the same draws of all"
