"""The figures of a representation say what their docstrings promise."""

from __future__ import annotations

import torch

from sightline.methods.layers.health import agreement, effective_rank, feature_std


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_spread_directions_have_a_feature_std_of_one_and_a_single_direction_of_zero() -> None:
    assert abs(feature_std(noise(40, 50, 32)) - 1) < 0.02
    assert feature_std(torch.ones(40, 1) * noise(32) * torch.linspace(1, 2, 40)[:, None]) < 1e-6


def test_effective_rank_counts_the_dimensions_that_carry_something() -> None:
    assert effective_rank(noise(4, 5000, 16)) > 0.99
    one = noise(100, 1) * noise(1, 16)
    assert abs(effective_rank(one) - 1 / 16) < 1e-4
    four = noise(4000, 4) @ torch.linalg.qr(noise(16, 16)).Q[:4]
    assert abs(effective_rank(four) - 4 / 16) < 0.01
    assert effective_rank(torch.ones(10, 16)) == 0


def test_effective_rank_is_that_of_the_singular_values_also_with_fewer_rows_than_dimensions() -> None:
    for rows in (noise(20, 16), noise(9, 16)):
        singular = torch.linalg.svdvals((rows - rows.mean(0)).double())
        share = singular[singular > 1e-9] / singular.sum()
        torch.testing.assert_close(effective_rank(rows), ((-(share * share.log()).sum()).exp() / 16).float())


def test_agreement_is_the_mean_cosine() -> None:
    x = noise(3, 7, 8)
    torch.testing.assert_close(agreement(x, 3 * x), torch.tensor(1.0))
    torch.testing.assert_close(agreement(x, -x), torch.tensor(-1.0))
