"""Go on with a run that was stopped or killed, from its newest checkpoint that verifies, in the same MLflow run.

  sightline resume croco-tiny-1121-0930
  sightline resume croco-tiny-1121-0930 train.workers=1

A run is named by its name, its folder or its MLflow run id. The effective history is that of a run that never stopped, also with
another number of workers; settings that would change what is learned are refused.
"""

from __future__ import annotations

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="name, folder or MLflow run id")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="section.key=value",
        help="only how the run is carried out: train.workers, train.keep, log.every, ...",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from rich.console import Console

    from sightline.methods.errors import CallError, SightlineError
    from sightline.platform import checkpoint, config, jobs, preflight, runs

    record = runs.Run.open(args.run)
    experiment = record.experiment
    if args.settings:
        changed = config.load(record.recipe, config.parse_overrides(args.settings), settings=record.settings)
        if config.fingerprint(changed) != config.fingerprint(experiment) or changed.data != experiment.data:
            raise CallError(
                f"a resume of {record.name} cannot change what is learned",
                "change only how it is carried out (train.workers, train.keep, log.every, ...), or start a new run",
            )
        experiment = changed
        record.settings = experiment.sections()
    preflight.check(experiment)
    console = Console(stderr=args.json)
    folder = record.folder / "checkpoints"
    if harmed := checkpoint.harmed(folder):
        found = checkpoint.newest(folder)
        if found is None:
            raise SightlineError(
                f"no checkpoint of {record.name} verifies; {harmed[0]}",
                f"restore {folder} from a copy, or train anew under another name",
            )
        console.print(f"[yellow]going on from step {found.state.step}, because newer checkpoints do not verify: {'; '.join(harmed)}")
    return jobs.execute(record, console)
