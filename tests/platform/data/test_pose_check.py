"""Epipolar distances tell in which convention poses are written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sightline.platform.data.epipolar import Matches
from sightline.platform.data.pose_check import AS_READ, CONVENTIONS, PoseVerdict, Readings, readings_of_poses

OPENGL = np.diag([1.0, -1, -1, 1])
K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])
WRITTEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    AS_READ: lambda pose: pose,
    "inverted (world to camera)": np.linalg.inv,
    "in OpenGL's axes (y up, z back)": lambda pose: pose @ OPENGL,
    "inverted and in OpenGL's axes": lambda pose: np.linalg.inv(pose @ OPENGL),
    "with rotations transposed": lambda pose: np.block([[pose[:3, :3].T, pose[:3, 3:]], [np.zeros((1, 3)), 1]]),
    "of an image that is turned by 90": lambda pose: pose @ np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]).T,
}


def looking_in(angle: float, height: float) -> np.ndarray:
    """Camera to world of a camera on a circle that looks at the origin."""
    place = np.array([3 * np.sin(angle), height, -3 * np.cos(angle)])
    forward = -place / np.linalg.norm(place)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = np.stack([right, np.cross(forward, right), forward], axis=1), place
    return pose


def pairs(write: Callable[[np.ndarray], np.ndarray], noise: float = 0.5) -> list[Readings]:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(-0.8, 0.8, (60, 3)), np.ones((60, 1))], axis=1)
    cameras = [looking_in(0.5 + 0.25 * number, 0.4 + 0.2 * number) for number in range(6)]
    seen = []
    for pose in cameras:
        at = K @ (np.linalg.inv(pose) @ points.T)[:3]
        seen.append((at[:2] / at[2]).T + rng.normal(0, noise, (60, 2)))
    twos = [(one, one + 1) for one in range(5)]
    return [readings(seen[a], seen[b], write(cameras[a]), write(cameras[b])) for a, b in twos]


def readings(xy1: np.ndarray, xy2: np.ndarray, pose1: np.ndarray, pose2: np.ndarray) -> Readings:
    return readings_of_poses(Matches(xy1, xy2, K, K, np.eye(4), 400.0), pose1, pose2)


@pytest.mark.parametrize("convention", list(WRITTEN))
def test_the_convention_of_the_poses_is_named(convention: str) -> None:
    verdict = PoseVerdict(pairs(WRITTEN[convention]))
    assert verdict.fault == "" if convention == AS_READ else convention in verdict.fault
    assert set(CONVENTIONS) < set(verdict.errors)


def test_poses_of_other_photos_fit_in_no_convention() -> None:
    rng = np.random.default_rng(1)
    others = [looking_in(*rng.uniform(-1, 1, 2)) @ looking_in(*rng.uniform(-0.5, 0.5, 2)) for _ in range(10)]
    seen = [one[AS_READ] for one in pairs(WRITTEN[AS_READ])]
    mixed = [readings(one.xy1, one.xy2, others[2 * at], others[2 * at + 1]) for at, one in enumerate(seen)]
    assert PoseVerdict(mixed).fault == "fit in no convention"


def test_small_errors_and_too_few_pairs_are_no_fault() -> None:
    verdict = PoseVerdict(pairs(WRITTEN[AS_READ], noise=1.0))
    assert verdict.fault == "" and "of 5 pairs" in verdict.told
    few = PoseVerdict(pairs(np.linalg.inv)[:2])
    assert few.fault == "" and "not measured" in few.told


@pytest.mark.parametrize("convention", ["as they are", "inverted (world to camera)"])
def test_a_car_that_drives_forward_has_its_points_before_it(convention: str) -> None:
    """The epipolar lines are the same for both conventions."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform((-4, -2, 6), (4, 2, 20), (60, 3)), np.ones((60, 1))], axis=1)
    cameras = [np.block([[np.eye(3), np.array([[0.02 * n], [0.01], [0.8 * n]])], [np.zeros((1, 3)), 1]]) for n in range(5)]
    seen = [((at := K @ (np.linalg.inv(pose) @ points.T)[:3])[:2] / at[2]).T + rng.normal(0, 0.3, (60, 2)) for pose in cameras]
    write = WRITTEN[convention]
    fault = PoseVerdict([readings(seen[n], seen[n + 1], write(cameras[n]), write(cameras[n + 1])) for n in range(4)]).fault
    assert fault == "" if convention == AS_READ else convention in fault
