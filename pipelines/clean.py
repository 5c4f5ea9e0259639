"""Free the disk of checkpoints and kept data that no run needs any more. Lists them with their sizes; deletes only with --yes.

  sightline clean
  sightline clean croco-tiny-1121-0930 --yes
  sightline clean --keep 1 --yes

A finished run keeps its newest checkpoint without the optimizer's state, which is needed only to continue; probes, export, init= and a
repeated report still work. Any other run keeps its newest checkpoints whole, as many as its train.keep, or --keep. Of a run whose newest
checkpoint does not verify everything stays. Milestones (train.keep_every) and the best one (train.keep_best) stay, too, unless
--milestones; of a finished run as weights. With --yes MLflow forgets the models of checkpoints that are gone (step-5000). The model
registry is not touched: it holds copies of its own, and `mlflow gc` is for those.

Data that were kept from a source of Ray's or made of a folder ($SIGHTLINE_HOME/data) can go when no run, sweep or comparison names them;
those in use are listed with size, age and whose they are. They are looked at where no RUN is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.platform.core.screen import Screen
    from sightline.platform.runs.record import Run

SUMMARY = "free the disk of checkpoints and kept data that no run needs any more"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", metavar="RUN", help="name, folder or MLflow run id; default: all runs under $SIGHTLINE_HOME")
    parser.add_argument(
        "--keep", type=int, metavar="N", help="checkpoints that each run keeps; default: 1 when finished, else its train.keep"
    )
    parser.add_argument("--keep-optimizer", action="store_true", help="leave the optimizer's state to finished runs, too")
    parser.add_argument("--milestones", action="store_true", help="count milestones and the best checkpoint as any other")
    parser.add_argument("--yes", action="store_true", help="delete what is listed")


def run(args: argparse.Namespace) -> dict[str, object]:
    from rich.table import Table

    from sightline.methods.errors import CallError, SightlineError
    from sightline.platform.core.screen import Screen
    from sightline.platform.runs.clean import Waste, age, find_waste, kept_data
    from sightline.platform.runs.record import Run, all_runs

    if args.keep is not None and args.keep < 1:
        raise CallError("--keep must be at least 1", "a run needs its newest checkpoint")
    console = Screen(stderr=args.json)
    damaged: list[str] = []
    chosen = [Run.open(reference) for reference in args.runs] if args.runs else all_runs(damaged.append)
    waste: list[Waste] = []
    with console.status("verifying checkpoints"):
        for one in chosen:
            try:
                waste += find_waste(one, args.keep, args.keep_optimizer, args.milestones)
            except SightlineError as error:  # settings that this version cannot read
                damaged.append(f"{one.folder}: {error}")
    for text in damaged:
        console.warn(f"passed over: {text}")
    data = [] if args.runs else kept_data()
    waste += [one.waste for one in data if one.free]
    staying = [one for one in data if not one.free]
    size = sum(item.bytes for item in waste)
    table = Table(box=None, show_header=False)
    for item in waste:
        table.add_row(item.run, item.status, item.what, f"{item.bytes / 1e6:,.1f} MB")
    console.print(table)
    for folder in staying:
        whose = f"of {', '.join(folder.runs)}" if folder.runs else "of no run yet"
        console.print(f"stays: {folder.path}, {folder.bytes / 1e6:,.1f} MB, {age(folder.days)} old, {whose}")
    if args.yes:
        for item in waste:
            item.remove()
    end = "deleted" if args.yes else "nothing was deleted; --yes deletes it"
    console.print(f"{size / 1e6:,.1f} MB, {end}" if waste else f"nothing can go of {len(chosen)} runs")
    forgotten = _forget(chosen, console) if args.yes and any(one.mlflow_run_id for one in chosen) else 0
    return {
        "waste": [item.as_dict() for item in waste],
        "bytes": size,
        "data": [folder.as_dict() for folder in staying],
        "deleted": args.yes,
        "models": forgotten,
        "damaged": damaged,
    }


def _forget(runs: Sequence[Run], console: Screen) -> int:
    """Delete MLflow's models of checkpoints that are gone; how many. A place that does not take it is told."""
    from sightline.platform.tracking.models import drop_gone_checkpoints_of

    count, problems = drop_gone_checkpoints_of(runs)
    if count:
        console.print(f"MLflow forgot {count} {'model' if count == 1 else 'models'} of checkpoints that are gone")
    for problem in problems.values():
        console.warn(f"MLflow may still list models of checkpoints that are gone: {problem.what}\n  hint: give the command once more later")
    return count
