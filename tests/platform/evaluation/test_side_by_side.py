"""Networks are measured by several threads of Python, with the results of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sightline.platform.evaluation.probes.cloud_context import Cloud, CloudBatch, CloudEvalContext
from sightline.platform.evaluation.probes.context import EvaluatedModel, ImageEvalContext
from sightline.platform.evaluation.side_by_side import most_at_once, side_by_side


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_parts_are_worked_on_at_once_each_with_its_share_of_threads() -> None:
    met = threading.Barrier(2, timeout=20)

    def of(part: int) -> tuple[int, int, bool]:
        met.wait()
        return part, torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert side_by_side(of, [3, 1], "cpu") == [(3, 2, False), (1, 2, False)]
    assert torch.get_num_threads() == 4 and most_at_once("cpu") == 4 and most_at_once("cuda") == 1

    def fails(part: int) -> None:
        raise ValueError(part)

    with pytest.raises(ValueError, match="1"):
        side_by_side(fails, [1, 2], "cpu")
    assert torch.get_num_threads() == 4


class Images(torch.nn.Module):
    image_size, patch_size, dim = (8, 8), 4, 3

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.given = factor, list[int]()

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        self.given.append(len(images))
        return self.factor * images.unfold(2, 4, 4).unfold(3, 4, 4).mean(dim=(4, 5)).flatten(2).mT


def test_an_image_that_a_probe_has_measured_is_not_measured_by_the_next() -> None:
    images = {(8, 8): np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)}
    trained, control = Images(1.0), Images(2.0)
    context = ImageEvalContext([EvaluatedModel("trained", trained, (control,))])
    first = {name: tokens for name, _, tokens in context.tokens(images)}
    torch.testing.assert_close(first["trained"], trained.tokens(torch.from_numpy(images[8, 8]).permute(0, 3, 1, 2) / 255).double())
    torch.testing.assert_close(first["random 1"], 2 * first["trained"])
    trained.given.clear()
    other = {(8, 8): images[8, 8][::-1].copy()}
    other[8, 8][3] += 1
    second = {name: tokens for name, _, tokens in context.tokens(other)}
    assert sum(trained.given) == 1, "the one that differs"
    unchanged = np.arange(20) != 3
    assert torch.equal(second["trained"][unchanged], first["trained"].flip(0)[unchanged])
    assert not torch.equal(second["trained"][3], first["trained"].flip(0)[3])


class Clouds(torch.nn.Module):
    points = 16

    def __init__(self, grouping: int) -> None:
        super().__init__()
        self.grouping, self.grouped = grouping, list[int]()

    def scales(self, points: torch.Tensor) -> torch.Tensor:
        self.grouped.append(len(points))
        return self.grouping * points

    def tokens(self, points: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
        return self.scales(points) if scales is None else scales

    def pooled(self, points: torch.Tensor, scales: torch.Tensor | None = None) -> torch.Tensor:
        return self.tokens(points, scales).amax(dim=1)


def test_networks_that_group_points_alike_share_the_groups() -> None:
    alike, control, other = Clouds(1), Clouds(1), Clouds(3)
    context = CloudEvalContext([EvaluatedModel("trained", alike, (control,)), EvaluatedModel("other", other)])
    points = np.random.default_rng(0).normal(size=(20, 16, 3)).astype(np.float32)
    batch = CloudBatch([Cloud(i, str(i), b"", 0) for i in range(20)], {16: points}, {})
    found: dict[str, Any] = dict(context.pooled(batch))
    assert sum(alike.grouped) == 20 and not control.grouped and sum(other.grouped) == 20
    largest = torch.from_numpy(points).double().amax(dim=1)
    assert torch.equal(found["trained"], largest) and torch.equal(found["random 1"], largest)
    torch.testing.assert_close(found["other"], 3 * largest)
