"""Fine-tune an encoder of images or clouds: classes, masks, depth, normals, disparity, flow, ..., scored with intervals.

  sightline finetune conmim-tiny-1121-0930 --task classification data.train=./birds/train data.val=./birds/val
  sightline finetune models:/loca-encoder@candidate --task segmentation data.train=./streets/train data.val=./streets/val
  sightline finetune croco-tiny-1121-0812 --task depth --recipe finetune-depth-tiny data.train=./kitchen/train data.val=./kitchen/val
  sightline finetune croco-tiny-1121-0812 --task normals --recipe finetune-normals-tiny data.train=./rooms/train data.val=./rooms/val
  sightline finetune croco-tiny-1121-0812 --task stereo --recipe finetune-stereo-tiny data.train=./stereo/train data.val=./stereo/val
  sightline finetune stereo.safetensors --task stereo data.train=./kitti/train data.val=./kitti/val
  sightline finetune croco-tiny-1121-0812 --task pose --recipe finetune-pose-tiny data.train=./rooms/train data.val=./rooms/val
  sightline finetune encoder.safetensors --task classification model.image_size=384 optim.layer_decay=0.65 ...
  sightline finetune i2p-mae-tiny-1121-1410 --task classification --recipe finetune-points-tiny data.train=./shapes20/train ...
  sightline finetune i2p-mae-tiny-1121-1410 --task part_segmentation --recipe finetune-parts-tiny data.train=./parts8/train ...
  sightline finetune i2p-mae-tiny-1121-1410 --task classification --few-shot 5x10 --recipe finetune-points-few-shot ...

MODEL is a run, a file made by `sightline export` or `import`, or a registry URI: an encoder, or for depth, normals, stereo and flow a model
that was fine-tuned for the same task and is trained on, with its own network. The classes are those of the training data. Of what Ray
Data reads (parquet:PLACE?image=photo&label=name, ...) the rows are kept as a prepared data set first. A fine-tuning
run is a run like any other: it can be resumed, its metrics go to MLflow, and the fine-tuned model is registered.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from sightline.platform.core.screen import Screen
    from sightline.platform.data.dataset import Dataset

SUMMARY = "train an encoder on with labels, parts, depth, normals, disparity, optical flow or poses, and score it"
TASKS = ("classification", "segmentation", "part_segmentation", "depth", "normals", "stereo", "flow", "pose")
COLUMNS = {"depth": "depth", "normals": "depth1", "stereo": "disparity", "flow": "flow", "pose": "T_2from1"}
"""Tasks without classes -> the column of their truth."""
TWO_VIEWS = ("stereo", "flow", "pose")
MADE_BY = {
    "segmentation": "images masks",
    "part_segmentation": "points shapenetpart",
    "depth": "images frames",
    "stereo": "pairs stereo",
    "flow": "pairs flow",
    "normals": "pairs rgbd",
    "pose": "pairs rgbd",
}
FORMS = {
    ("images", "classification"): ("finetune_classification", "finetune-classification"),
    ("images", "segmentation"): ("finetune_segmentation", "finetune-segmentation"),
    ("images", "depth"): ("finetune_depth", "finetune-depth"),
    ("pairs", "normals"): ("finetune_normals", "finetune-normals"),
    ("pairs", "stereo"): ("finetune_stereo", "finetune-stereo"),
    ("pairs", "flow"): ("finetune_flow", "finetune-flow"),
    ("pairs", "pose"): ("finetune_pose", "finetune-pose"),
    ("points", "classification"): ("finetune_points", "finetune-points-modelnet40"),
    ("points", "part_segmentation"): ("finetune_parts", "finetune-parts"),
}
"""(kind of the data, task) -> (method, its recipe where none is named)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a run, a file, or models:/NAME@alias")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="overrides; data.train is needed, data.val is scored")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--recipe", help="a recipe or YAML file of settings in place of the task's own")
    parser.add_argument(
        "--frozen", action="store_true", help="leave the encoder as it is, train the rest (depth, normals, stereo, flow, pose)"
    )
    parser.add_argument("--scratch", action="store_true", help="leave the encoder's weights random: the control")
    parser.add_argument(
        "--few-shot", metavar="WAYSxSHOTS", help="fine-tune on folds of so many classes and samples of each, such as 5x10 (classification)"
    )
    parser.add_argument("--folds", default="10", metavar="N|FILE", help="how many folds are drawn, or JSON of ids (default: %(default)s)")
    parser.add_argument("--name", help="the run's name; default: the recipe and the time")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError
    from sightline.platform import config
    from sightline.platform.config.location import parse_one
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.kinds import IMAGES, find_kind
    from sightline.platform.data.training_data import absolute_source
    from sightline.platform.runs.names import fresh_name, refuse_taken

    if args.frozen and args.task not in COLUMNS:
        raise CallError(
            f"--frozen is for --task {', '.join(COLUMNS)}",
            "a frozen encoder's classes are what the probes measure: sightline evaluate --help",
        )
    if args.few_shot:
        return _few_shot(args)
    overrides = config.parse_overrides(args.settings)
    if args.name:
        refuse_taken(args.name, "run")
    if not overrides.get("data.train"):
        raise CallError("data.train is not set", "give labelled data made by `sightline prepare`: data.train=FOLDER")
    console = Screen(stderr=args.json)
    train, overrides = _labelled(args.model, overrides, args.task, console)
    if (train.kind, args.task) not in FORMS:
        needed = " or ".join(kind for kind, task in FORMS if task == args.task)
        raise CallError(f"{train.uri} holds {train.kind}, but {needed} are needed for {args.task}", f"name data of kind {needed}")
    method, recipe = FORMS[train.kind, args.task]
    recipe = args.recipe or recipe
    if (named := config.read_recipe(recipe)[1]["method"]) != method:
        raise CallError(f"{recipe} is a recipe of method {named}", f"use one with `method: {method}`")
    overrides = {**_from_data(train, args.task), **overrides}
    if (val := overrides.get("data.val")) and parse_one(val).prepared and args.task not in COLUMNS:
        _same_classes(train, Dataset.open(absolute_source(str(val)), train.kind), parts=args.task == "part_segmentation")
    from sightline.methods.catalog import find_method
    from sightline.methods.dense.config import decoder_settings
    from sightline.platform.core.redaction import command_line
    from sightline.platform.experiments import execution
    from sightline.platform.experiments.create import create_run
    from sightline.platform.experiments.preflight import check
    from sightline.platform.models.encoders import open_encoder
    from sightline.platform.tracking.client import check_tracking, tracking_uri

    opened = open_encoder(args.model)
    whole = opened.method == method and args.task in COLUMNS
    if opened.method.startswith("finetune_") and not whole:
        raise CallError(f"{args.model} is a fine-tuned model already", "name the run or file of the encoder that it was made of")
    sees = find_kind(find_method(opened.method).kind).modality
    if sees != (seen := find_kind(train.kind).modality):
        raise CallError(f"{args.model} is an encoder of {sees}, and {train.uri} holds {train.kind}", f"name an encoder of {seen}")
    sections = {name: dict(opened.weights.sections[name]) for name in config.METHOD_SECTIONS}
    if sees == IMAGES.name and not whole and "image_size" not in config.read_recipe(recipe)[1].get("model", {}):
        overrides = {"model.image_size": list(opened.encoder.image_size), **overrides}
    if args.task in TWO_VIEWS and not whole:
        overrides = {**{f"model.{name}": value for name, value in decoder_settings(sections["model"]).items()}, **overrides}
    if args.frozen:
        overrides = {"model.frozen": True, **overrides}
    if whole:  # its own network, which is trained on
        own = {"model": sections["model"], "pretext": sections["pretext"]}
        overrides = {**{f"{section}.{name}": value for section, values in own.items() for name, value in values.items()}, **overrides}
    else:
        overrides["model.encoder"] = {"method": opened.method, **sections}
    overrides = {**overrides, "train.init": None if args.scratch else opened.weights.place}
    experiment = config.load(recipe, overrides)
    if args.task == "pose" and "model.intrinsics" not in overrides:
        assumed = _intrinsics(train, find_method(method).image_shape(experiment.method_config))
        experiment = config.load(recipe, {**overrides, "model.intrinsics": assumed})
    experiment, dataset = check(experiment, say=console.print)
    check_tracking(experiment, console.warn)
    name = args.name or fresh_name(experiment.recipe)
    record = create_run(name, experiment, dataset.fingerprint, command_line(sys.argv[1:]), tracking_uri(experiment))
    return execution.execute(record, console)


def _few_shot(args: argparse.Namespace) -> dict[str, object]:
    """A run for each fold; the samples are drawn from `data.train` and `data.val` together."""
    from sightline.methods.errors import CallError
    from sightline.platform import config
    from sightline.platform.core.paths import runs_folder
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.training_data import absolute_source
    from sightline.platform.experiments.few_shot import run_folds
    from sightline.platform.runs.names import fresh_name

    from . import resume

    overrides = config.parse_overrides(args.settings)
    if args.task != "classification" or not overrides.get("data.train"):
        raise CallError("--few-shot is for --task classification, with data.train=FOLDER", "data.val=FOLDER is drawn from, too")
    datasets = [Dataset.open(absolute_source(str(place))) for name in ("data.train", "data.val") if (place := overrides.get(name))]
    words = [word for word in args.settings if not word.startswith(("data.train=", "data.val="))]
    words += [] if "log.register" in overrides else ["log.register=few-shot-model"]  # no fold is a candidate for what is served

    def run_fold(name: str, train: Path, test: Path) -> dict[str, Any]:
        if (runs_folder() / name).exists():
            again = argparse.Namespace(run=name, trials=None, settings=[], new_mlflow_run=False, json=args.json)
            return resume.run(again)
        own = {"few_shot": None, "name": name, "settings": [*words, f"data.train={train}", f"data.val={test}"]}
        return run(argparse.Namespace(**{**vars(args), **own}))

    name = args.name or fresh_name(f"few-shot-{args.few_shot}")
    return run_folds(name, datasets, args.few_shot, args.folds, run_fold, Screen(stderr=args.json).print)


def _labelled(model: str, overrides: dict[str, Any], task: str, console: Screen) -> tuple[Dataset, dict[str, Any]]:
    """The training data, and the overrides with their place. A source that Ray Data reads is kept as a prepared data set, because its
    classes must be known before training, and are the same in a resume."""
    from sightline.methods.catalog import find_method
    from sightline.methods.errors import CallError
    from sightline.platform.config.location import parse_one
    from sightline.platform.core.paths import absolute
    from sightline.platform.core.ray_init import start_ray
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.kinds import find_kind
    from sightline.platform.data.materialize import materialize
    from sightline.platform.data.ray_source import RaySource
    from sightline.platform.data.training_data import absolute_source
    from sightline.platform.models.encoders import open_encoder

    overrides = _from_folders(model, overrides, task, console)
    place = absolute_source(str(parse_one(overrides["data.train"])))
    if parse_one(place).prepared:
        return Dataset.open(place), overrides
    if task != "classification":
        needed = COLUMNS.get(task, "masks")
        raise CallError(f"{place}: what Ray Data reads has labels, and {task} needs {needed}", f"sightline prepare {MADE_BY[task]} --help")
    kind = find_kind(find_method(open_encoder(model).method).kind).modality
    source = RaySource.open(parse_one(place), kind)
    if source.needs_ray:
        start_ray()
    storage = overrides.get("train.storage")
    train = materialize(
        source,
        "data.train",
        needed=("label",),
        shuffle=True,
        max_broken=float(overrides.get("data.max_broken", 0.05)),
        storage=absolute(str(storage)) if storage else None,
        say=console.print,
    )
    return train, {**overrides, "data.train": train.uri}


def _from_folders(model: str, overrides: dict[str, Any], task: str, console: Screen) -> dict[str, Any]:
    """The overrides with a prepared data set for each folder that they name; what is held out of the one becomes `data.val`."""
    from sightline.methods.catalog import find_method
    from sightline.platform.core.paths import absolute
    from sightline.platform.data.kinds import IMAGES, PAIRS, find_kind
    from sightline.platform.data.prepare.whole_folder import Wish
    from sightline.platform.experiments.own_folders import Keeper, is_own
    from sightline.platform.models.encoders import open_encoder

    train, val = (str(overrides[name]) if overrides.get(name) else None for name in ("data.train", "data.val"))
    if not any(place and is_own(place) for place in (train, val)):
        return overrides
    seen = find_kind(find_method(open_encoder(model).method).kind).modality
    kind = PAIRS.name if task in (*TWO_VIEWS, "normals") else seen
    columns = {"classification": ("label",), "part_segmentation": ("label", "part")}.get(task, (COLUMNS.get(task, task),))
    storage = overrides.get("train.storage")
    keeper = Keeper(absolute(str(storage)) if storage else None, float(overrides.get("data.max_broken", 0.05)), console.print)
    train, val = keeper.train_and_val(train, val, Wish(kind, columns, 256 if kind == IMAGES.name else None))
    return {**overrides, "data.train": train, "data.val": val}


def _from_data(train: Dataset, task: str) -> dict[str, Any]:
    """The settings that follow from the data set: `model.classes` and their names, and for images `pretext.ignore_index`; none of depth."""
    from sightline.methods.errors import CallError
    from sightline.platform.data.kinds import IMAGES

    if task in COLUMNS:
        if (column := COLUMNS[task]) not in train.manifest.columns:
            raise CallError(f"{train.uri} has no column {column!r}", f"make data with it: sightline prepare {MADE_BY[task]} --help")
        return {"pretext.typical": _typical(train, column)} if task in ("depth", "stereo") else {}
    manifest = train.manifest
    if task == "part_segmentation":
        return _parts_of(train)
    column = {"classification": "label", "segmentation": "segmentation"}[task]
    if column not in manifest.columns or len(manifest.classes) < 2:
        raise CallError(
            f"{train.uri} has no column {column!r} with two classes or more",
            f"make one with `sightline prepare {train.kind} {'classes' if task == 'classification' else 'masks'} ...`",
        )
    ignored = {"pretext.ignore_index": manifest.ignore_index} if train.kind == IMAGES.name else {}
    colours = {"model.palette": [list(one) for one in manifest.palette]} if task == "segmentation" and manifest.palette else {}
    return {"model.classes": len(manifest.classes), "model.class_names": list(manifest.classes), **ignored, **colours}


def _parts_of(train: Dataset) -> dict[str, Any]:
    """Categories and parts; each category has the parts `Category/...`, or all of them where no part names a category."""
    from sightline.methods.errors import CallError

    manifest = train.manifest
    if not {"label", "part"} <= set(manifest.columns) or not manifest.classes or len(manifest.parts) < 2:
        raise CallError(f"{train.uri} has no categories with parts", f"make some: sightline prepare {MADE_BY['part_segmentation']} --help")
    named = any("/" in part for part in manifest.parts)
    of = [[i for i, part in enumerate(manifest.parts) if not named or part.rpartition("/")[0] == one] for one in manifest.classes]
    if bare := [one for one, parts in zip(manifest.classes, of, strict=True) if not parts]:
        raise CallError(f"no part of {train.uri} is named {bare[0]}/...", "name each part CATEGORY/PART, or none of them so")
    categories = {"model.classes": len(manifest.classes), "model.class_names": list(manifest.classes)}
    return {**categories, "model.parts": len(manifest.parts), "model.part_names": list(manifest.parts), "model.parts_of": of}


def _intrinsics(train: Dataset, size: tuple[int, int]) -> list[float]:
    """Of the first image that can be read, cut to the size of the network: what prediction assumes where it is told none."""
    from sightline.methods.errors import BrokenSampleError, CallError
    from sightline.methods.pose.views import PoseCentre, relative_intrinsics
    from sightline.methods.random import sample_rng
    from sightline.platform.data.loader.fixed import read_rows
    from sightline.platform.data.schema import decode_row

    views = PoseCentre(size)
    for row, stored in read_rows(train, range(min(train.rows, 100)), ("id", "image1", "image2", *views.columns)):
        try:
            sample = decode_row(stored, train.kind, needed=views.columns)
            return [round(value, 6) for value in relative_intrinsics(views(sample, sample_rng(0, row))["K1"], size)]
        except BrokenSampleError as error:
            reason = str(error)
    raise CallError(f"{train.uri} has no pair with intrinsics and a pose among its first: {reason}", "sightline prepare pairs rgbd --help")


def _typical(train: Dataset, column: str, images: int = 200) -> float | None:
    """Median of the known depths or disparities of some images, evenly spread; None where none of them can be read."""
    import numpy as np

    from sightline.methods.errors import BrokenSampleError
    from sightline.platform.data.loader.fixed import read_rows, spread
    from sightline.platform.data.schema import decode_row

    known = []
    for _, stored in read_rows(train, spread(train.rows, images), ("id", column)):
        try:
            truth = np.asarray(decode_row(stored, train.kind, needed=(column,))[column], np.float64).ravel()
        except BrokenSampleError:
            continue
        truth = truth[truth > 0] if column == "depth" else truth[np.isfinite(truth)]
        known.append(np.quantile(truth, np.linspace(0.005, 0.995, 100)) if truth.size else truth)  # images count alike, whatever their size
    values = np.concatenate(known) if known else np.zeros(0)
    return float(f"{np.median(values):.4g}") if values.size else None


def _same_classes(train: Dataset, val: Dataset, parts: bool = False) -> None:
    from sightline.methods.errors import CallError

    for what in ("classes", "parts") if parts else ("classes",):
        one, other = getattr(train.manifest, what), getattr(val.manifest, what)
        if one == other:
            continue
        different = sorted(set(one) ^ set(other))
        raise CallError(
            f"data.train and data.val have other {what} or another order of them: {', '.join(different[:5]) or 'the order differs'}",
            f"prepare both from one source, or with one list of {what}",
        )
