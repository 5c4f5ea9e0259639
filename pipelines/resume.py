"""Continue a run that was stopped or killed, from its newest checkpoint that verifies, in the same MLflow run.

  sightline resume croco-tiny-1121-0930
  sightline resume croco-tiny-1121-0930 train.workers=1
  sightline resume croco-tiny-1121-0930-sweep

RUN is a run's name, its folder or its MLflow run id; sweeps and comparisons are named likewise. The effective history is that of a run
that never stopped, also with another number of workers. Settings that would change what is learned are refused. Where the data moved,
give data.train=FOLDER and data.val=FOLDER: they must be the same data, by their fingerprint. `log.tracking_uri` can change until the run
is recorded in MLflow. A run that has its last step is only measured, registered and reported again, and MLflow gets what it missed.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.platform.config import Experiment
    from sightline.platform.runs.record import Run

SUMMARY = "go on with a run or a sweep that was stopped or killed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="name, folder or MLflow run id; of a sweep or a comparison its name or folder")
    parser.add_argument("--trials", type=int, metavar="N", help="of a sweep: how many trials it shall have in all, if more than so far")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="section.key=value",
        help="only settings that do not change what is learned (train.workers, train.keep, log.every, ...), or where the data are",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    from sightline.methods.errors import CallError, SightlineError
    from sightline.platform import config
    from sightline.platform.checkpoints import local as checkpoint
    from sightline.platform.checkpoints.remote import Storage
    from sightline.platform.config import without_password
    from sightline.platform.core.paths import comparison_record, sweep_record
    from sightline.platform.core.screen import Screen
    from sightline.platform.experiments import execution
    from sightline.platform.experiments.preflight import check
    from sightline.platform.runs.identity import identity
    from sightline.platform.runs.record import Run
    from sightline.platform.tracking.client import tracking_uri

    if sweep_record(args.run) is not None or comparison_record(args.run) is not None:
        return resume_many(args)
    if args.trials is not None:
        raise CallError(f"--trials {args.trials}: {args.run} is no sweep", "leave --trials out")
    record = Run.open(args.run)
    experiment = record.experiment
    if args.settings:
        overrides = config.parse_overrides(args.settings)
        experiment = changed(record, overrides)
        if "log.tracking_uri" in overrides:
            record.tracking_uri = moved_tracking(record, tracking_uri(experiment))
    experiment, dataset = check(experiment)
    if dataset.fingerprint != record.fingerprint:
        raise CallError(
            f"{experiment.data.train} is not the data {record.name} began with: "
            f"its fingerprint is {dataset.fingerprint[:16]}, the run's is {record.fingerprint[:16]}",
            "name the folder of the original data with data.train=FOLDER, or start a new run",
        )
    record.experiment = without_password(experiment)
    console = Screen(stderr=args.json)
    if storage := Storage.of(experiment, record.folder):
        storage.claim(identity(record.folder))
        storage.pull(lambda text: console.warn(text))
    folder = record.folder / "checkpoints"
    if corrupt := checkpoint.corrupt(folder):
        found = checkpoint.newest(folder)
        if found is None:
            raise SightlineError(
                f"no checkpoint of {record.name} verifies; {corrupt[0]}",
                f"restore {folder} from a copy, or train again under another name",
            )
        console.warn(f"going on from step {found.state.step}, because newer checkpoints do not verify: {'; '.join(corrupt)}")
    return execution.execute(record, console)


def resume_many(args: argparse.Namespace) -> dict[str, Any]:
    """Continue a sweep or a comparison."""
    from sightline.methods.errors import CallError
    from sightline.platform.core.locks import DRIVER, exclusive_lock
    from sightline.platform.core.paths import sweep_record
    from sightline.platform.core.ray_checks import check_ray
    from sightline.platform.core.screen import Screen

    if args.settings:
        raise CallError(
            f"{args.run} holds several runs, and their settings are fixed",
            "leave the settings out, or start a new one; `--trials N` gives a sweep more trials",
        )
    check_ray()
    console = Screen(stderr=args.json)
    if sweep_record(args.run) is not None:
        from sightline.platform.experiments.sweep.execute import execute as sweep
        from sightline.platform.experiments.sweep.plan import add_trials
        from sightline.platform.experiments.sweep.record import Sweep

        record = Sweep.open(args.run)
        if args.trials is not None:
            with exclusive_lock(record.folder / DRIVER, f"{record.name} is being run", timeout=0):
                record = Sweep.open(args.run)
                add_trials(record, args.trials)
                record.save()
        return sweep(record, console)
    if args.trials is not None:
        raise CallError(f"--trials {args.trials}: {args.run} is a comparison", "leave --trials out")
    from sightline.platform.experiments.compare.execute import execute as compare
    from sightline.platform.experiments.compare.record import Comparison

    return compare(Comparison.open(args.run), console)


def changed(record: Run, overrides: dict[str, Any]) -> Experiment:
    """The run's experiment with `overrides`. Raises `CallError` where they would change what is learned."""
    from sightline.methods.errors import CallError
    from sightline.platform import config

    before = record.experiment
    after = config.load(record.recipe, overrides, settings=record.settings)
    places = {"train": before.data.train, "val": before.data.val}  # the same data may lie elsewhere
    if config.hashed_text(after) != config.hashed_text(before) or after.data.model_copy(update=places) != before.data:
        raise CallError(
            f"a resume of {record.name} cannot change what is learned",
            "change only how it runs (train.workers, train.keep, log.every, ...) or where its data are, or start a new run",
        )
    return after


def moved_tracking(record: Run, uri: str) -> str:
    """`uri`, if the run may move there: it is not in MLflow yet, or only the password changed. Raises `CallError` otherwise."""
    from sightline.methods.errors import CallError
    from sightline.platform.core.redaction import redact

    if record.mlflow_run_id is not None and redact(uri) != redact(record.tracking_uri):
        raise CallError(
            f"{record.name} is recorded in {redact(record.tracking_uri)} as MLflow run {record.mlflow_run_id}; "
            f"it cannot move to {redact(uri)}",
            "leave log.tracking_uri out, or start a new run",
        )
    return uri
