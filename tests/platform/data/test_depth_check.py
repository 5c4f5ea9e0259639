"""Matched points tell whether depth and poses have one unit."""

from __future__ import annotations

import numpy as np
import pytest
from plane_scene import camera, view

from sightline.platform.data.depth_check import DepthVerdict, Ratios, ratios
from sightline.platform.data.epipolar import Matches, triangulated
from sightline.platform.data.geometry import relative_pose

SIZE = (240, 320)


def seen(gap: int, times: float = 1.0, noise: float = 0.5, along_ray: bool = False, unit: float = 1.0) -> Ratios:
    """Of two photos of the wall; `times`: what the depth is too small by; `unit`: of the poses, in metres."""
    rng = np.random.default_rng(gap)
    (K, one), (_, two) = camera(0, SIZE), camera(gap, SIZE)
    T = relative_pose(one, two)
    xy1 = rng.uniform((5, 5), (314, 234), (150, 2)).round()
    maps = [view(K, pose, SIZE)[1] for pose in (one, two)]
    z = maps[0][xy1[:, 1].astype(int), xy1[:, 0].astype(int)]
    there = K @ (T[:3, :3] @ (np.linalg.inv(K) @ np.c_[xy1, np.ones(150)].T * z) + T[:3, 3:])
    xy2 = (there[:2] / there[2]).T + rng.normal(0, noise, (150, 2))
    inside = ((xy2 > 0) & (xy2 < (319, 239))).all(axis=1)
    rays = np.linalg.norm(np.linalg.inv(K) @ np.stack([*np.mgrid[:240, :320][::-1].reshape(2, -1), np.ones(240 * 320)]), axis=0)
    depth = [metres / times * (rays.reshape(SIZE) if along_ray else 1) for metres in maps]
    T[:3, 3] /= unit
    return ratios(Matches(xy1[inside], xy2[inside], K, K, T, 400.0), depth[0], depth[1][::2, ::2], SIZE, SIZE)


def test_matches_are_triangulated_with_how_surely() -> None:
    (K, one), (_, two) = camera(0, SIZE), camera(3, SIZE)
    points = np.array([[0.2, 0.1, 2.0], [0.1, -0.2, 4.0], [-0.3, 0.3, 8.0]])
    T = relative_pose(one, two)

    def at(z: np.ndarray) -> np.ndarray:
        x = K @ (T[:3, :3] @ (points.T / points[:, 2] * z) + T[:3, 3:])
        return (x[:2] / x[2]).T

    first = (K @ (points / points[:, 2:]).T)[:2].T
    found = triangulated(Matches(first, at(points[:, 2]), K, K, T, 400.0))
    np.testing.assert_allclose(found.z, points[:, 2], rtol=1e-9)
    step = 1e-5
    moved = np.linalg.norm(at(points[:, 2] * (1 + step)) - at(points[:, 2] * (1 - step)), axis=1) / (2 * step)
    np.testing.assert_allclose(found.pull, moved, rtol=1e-4)


@pytest.mark.parametrize(
    ("times", "units", "says"),
    [
        (5, 5000, "--depth-scale 1000 (millimetres) would fit"),
        (0.2, 1000, "--depth-scale 5000 (1/5000 m, as TUM RGB-D has it) would fit"),
        (0.25, 1000, "--depth-scale 4000 (1/4000 m"),
        (0.37, 1000, ", which is no usual unit, would fit"),
    ],
)
def test_a_wrong_unit_is_found_and_the_right_one_named(times: float, units: float, says: str) -> None:
    verdict = DepthVerdict([seen(gap, times) for gap in range(2, 9)])
    assert verdict.wrong and verdict.factor == pytest.approx(times, rel=0.05)
    assert says in verdict.remedy(units) and f"multiply their places by {1 / verdict.factor:.3g}" in verdict.remedy(units)


def test_poses_of_another_unit_are_found_as_well() -> None:
    assert DepthVerdict([seen(gap, unit=0.05) for gap in range(2, 9)]).factor == pytest.approx(20, rel=0.05)


def test_units_that_differ_little_are_doubted_where_many_pairs_agree() -> None:
    near = [seen(gap, 1.25, noise=0.1) for gap in range(3, 9)]
    assert DepthVerdict(near).doubtful and not DepthVerdict(near).wrong and "--depth-scale 4000" in DepthVerdict(near).remedy(5000)
    assert not DepthVerdict(near[:4]).doubtful, "few pairs"
    assert not DepthVerdict([*near, seen(4, 1.0)]).doubtful, "pairs do not agree"


@pytest.mark.parametrize("times", [1.0, 0.8, 1.2])
def test_rough_poses_and_depth_raise_no_alarm(times: float) -> None:
    rough = [seen(gap, times * factor, noise=2.0) for gap, factor in ((3, 0.8), (4, 1.3), (5, 0.9), (6, 1.1), (7, 1.25), (8, 0.7))]
    verdict = DepthVerdict(rough)
    assert not (verdict.wrong or verdict.doubtful or verdict.along_ray) and "of 6 pairs" in verdict.told


def test_cameras_in_one_place_and_few_matches_tell_nothing() -> None:
    verdict = DepthVerdict([seen(0, 5), Ratios(np.full(19, 5.0), np.full(19, 0.9))])
    assert not (verdict.wrong or verdict.doubtful) and "not held against the poses: in none of 2 pairs" in verdict.told
    two = DepthVerdict([seen(3, 5), seen(4, 5)])
    assert two.doubtful and not two.wrong, "two pairs are a doubt"


def test_depth_along_the_ray_is_told_from_depth_along_the_axis() -> None:
    assert DepthVerdict([seen(gap, along_ray=True) for gap in range(3, 9)]).along_ray
    assert not DepthVerdict([seen(gap) for gap in range(3, 9)]).along_ray
