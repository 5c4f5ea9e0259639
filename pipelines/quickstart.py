"""The main job on an embedded default: rendered rooms -> CroCo -> probe -> registry -> report, in a few minutes on two cores.

Renders a small multi-view set of procedural rooms, pre-trains `croco-tiny` with two DDP workers on a local Ray, probes it against
random weights, logs to an embedded MLflow (SQLite), registers the encoder as `candidate` and writes an HTML report with pictures.
"""

from __future__ import annotations

import argparse
from typing import Any

ROOMS = 64
VIEWS_SEED = 7


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="overrides of recipe croco-quickstart")
    parser.add_argument("--name", help="the run's name; default: quickstart and the time")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from sightline.platform import config

    overrides = config.parse_overrides(args.settings)
    config.load("croco-tiny", {**QUICK, **overrides})  # a wrong setting is told before rooms are rendered
    from rich.console import Console
    from sightline.platform import jobs, preflight, runs

    console = Console()
    folder = rendered_rooms(console)
    overrides = {**QUICK, "data.train": str(folder / "train"), "data.val": str(folder / "val"), **overrides}
    experiment, dataset = preflight.check(config.load("croco-tiny", overrides))
    name = args.name or runs.fresh_name("quickstart")
    record = runs.Run.create(
        name, experiment, dataset.fingerprint, "sightline quickstart " + " ".join(args.settings), preflight.tracking_uri(experiment)
    )
    return jobs.execute(record, console)
