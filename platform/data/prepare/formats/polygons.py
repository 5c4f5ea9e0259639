"""Polygons as triangles: convex ones as fans, the others by their ears."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from sightline.methods.errors import BrokenSampleError

from .shapes import NO_FACES, PIECE

MAX_CORNERS = 10_000
"""Of a polygon that is not convex: cutting its ears costs the square of them where they are laid out to do harm."""

MOST_CORNERS = 100_000
"""Of any polygon; its triangles are made one by one."""


class Polygons(NamedTuple):
    """Faces of any number of corners: `corners` holds the vertex numbers of all faces, `sizes` how many of them each face has."""

    corners: np.ndarray
    sizes: np.ndarray


def triangulated(vertices: np.ndarray, polygons: Polygons, *, in_order: bool = False) -> np.ndarray:
    """The triangles, m x 3; faces of fewer than three corners are left out.

    Triangles come first, then the first halves of all quads, their second halves, and the triangles of larger polygons. `in_order`: the
    triangles of each face where the face stands. Raises `ValueError` for vertices that are not there.
    """
    corners, sizes = np.asarray(polygons.corners, np.int64), np.asarray(polygons.sizes, np.int64)
    if len(corners) and (corners.min() < 0 or corners.max() >= len(vertices)):
        wrong = corners.max() if corners.max() >= len(vertices) else corners.min()
        raise ValueError(f"a face names vertex {wrong} of {len(vertices)}")
    if len(sizes) and sizes.max() > MOST_CORNERS:
        raise BrokenSampleError(f"a polygon of more than {MOST_CORNERS:,} corners: it has {sizes.max():,}")
    if (sizes == 3).all():
        return corners.reshape(-1, 3)
    starts = np.cumsum(sizes) - sizes
    if not in_order:
        return _cut(vertices, corners, starts, sizes)
    pieces = (slice(at, at + PIECE) for at in range(0, len(sizes), PIECE))
    return np.concatenate([NO_FACES, *(_cut(vertices, corners, starts[one], sizes[one], in_order=True) for one in pieces)])


def _cut(vertices: np.ndarray, corners: np.ndarray, starts: np.ndarray, sizes: np.ndarray, *, in_order: bool = False) -> np.ndarray:
    """The triangles of the polygons whose corners begin at `starts`."""
    made, origin = [NO_FACES], [np.empty(0, np.int64)]
    for size in (3, 4, *np.unique(sizes[sizes > 4]).tolist()):
        which = np.flatnonzero(sizes == size)
        if not len(which):
            continue
        faces = corners[starts[which, None] + np.arange(size)]
        fans = [faces[:, [0, i, i + 1]] for i in range(1, size - 1)]
        if size == 4:
            fans[1] = faces[:, [2, 3, 0]]  # the same half, from its other end
        step = max(1, PIECE // size)
        concave = np.zeros(len(faces), bool)
        for at in range(0, len(faces) if size > 3 else 0, step):
            concave[at : at + step] = _concave(vertices, faces[at : at + step])
        convex = ~concave if concave.any() else slice(None)
        made += [np.stack([fan[convex] for fan in fans], 1).reshape(-1, 3)] if size > 4 else [fan[convex] for fan in fans]
        origin.append(np.repeat(which[convex], size - 2) if size > 4 else np.tile(which[convex], size - 2))
        for face, number in zip(faces[concave], which[concave], strict=True):
            made.append(cut := _ears(vertices, face))
            origin.append(np.full(len(cut), number))
    triangles = np.concatenate(made)
    if not in_order and sizes.max() <= 4:
        return triangles
    of = np.concatenate(origin)
    return np.asarray(triangles[np.argsort(of if in_order else np.where(sizes[of] > 4, of, -1), kind="stable")])


def _normals(corners: np.ndarray) -> np.ndarray:
    """Newell's normals of polygons n x k x 3, of twice the length of their areas."""
    return np.asarray(np.cross(corners - corners[:, :1], np.roll(corners, -1, axis=1) - corners[:, :1]).sum(axis=1))


def _concave(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether each of the polygons n x k turns the other way at some corner."""
    corners = vertices[faces]
    ahead = np.roll(corners, -1, axis=1) - corners
    turns = np.cross(np.roll(ahead, 1, axis=1), ahead)
    normals = _normals(corners)
    along = np.einsum("nkc,nc->nk", turns, normals)
    return np.asarray((along < -1e-9 * (normals**2).sum(axis=1, keepdims=True)).any(axis=1))


def _ears(vertices: np.ndarray, face: np.ndarray) -> np.ndarray:
    """The triangles of one polygon, seen along the axis that its normal is nearest to, turning as the polygon does."""
    import mapbox_earcut

    if len(face) > MAX_CORNERS:
        raise BrokenSampleError(f"a polygon of more than {MAX_CORNERS:,} corners that is not convex: it has {len(face):,}")
    corners = vertices[face]
    normal = _normals(corners[None])[0]
    axis = int(np.argmax(np.abs(normal)))
    flat = np.ascontiguousarray(corners[:, [(axis + 1) % 3, (axis + 2) % 3]])
    cut = mapbox_earcut.triangulate_float64(flat, np.array([len(face)], np.uint32)).reshape(-1, 3).astype(np.int64)
    one, two = flat[cut[:, 1]] - flat[cut[:, 0]], flat[cut[:, 2]] - flat[cut[:, 0]]
    turned = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]) * normal[axis] < 0
    cut[turned] = cut[turned][:, ::-1]
    return np.asarray(face[cut])


def strips(corners: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The triangles of strips: each corner and the two after it, every second one turned; those of a repeated corner are left out."""
    made, end = [np.empty((0, 3), np.int64)], 0
    for length in lengths.tolist():
        one, end = corners[end : end + length], end + length
        if length >= 3:
            triangles = np.stack([one[:-2], one[1:-1], one[2:]], 1)
            triangles[1::2] = triangles[1::2, ::-1]
            made.append(triangles)
    triangles = np.concatenate(made)
    a, b, c = triangles.T
    return np.asarray(triangles[(a != b) & (b != c) & (a != c)])
