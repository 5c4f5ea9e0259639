"""`sightline predict` on clouds and meshes: the class of each, or the part of each of its points."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import Predictor
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.ops.clouds import coordinates, draw_cloud, normalised
from sightline.methods.random import keyed_rng
from sightline.platform.core.files import make_folder, replacing, write_text
from sightline.platform.data.images import encode_png
from sightline.platform.data.map_colours import disparity_colours
from sightline.platform.data.ply import write_ply
from sightline.platform.data.prepare.files import Tree
from sightline.platform.data.prepare.meshes import SUFFIXES, clouds_in, read_cloud
from sightline.platform.models.loaded import LoadedEncoder

from .predict import CLASSES_FILE, LEGEND, SHOWN_CLASSES

MOST_POINTS = 16384
"""Of a list of points that are looked at; of a mesh as many of its surface are."""
SIDE = 480
"""Pixels of a picture."""


def predict_clouds(model: LoadedEncoder, place: Path, out: Path, category: str | None, say: Callable[[str], None]) -> dict[str, object]:
    """Predict each cloud and write the results to `out`; `say` gets a line for each. `category`: of all clouds, for a model of parts;
    None: the one that explains the points best.

    Raises `CallError` for files that are no cloud, and for a category that the model does not have.
    """
    if not isinstance(model.module, Predictor):
        raise CallError(f"{model.source} is an encoder and predicts nothing", "fine-tune it: sightline finetune --help")
    parts = model.module.task == "part_segmentation"
    chosen = _number_of(model, category) if parts else None
    if category is not None and not parts:
        raise CallError(f"{model.source} predicts classes of clouds, not parts", "leave --category away")
    make_folder(out)
    told: dict[str, dict[str, object]] = {}
    files = 1
    for name, path in _named(place):
        points = _read(path)
        if not parts:
            try:
                ((label, share),) = model.classify(points)
            except CallError as error:
                raise CallError(f"{path}: {error}", error.hint) from None
            told[name] = {"class": label, "index": model.class_names.index(label), "probability": share}
            say(f"{name}  {label}  {share:.1%}")
            continue
        try:
            of, found = parts_of(model.module, points, chosen)
        except BrokenSampleError as error:
            raise CallError(f"{path}: {error}") from None
        for file, data in {f"{name}.ply": _ply(model, points, found), f"{name}.png": _picture(model, points, found)}.items():
            make_folder((out / file).parent)
            with replacing(out / file) as part:
                part.write_bytes(data)
            files += 1
        counts = np.bincount(found, minlength=len(model.class_names))
        order = [int(index) for index in counts.argsort(kind="stable")[::-1] if counts[index]]
        shares = [{"part": model.class_names[index], "index": index, "share": round(counts[index] / len(found), 6)} for index in order]
        kind = _categories(model)[of]
        told[name] = {"category": kind, "parts": shares}
        some = ", ".join(f"{model.class_names[index]} {counts[index] / len(found):.0%}" for index in order[:SHOWN_CLASSES])
        say(f"{name}  {kind}{'' if chosen is None else ' (as given)'}  {len(found):,} points: {some}")
    write_text(out / CLASSES_FILE, json.dumps(told, indent=1, ensure_ascii=False))
    if parts:
        colours = ["#" + bytes(colour.tolist()).hex() for colour in _colours(model)]
        named = enumerate(zip(model.class_names, colours, strict=True))
        legend = [{"index": index, "part": part, "colour": colour} for index, (part, colour) in named]
        write_text(out / LEGEND, json.dumps(legend, indent=1, ensure_ascii=False))
        files += 1
    return {"clouds": len(told), "files": files, "out": str(out), "predictions": told}


@torch.no_grad()
def parts_of(network: Any, points: Float[np.ndarray, "n 3"], category: int | None = None) -> tuple[int, Int[np.ndarray, " n"]]:
    """(the category, the part of each point). The cloud is seen in as many drawn subsets as it takes to see every point once.

    `category`: None for the one that explains the first subset best. Raises `BrokenSampleError` for a cloud without extent.
    """
    device, count = next(network.parameters()).device, network.points
    cloud = torch.from_numpy(normalised(coordinates(points)).astype(np.float32)).to(device)
    found = np.empty(len(points), np.int64)
    for rows in _subsets(len(points), count):
        local = network.local(cloud[torch.from_numpy(rows).to(device)][None])
        if category is None:
            category = int(network.likely(local)[0])
        of = torch.tensor([category], device=device)
        found[rows] = network.found(network.head(local, of), of)[0].cpu().numpy()
    assert category is not None
    return category, found


def _subsets(points: int, count: int) -> Iterator[Int[np.ndarray, " c"]]:
    """Rows in drawn order, `count` at a time; the last ones are filled up with rows from the beginning."""
    order = keyed_rng("subsets of a cloud").permutation(points)
    for start in range(0, points, count):
        yield np.resize(np.concatenate([order[start : start + count], order]), count)


def _categories(model: LoadedEncoder) -> tuple[str, ...]:
    names: tuple[str, ...] = model.module.category_names
    return names or tuple(map(str, range(model.module.categories)))


def _number_of(model: LoadedEncoder, category: str | None) -> int | None:
    names = _categories(model)
    if category is not None and category not in names:
        raise CallError(f"{model.source} knows no category {category!r}", f"it knows {', '.join(names)}")
    return None if category is None else names.index(category)


def _colours(model: LoadedEncoder) -> np.ndarray:
    """uint8 parts x 3, apart for the parts of each category: neighbours in the list would look alike in a list of fifty."""
    colours = np.zeros((len(model.class_names), 3), np.uint8)
    for own in model.module.parts_of:
        colours[list(own)] = disparity_colours(np.arange(len(own))[None] + 0.5, float(len(own)))[0]
    return colours


def _ply(model: LoadedEncoder, points: np.ndarray, found: np.ndarray) -> bytes:
    return write_ply(points, _colours(model)[found], found)


def _picture(model: LoadedEncoder, points: np.ndarray, found: np.ndarray) -> bytes:
    return encode_png(draw_cloud(normalised(points), SIDE, _colours(model)[found] / 255))


def _read(path: Path) -> Float[np.ndarray, "n 3"]:
    try:
        points = np.asarray(read_cloud(str(path), MOST_POINTS, keyed_rng("predicted cloud")).points, np.float64)
        return coordinates(points)
    except (BrokenSampleError, OSError) as error:
        raise CallError(f"{path}: {error}", "name a cloud or a mesh that opens") from None


def _named(place: Path) -> list[tuple[str, Path]]:
    """(name without its ending, file) of a file, or of the clouds in a folder and those below it."""
    if place.is_file():
        if place.suffix.lower() not in SUFFIXES:
            raise CallError(f"{place}: this model takes clouds and meshes", f"name a file that ends in {', '.join(SUFFIXES)}")
        return [(place.stem, place)]
    if not place.is_dir():
        raise CallError(f"there is no file or folder {place}", "name a cloud or a mesh, or a folder of them")
    names = clouds_in(Tree.of(place))
    if not names:
        raise CallError(f"{place} holds no clouds and no meshes", f"they end in {', '.join(SUFFIXES)}")
    stems = [str(Path(name).with_suffix("")) for name in names]
    return [(stem if stems.count(stem) == 1 else name, place / name) for stem, name in zip(stems, names, strict=True)]
