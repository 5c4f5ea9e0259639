"""The main job on an embedded default: rendered rooms -> CroCo -> probe -> registry -> report, in a few minutes on two cores.

Renders a small multi-view set of procedural rooms, pre-trains `croco-tiny` with two DDP workers on a local Ray (one on a machine
with a single GPU), probes it against random weights, logs to an embedded MLflow (SQLite), registers the encoder as `candidate` and
writes an HTML report with pictures.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.platform.core.screen import Screen

SUMMARY = "the main job on an embedded default, from rendered rooms to a registered encoder, in minutes"
RECIPE = "croco-tiny"
QUICK = {
    "model.image_size": 64,
    "model.patch_size": 8,
    "model.encoder_dim": 128,
    "model.encoder_depth": 4,
    "model.encoder_heads": 4,
    "model.decoder_depth": 3,
    "pretext.mask_ratio": 0.92,
    "pretext.norm_pix": False,
    "augment.brightness": 0.0,
    "augment.contrast": 0.0,
    "augment.saturation": 0.0,
    "train.length": "600 steps",
    "train.workers": 2,
    "train.validate_every": "50 steps",
    "train.validate_samples": 64,
    "train.checkpoint_every": "100 steps",
    "optim.lr": 2e-3,
}
"""What differs from the recipe, so that minutes suffice: a smaller network, six patches of image 1 to begin from, and colours in place of
patterns of zero mean, so the second view is of use from the start."""
ROOMS = [
    *("rendered", "--scenes", "240", "--pairs-per-scene", "8", "--size", "64", "--overlap", "0.45..0.9", "--pan", "10..25"),
    *("--split", "train=0.8,val=0.2", "--local"),
]
"""The cameras look past each other, so that what both see is hardly ever at the same place of both images."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help=f"overrides of the recipe {RECIPE}")
    parser.add_argument("--name", help="the run's name; default: quickstart and the time")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.platform import config
    from sightline.platform.core.screen import Screen

    settings = quick_settings(config.parse_overrides(args.settings))  # a wrong setting is reported before rooms are rendered
    from sightline.platform.core.ray_checks import check_ray
    from sightline.platform.core.redaction import command_line
    from sightline.platform.experiments import execution
    from sightline.platform.experiments.create import create_run
    from sightline.platform.experiments.preflight import check
    from sightline.platform.runs.names import fresh_name, refuse_taken
    from sightline.platform.tracking.client import check_tracking, tracking_uri

    name = args.name or fresh_name("quickstart")
    refuse_taken(name, "run")
    check_ray()
    console = Screen(stderr=args.json)
    check_tracking(config.load(RECIPE, settings), console.warn)
    rooms = rendered_rooms(console)
    data = {"data.train": str(rooms / "train"), "data.val": str(rooms / "val")}
    experiment, dataset = check(config.load(RECIPE, {**data, **settings}))
    command = command_line(["quickstart", *args.settings, *(["--name", args.name] if args.name else [])])
    record = create_run(name, experiment, dataset.fingerprint, command, tracking_uri(experiment))
    return execution.execute(record, console)


def quick_settings(overrides: dict[str, Any]) -> dict[str, Any]:
    """`QUICK` with the overrides; one worker where this machine has no room for two, such as one with a single GPU."""
    from sightline.methods.errors import CallError
    from sightline.platform import config
    from sightline.platform.cluster.resources import local_plan

    settings = {**QUICK, **overrides}
    experiment = config.load(RECIPE, settings)
    if "train.workers" not in overrides:
        try:
            local_plan(experiment)
        except CallError:
            settings["train.workers"] = 1
    return settings


def rendered_rooms(console: Screen) -> Path:
    """The folder of the default data, which are rendered once and then reused."""
    from sightline.platform.core.paths import home
    from sightline.platform.data.dataset import Dataset

    from . import prepare
    from .parser import Parser

    folder = home() / "data" / "rooms-64"
    if all((folder / part / "manifest.json").exists() for part in ("train", "val")):
        console.print(f"rooms are in {folder} already")
        return folder
    console.print("rendering rooms: exact depth, poses and co-visibility")
    parser = Parser()
    prepare.add_arguments(parser)
    prepare.run(parser.parse_args(["pairs", *ROOMS, "--out", str(folder), "--json"]))
    counts = [Dataset.open(folder / part).rows for part in ("train", "val")]
    console.print(f"{counts[0]} pairs to learn from, {counts[1]} of other rooms to measure on, in {folder}")
    return folder
