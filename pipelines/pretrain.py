"""Train an encoder by a recipe, probe it, register it, report on it.

  sightline pretrain croco-tiny data.train=./pairs/train data.val=./pairs/val
  sightline pretrain croco-tiny pretext.mask_ratio=0.8 data.train=./pairs/train --name first-try
  sightline pretrain croco-v2-base data.train=./pairs/train --dry-run
  sightline pretrain loca-tiny data.train=./photos

A recipe is a shipped name or a YAML file of your own; every setting can be overridden as section.key=value.
A folder that is no data set yet is prepared first, and kept; a part of it is held out where data.val is not named.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.platform.config import Experiment

SUMMARY = "train an encoder by a recipe, probe it, register it, report on it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a shipped recipe (croco-tiny, croco-small, croco-v2-base, ...) or a YAML file")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="overrides")
    parser.add_argument("--name", help="the run's name; default: the recipe and the time")
    parser.add_argument("--dry-run", action="store_true", help="print the settings, the resource plan, memory and cost, and start nothing")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.platform import config

    experiment = config.load(args.recipe, config.parse_overrides(args.settings))
    from sightline.platform.core.ray_checks import check_ray
    from sightline.platform.core.redaction import command_line
    from sightline.platform.core.screen import Screen
    from sightline.platform.experiments.own_folders import prepare_folders
    from sightline.platform.experiments.preflight import check
    from sightline.platform.runs.names import fresh_name, refuse_taken
    from sightline.platform.tracking.client import check_tracking, tracking_uri

    name = args.name or fresh_name(experiment.recipe)
    refuse_taken(name, "run")
    console = Screen(stderr=args.json)
    check_tracking(experiment, console.warn)
    if args.dry_run:
        check_ray()
        return _dry_run(prepare_folders(experiment, console.print, dry=True), show=not args.json)
    experiment = prepare_folders(experiment, console.print)
    experiment, dataset = check(experiment, say=console.print)
    from sightline.platform.experiments import execution
    from sightline.platform.experiments.create import create_run

    command = command_line(sys.argv[1:])
    record = create_run(name, experiment, dataset.fingerprint, command, tracking_uri(experiment))
    return execution.execute(record, console)


def _dry_run(experiment: Experiment, show: bool) -> dict[str, object]:
    """Shows the settings and the resource plan at once, then what takes torch: parameters, memory and cost."""
    from sightline.platform.cluster.resources import local_plan
    from sightline.platform.config import without_password
    from sightline.platform.core.redaction import redacted
    from sightline.platform.experiments.preflight import check

    if experiment.data.train:
        check(experiment, look=False)
    shown = without_password(experiment)
    if show:
        print(f"{shown.to_yaml()}\n{'resources':<22} {local_plan(experiment).describe()}", flush=True)
    from sightline.platform.experiments.estimate import estimate_cost

    estimate = estimate_cost(experiment)
    if show:
        print("\n".join(f"{label:<22} {text}" for label, text in estimate.lines()))
    return {"settings": redacted(shown.sections()), "estimate": estimate.as_dict()}
