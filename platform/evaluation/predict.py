"""`sightline predict`: a fine-tuned model on people's own images, whole, as lossless files and as pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sightline.methods.contract import Predictor, PredictsAnySize, PredictsLabels, TakesPairs
from sightline.methods.errors import BrokenSampleError, CallError
from sightline.methods.ops.colour_maps import normal_colours
from sightline.methods.ops.tiling import Passes
from sightline.platform.core.files import make_folder, replacing, write_text
from sightline.platform.data.encoder_input import output_name
from sightline.platform.data.images import decode_image, encode_png, encode_segmentation
from sightline.platform.data.kitti_png import disparity_png, flow_png
from sightline.platform.data.map_colours import disparity_colours, flow_colours
from sightline.platform.data.pfm import write_pfm
from sightline.platform.data.prepare.companions import take_photos
from sightline.platform.data.prepare.files import Tree, read_file
from sightline.platform.models.loaded import LoadedEncoder

CLASSES_FILE = "predictions.json"
LEGEND = "classes.json"
"""Beside label maps: index, name and colour of each class."""
SHOWN_CLASSES = 3
KITTI_PNG: dict[str, Callable[[np.ndarray], bytes]] = {
    "disparity": lambda values: disparity_png(values[0]),
    "depth": lambda values: disparity_png(values[0]),
    "flow": lambda values: flow_png(np.moveaxis(values, 0, -1)),
}


def predict_files(
    model: LoadedEncoder,
    image: Path,
    second: Path | None,
    out: Path,
    overlap: float | None,
    say: Callable[[str], None],
    kitti: bool = False,
    passes: Passes | None = None,
) -> dict[str, object]:
    """Predict each image, or pair of images, and write the results to `out`; `say` gets a line for each.

    `kitti`: disparity, depth and flow also as PNGs of 16 bits, in the folder `kitti` of `out`. `passes`: of label maps.

    Raises `CallError` for a model that predicts nothing, and for images that do not fit it or each other.
    """
    network = model.module
    classifies = isinstance(network, Predictor) and network.task == "classification"
    poses = output_name(network) == "pose"
    if not classifies and not poses and not isinstance(network, PredictsAnySize):
        raise CallError(f"{model.source} is an encoder and predicts nothing", "fine-tune it: sightline finetune --help")
    found = _pairs(model, image, second) if isinstance(network, TakesPairs) else [(name, (path,)) for name, path in _single(image, second)]
    if kitti and output_name(network) not in KITTI_PNG:
        raise CallError(f"{model.source} predicts {output_name(network)}, which KITTI has no PNG for", "leave --kitti away")
    if passes is not None and passes != Passes(passes.overlap) and not isinstance(network, PredictsLabels):
        raise CallError(f"{model.source} gives no label maps, and --scales and --flip are for those", "leave them away")
    make_folder(out)
    told: dict[str, dict[str, object]] = {}
    files = 0
    for name, paths in found:
        pictures = [_read(path) for path in paths]
        if len({picture.shape for picture in pictures}) > 1:
            sizes = " and ".join(f"{picture.shape[1]} x {picture.shape[0]}" for picture in pictures)
            raise CallError(f"{name}: the two images differ in size: {sizes}", "they must be of one size")
        if classifies:
            ((label, share),) = model.classify(pictures[0])
            told[name] = {"class": label, "index": model.class_names.index(label), "probability": share}
            say(f"{name}  {label}  {share:.1%}")
            continue
        if poses:
            upper = model(pictures)[0].tolist()
            told[name] = {"T_2from1": [*upper, [0.0, 0.0, 0.0, 1.0]]}
            say(f"{name}  translation {' '.join(f'{row[3]:.3f}' for row in upper)}")
            continue
        written, labels = _maps(network, name, pictures, out, overlap, kitti, passes)
        files += len(written)
        shares = "" if labels is None else _shares(labels, model.class_names, told.setdefault(name, {}))
        say(f"{name}  {pictures[0].shape[1]} x {pictures[0].shape[0]}  {', '.join(written)}{shares}")
    if told:
        write_text(out / CLASSES_FILE, json.dumps(told, indent=1, ensure_ascii=False))
        files += 1
    if told and not classifies and not poses:
        palette = network.palette if isinstance(network, PredictsLabels) else ()
        write_text(out / LEGEND, json.dumps(_legend(model.class_names, palette), indent=1, ensure_ascii=False))
        files += 1
    return {"images": len(found), "files": files, "out": str(out), **({"predictions": told} if told else {})}


def _shares(labels: np.ndarray, names: Sequence[str], told: dict[str, object]) -> str:
    """The share of each class that occurs, the largest first, into `told`; the first in words."""
    counts = np.bincount(labels.ravel(), minlength=len(names))
    order = [int(index) for index in counts.argsort(kind="stable")[::-1] if counts[index]]
    told["classes"] = [{"class": names[index], "index": index, "share": round(counts[index] / labels.size, 6)} for index in order]
    return "  " + ", ".join(f"{names[index]} {counts[index] / labels.size:.0%}" for index in order[:SHOWN_CLASSES])


def _colours(classes: int, palette: Sequence[tuple[int, int, int]] = ()) -> np.ndarray:
    """uint8 classes x 3: the palette of the model's training data, or colours that are apart."""
    return np.array(palette, np.uint8) if palette else disparity_colours(np.arange(classes)[None] + 0.5, float(classes))[0]


def _legend(names: Sequence[str], palette: Sequence[tuple[int, int, int]]) -> list[dict[str, object]]:
    colours = _colours(len(names), palette)
    return [
        {"index": index, "class": name, "colour": "#" + bytes(colour.tolist()).hex()}
        for index, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]


def _maps(
    network: Any, name: str, pictures: list[np.ndarray], out: Path, overlap: float | None, kitti: bool, passes: Passes | None
) -> tuple[list[str], np.ndarray | None]:
    """(the files that were written, the class of each pixel where there are classes)."""
    labels: np.ndarray | None = None
    device = next(network.parameters()).device
    given = [torch.from_numpy(np.ascontiguousarray(one)).to(device).permute(2, 0, 1)[None].float() / 255 for one in pictures]
    if isinstance(network, PredictsLabels):
        with torch.no_grad():
            labels = network.labels(given[0], passes)[0].cpu().numpy()
        classes = network.classes
        labels = labels.astype(np.uint8 if classes <= 256 else np.uint16)
        pictured = {
            f"{name}.png": encode_segmentation(labels),
            f"{name}-colours.png": encode_png(_colours(classes, network.palette)[labels]),
        }
        return _written(pictured, out), labels
    with torch.no_grad():
        predicted, confidence = network.of_any_size(*given, **({} if overlap is None else {"overlap": overlap}))
    values = predicted[0].cpu().numpy()
    match output_name(network):
        case "flow":
            flow = np.ascontiguousarray(np.moveaxis(values, 0, -1))
            made = {f"{name}.flo": write_flo(flow), f"{name}.png": encode_png(flow_colours(flow))}
        case "disparity":
            made = {f"{name}.pfm": write_pfm(values[0]), f"{name}.png": encode_png(disparity_colours(values[0]))}
        case "depth":
            near = np.quantile(values[0], 0.02) / values[0].clip(1e-6)
            made = {f"{name}.pfm": write_pfm(values[0]), f"{name}.png": encode_png(disparity_colours(near, 1.0))}
        case "normals":
            normals = np.ascontiguousarray(np.moveaxis(values, 0, -1))
            made = {f"{name}.pfm": write_pfm(normals), f"{name}.png": encode_png(normal_colours(normals))}
        case _:
            labels = values.argmax(axis=0).astype(np.uint8 if len(values) <= 256 else np.uint16)
            made = {f"{name}.png": encode_segmentation(labels), f"{name}-colours.png": encode_png(_colours(len(values))[labels])}
    if confidence is not None:
        made[f"{name}-doubt.png"] = encode_png(disparity_colours(_ranks(confidence[0].cpu().numpy()), 1.0))
    if kitti:
        made[f"kitti/{name}.png"] = KITTI_PNG[output_name(network)](values)
    return _written(made, out), labels


def _written(made: Mapping[str, bytes], out: Path) -> list[str]:
    for file, data in made.items():
        make_folder((out / file).parent)
        with replacing(out / file) as part:
            part.write_bytes(data)
    return list(made)


def write_flo(flow: np.ndarray) -> bytes:
    """float32 H x W x 2 in Middlebury's format."""
    height, width = flow.shape[:2]
    return b"PIEH" + np.array([width, height], "<i4").tobytes() + flow.astype("<f4").tobytes()


def _ranks(values: np.ndarray) -> np.ndarray:
    """From 0, the surest pixel, to 1."""
    order = values.ravel().argsort(kind="stable").argsort(kind="stable")
    return np.asarray(order.reshape(values.shape) / max(1, values.size - 1))


def _read(path: Path) -> np.ndarray:
    try:
        return decode_image(read_file(str(path)))
    except (BrokenSampleError, OSError) as error:
        raise CallError(f"{path}: {error}", "name an image that opens") from None


def _single(image: Path, second: Path | None) -> list[tuple[str, Path]]:
    if second is not None:
        raise CallError("this model takes one image", f"leave {second} away; of many images name their folder")
    return [(str(Path(name).with_suffix("")), path) for name, path in _named(image)]


def _pairs(model: LoadedEncoder, image: Path, second: Path | None) -> list[tuple[str, tuple[Path, ...]]]:
    first_words, second_words = model.module.pair
    if second is None:
        raise CallError(
            f"this model takes the {first_words} and the {second_words}", f"name both: sightline predict MODEL {image} SECOND --out DIR"
        )
    if image.is_dir() != second.is_dir():
        raise CallError("one is a folder and one is a file", "name two files, or two folders with files of the same names")
    if not image.is_dir():
        return [(image.stem, (path, second)) for _, path in _named(image)]
    firsts, seconds = dict(_named(image)), dict(_named(second))
    if apart := sorted(firsts.keys() ^ seconds.keys()):
        raise CallError(f"{len(apart)} images are in one folder alone, the first is {apart[0]}", "the files of a pair have the same name")
    return [(str(Path(name).with_suffix("")), (path, seconds[name])) for name, path in firsts.items()]


def _named(place: Path) -> list[tuple[str, Path]]:
    """(name, file) of a file, or of the photos in a folder and those below it."""
    if place.is_file():
        return [(place.name, place)]
    if not place.is_dir():
        raise CallError(f"there is no file or folder {place}", "name an image, or a folder of images")
    names = take_photos(Tree.of(place))
    if not names:
        raise CallError(f"{place} holds no images", "name a folder of images")
    return [(name, place / name) for name in names]
