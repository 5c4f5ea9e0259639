"""Continue a run that was stopped or killed, from its newest checkpoint that verifies, in the same MLflow run.

  sightline resume croco-tiny-1121-0930
  sightline resume croco-tiny-1121-0930 train.workers=1
  sightline resume croco-tiny-1121-0930-sweep

RUN is a run's name, its folder or its MLflow run id; sweeps and comparisons are named likewise. The effective history is that of a run
that never stopped, also with another number of workers. Settings that would change what is learned are refused. Where the data moved,
give data.train=FOLDER and data.val=FOLDER: they must be the same data, by their fingerprint. `log.tracking_uri=ADDRESS` says where MLflow
records it now: in the same MLflow run where that place has it, else in a new one that gets everything from the first step. A run that has
its last step is only measured, registered and reported again, and MLflow gets what it missed.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.platform.config import Experiment
    from sightline.platform.core.screen import Screen
    from sightline.platform.runs.record import Run
    from sightline.platform.tracking.client import Recorded

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
    parser.add_argument(
        "--new-mlflow-run", action="store_true", help="record it in a new MLflow run, linked to the one so far, that gets everything"
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
    from sightline.platform.tracking.client import place_of, record_elsewhere, tracking_uri

    if sweep_record(args.run) is not None or comparison_record(args.run) is not None:
        return resume_many(args)
    record = Run.open(args.run)
    if args.trials is not None:
        raise CallError(f"--trials {args.trials}: {args.run} is a run, and only a sweep has trials", "leave --trials out")
    before = experiment = record.experiment
    console = Screen(stderr=args.json)
    overrides = config.parse_overrides(args.settings)
    if overrides:
        experiment = changed(record, overrides)
    other = experiment.log.experiment != before.log.experiment
    if "log.tracking_uri" in overrides or other or args.new_mlflow_run:
        uri = tracking_uri(experiment) if "log.tracking_uri" in overrides else place_of(record)
        console.print(record_elsewhere(record, uri, experiment.log.experiment, args.new_mlflow_run or other))
    experiment, dataset = check(experiment, say=console.print)
    if dataset.fingerprint != record.fingerprint:
        raise CallError(
            f"{experiment.data.train} is not the data {record.name} began with: "
            f"its fingerprint is {dataset.fingerprint[:16]}, the run's is {record.fingerprint[:16]}",
            "name the folder of the original data with data.train=FOLDER, or start a new run"
            + (" (of a mixture all folders, in their order)" if str(experiment.data.train).startswith("[") else ""),
        )
    record.experiment = without_password(experiment)
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
    from sightline.platform import config
    from sightline.platform.core.locks import DRIVER, exclusive_lock
    from sightline.platform.core.paths import sweep_record
    from sightline.platform.core.ray_checks import check_ray
    from sightline.platform.core.screen import Screen

    overrides = config.parse_overrides(args.settings)
    if set(overrides) - {"log.tracking_uri"}:
        raise CallError(
            f"{args.run} holds several runs, and their settings are fixed",
            "leave the settings out (log.tracking_uri may be given), or start a new one; `--trials N` gives a sweep more trials",
        )
    check_ray()
    console = Screen(stderr=args.json)
    if sweep_record(args.run) is not None:
        from sightline.platform.experiments.sweep.execute import execute as sweep
        from sightline.platform.experiments.sweep.plan import add_trials
        from sightline.platform.experiments.sweep.record import Sweep

        record = Sweep.open(args.run)
        if args.trials is not None or overrides or args.new_mlflow_run:
            with exclusive_lock(record.folder / DRIVER, f"{record.name} is being run", timeout=0):
                record = Sweep.open(args.run)
                if args.trials is not None and (fewer := add_trials(record, args.trials)):
                    console.warn(fewer)
                names = [name for trial in record.trials() for name in record.run_names(trial.number)]
                _elsewhere(record, names, record.settings["log"]["experiment"], overrides, args.new_mlflow_run, console)
                record.save()
        return sweep(record, console)
    if args.trials is not None:
        raise CallError(f"--trials {args.trials}: {args.run} is a comparison", "leave --trials out")
    from sightline.platform.experiments.compare.execute import execute as compare
    from sightline.platform.experiments.compare.record import Comparison

    comparison = Comparison.open(args.run)
    if overrides or args.new_mlflow_run:
        with exclusive_lock(comparison.folder / DRIVER, f"{comparison.name} is being run", timeout=0):
            comparison = Comparison.open(args.run)
            names = [comparison.run_name(entry, seed) for seed in comparison.seeds for entry in comparison.entries]
            experiment = comparison.entries[0].settings["log"]["experiment"]
            _elsewhere(comparison, names, experiment, overrides, args.new_mlflow_run, console)
            comparison.save()
    return compare(comparison, console)


def _elsewhere(many: Recorded, names: list[str], experiment: str, overrides: dict[str, Any], new_run: bool, console: Screen) -> None:
    """Record a sweep or comparison, with its runs of these `names`, where the overrides say."""
    from sightline.platform.core.paths import runs_folder
    from sightline.platform.runs.record import RUN_FILE, Run
    from sightline.platform.tracking.client import checked_uri, default_uri, place_of, record_elsewhere

    if not overrides and not new_run:
        return
    named = overrides.get("log.tracking_uri")
    uri = place_of(many) if not overrides else checked_uri(named, "log.tracking_uri") if named else default_uri()
    console.print(record_elsewhere(many, uri, experiment, new_run))
    for name in names:
        if (runs_folder() / name / RUN_FILE).is_file():
            run = Run.open(name)
            record_elsewhere(run, uri, experiment, new_run)
            run.save()


def changed(record: Run, overrides: dict[str, Any]) -> Experiment:
    """The run's experiment with `overrides`. Raises `CallError` where they would change what is learned."""
    from sightline.methods.errors import CallError
    from sightline.platform import config

    before = record.experiment
    after = config.load(record.recipe, overrides, settings=record.settings)
    places = {"train": before.data.train, "val": before.data.val}  # the same data may lie elsewhere
    was, now = (_by_setting(json.loads(config.hashed_text(one))) for one in (before, after))
    if was != now or after.data.model_copy(update=places) != before.data:
        named = ", ".join(sorted({key for key, value in (was.items() ^ now.items())}))
        raise CallError(
            f"a resume of {record.name} cannot change what is learned" + (f": {named}" if named else ""),
            "change only how it runs (train.workers, train.keep, log.every, ...) or where its data are, or start a new run",
        )
    return after


def _by_setting(sections: dict[str, Any]) -> dict[str, str]:
    """`section.key` -> value, as text."""
    pairs = {name: value if isinstance(value, dict) else {"": value} for name, value in sections.items()}
    return {f"{name}.{key}".rstrip("."): json.dumps(one, sort_keys=True) for name, values in pairs.items() for key, one in values.items()}
