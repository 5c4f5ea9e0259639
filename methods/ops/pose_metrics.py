"""Errors of relative poses: angles, and areas under the curve of recall. NumPy only."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def rotation_angles(rotations: Float[np.ndarray, "*b 3 3"]) -> Float[np.ndarray, "*b"]:
    """Degrees by which rotations turn, about whatever axis."""
    traces = np.trace(rotations, axis1=-2, axis2=-1)
    return np.asarray(np.degrees(np.arccos(np.clip((traces - 1) / 2, -1, 1))))


def angles_between(a: Float[np.ndarray, "*b 3"], b: Float[np.ndarray, "*b 3"]) -> Float[np.ndarray, "*b"]:
    """Degrees between vectors of any length; exact for small angles, too. NaN where one of them is zero."""
    crossed, along = np.linalg.norm(np.cross(a, b), axis=-1), (a * b).sum(axis=-1)
    return np.asarray(np.where((crossed == 0) & (along == 0), np.nan, np.degrees(np.arctan2(crossed, along))))


def auc_scores(errors: Float[np.ndarray, "*b"], limit: float) -> Float[np.ndarray, "*b"]:
    """What each pair adds to the area under the curve of recall: its mean is the area, from 0 to `limit` and divided by it.

    The evaluation of SuperGlue (Sarlin et al., CVPR 2020) joins the steps of the curve by straight lines, which adds the largest error
    below the limit over 2 n limit: at most 1 / 2n.
    """
    return np.maximum(0.0, 1 - errors / limit)
