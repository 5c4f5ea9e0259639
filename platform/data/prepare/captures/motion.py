"""Structure from motion by pycolmap's incremental mapper: poses, a camera and points of photos that were compared, as a model of COLMAP."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sightline.platform.data.matching import quiet

from ..formats.colmap import has_model, read_model
from ..progress import steps
from .overlaps import NEXT, Compared

LEAST_MODEL = 3
JUMP = 60.0
"""Degrees that no camera turns from one frame that was taken to the next: what looks alike from two sides was taken for one."""
NEIGHBOURS = "by-neighbours"
"""A file beside the models, where they were made of neighbouring frames alone."""


class Models(NamedTuple):
    placed: frozenset[str]
    """The photos of the largest model."""
    others: tuple[int, ...]
    """How many photos the other models hold."""
    by_neighbours: bool
    """Whether frames far apart were left out, because with them the camera would have jumped."""
    jumps: tuple[str, ...]
    """Frames after which it still does."""


def reconstruct(folder: Path, names: Sequence[str], compared: Compared, one_camera: bool, ordered: bool) -> Models:
    """Writes `folder/sparse/N` of `folder/images`, the largest model as 0. It is kept: a second call reads it."""
    sparse = folder / "sparse"
    if not sparse.is_dir():
        _map(folder, sparse, names, compared, one_camera)
        if ordered and _jumps(sparse, names):
            near = {two: geometry for two, geometry in compared.geometries.items() if two[1] - two[0] <= NEXT}
            shutil.rmtree(sparse)
            _map(folder, sparse, names, replace(compared, geometries=near), one_camera, NEIGHBOURS)
    models = [read_model(path) for path in sorted(sparse.iterdir()) if has_model(path)]
    held = [frozenset(image.name for image in model.images) for model in models]
    others = tuple(len(one - held[0]) for one in held[1:])
    jumps = tuple(_jumps(sparse, names)) if ordered else ()
    return Models(held[0] if held else frozenset(), others, (sparse / NEIGHBOURS).is_file(), jumps)


def _jumps(sparse: Path, names: Sequence[str]) -> list[str]:
    if not has_model(sparse / "0"):
        return []
    turn = {image.name: image.world_to_cam[:3, :3] for image in read_model(sparse / "0").images}
    twos = [(one, two) for one, two in pairwise(names) if one in turn and two in turn]
    return [one for one, two in twos if np.trace(turn[two] @ turn[one].T) < 1 + 2 * np.cos(np.radians(JUMP))]


def _map(folder: Path, sparse: Path, names: Sequence[str], compared: Compared, one_camera: bool, mark: str = "") -> None:
    import pycolmap

    quiet()
    to = folder / ".sparse.part"
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    database = to / "database.db"
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = "SIMPLE_RADIAL"
    mode = pycolmap.CameraMode.SINGLE if one_camera else pycolmap.CameraMode.AUTO
    used = sorted({number for two in compared.geometries for number in two})
    pycolmap.Database.open(database).close()
    pycolmap.import_images(database, folder / "images", mode, [names[number] for number in used], reader)
    with pycolmap.Database.open(database) as base:
        known = {image.name: image.image_id for image in base.read_all_images()}
        ids = {number: known[names[number]] for number in used}
        for number, identity in ids.items():
            base.write_keypoints(identity, (compared.xy[number] + 0.5).astype(np.float32))
        for (one, two), geometry in compared.geometries.items():
            verified = pycolmap.TwoViewGeometry()
            verified.config = getattr(pycolmap.TwoViewGeometryConfiguration, geometry.config)
            verified.inlier_matches = geometry.matches.astype(np.uint32)
            base.write_matches(ids[one], ids[two], verified.inlier_matches)
            base.write_two_view_geometry(ids[one], ids[two], verified)
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size, options.extract_colors, options.random_seed = LEAST_MODEL, False, 0
    with steps("placing photos", len(used)) as placed:
        found = pycolmap.incremental_mapping(
            database, folder / "images", to, options, initial_image_pair_callback=placed, next_image_callback=placed
        )
    sizes = sorted(found, key=lambda number: (-found[number].num_reg_images(), number))
    for place, number in enumerate(sizes):
        (to / f"model-{place}").mkdir()
        found[number].write(to / f"model-{place}")
    for number in sizes:
        shutil.rmtree(to / str(number), ignore_errors=True)
    for place in range(len(sizes)):
        (to / f"model-{place}").rename(to / str(place))
    database.unlink()
    if mark:
        (to / mark).touch()
    to.rename(sparse)
