"""Search settings: many runs of one recipe, compared by what their encoders are worth; the winner is registered as champion.

  sightline sweep croco-tiny data.train=./pairs/train data.val=./pairs/val --space pretext.mask_ratio=0.5..0.95 --trials 12
  sightline sweep loca-tiny data.train=./birds/train data.val=./birds/val --space loss.position=log:0.1..10 --search optuna
  sightline sweep croco-tiny data.train=./pairs/train data.val=./pairs/val --space model.position=cosine,rope --search grid
  sightline sweep croco-tiny data.train='[./a: 3, ./b: 1]' data.val=./c --space data.train='[./a: 1, ./b: 1],[./a: 1, ./b: 3]' --search grid

A DOMAIN is a range (0.5..0.95; in steps 0.5..0.95/0.05; on a logarithmic scale log:0.1..10) or values with commas; whole numbers stay
whole. Without --space the method's own search space is taken. Trial 0 has the recipe's own settings. Trials are measured at rungs, by a
probe of their encoder, and asynchronous successive halving (ASHA) stops those that fall behind. Each trial is a run: `sightline resume
TRIAL` measures, registers and reports it alone. `sightline resume SWEEP` goes on with a sweep that was stopped or killed. docs/sweeps.md
says more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sightline.platform import config
    from sightline.platform.data.training_data import TrainingData

SUMMARY = "search settings: many runs of one recipe, compared by probes; the winner becomes champion"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a shipped recipe or a YAML file")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="overrides that all trials share")
    parser.add_argument("--space", action="append", default=[], metavar="KEY=DOMAIN", help="setting and domain, or a YAML file of them")
    parser.add_argument("--trials", type=int, metavar="N", help="how many, the recipe's own settings included (default: 16; of a grid all)")
    parser.add_argument(
        "--search",
        default="random",
        metavar="SEARCHER",
        help="random, grid, optuna, optuna:gp, optuna:cmaes, optuna:nsga2, ..., ray:hyperopt, ..., or one of an installed package "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--scheduler",
        metavar="SCHEDULER",
        help="asha, median, hyperband, or one of an installed package; none: every trial trains to its end (default: asha; of several "
        "objectives none)",
    )
    parser.add_argument(
        "--objective",
        action="append",
        default=[],
        metavar="OBJECTIVE",
        help="what trials are compared by: PROBE.METRIC, val/LOSS, test/METRIC of a fine-tuned model, speed/samples_per_second or "
        "model/parameters; :max or :min says which "
        "way is better where it is not known; several give a Pareto front (default: the first probe the data allow)",
    )
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="training seeds of a trial; their mean is the objective")
    parser.add_argument("--rungs", type=int, default=3, metavar="N", help="times a whole trial is measured (default: %(default)s)")
    parser.add_argument("--reduction", type=int, default=3, metavar="N", help="one of N goes on from a rung (default: %(default)s)")
    parser.add_argument(
        "--concurrent",
        type=int,
        metavar="N",
        help="trials at the same time (default: as many as the cluster, or this machine, has CPUs or GPUs for)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the search; training has train.seed (default: %(default)s)")
    parser.add_argument("--insist", action="store_true", help="compare by a pretext loss although the space changes what it measures")
    parser.add_argument("--name", help="the sweep's name; its trials are NAME-000, NAME-001, ... (default: the recipe and the time)")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the first trials, and start nothing")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.catalog import find_method
    from sightline.platform import config
    from sightline.platform.core.redaction import command_line
    from sightline.platform.core.screen import Screen
    from sightline.platform.data.training_data import open_training_data
    from sightline.platform.experiments.own_folders import prepare_folders
    from sightline.platform.experiments.preflight import check, keep_sources
    from sightline.platform.experiments.sweep.record import Sweep, refuse_name
    from sightline.platform.runs.names import fresh_name
    from sightline.platform.tracking.client import check_tracking, tracking_uri

    asked = config.load(args.recipe, config.parse_overrides(args.settings))
    name = args.name or f"{fresh_name(asked.recipe)}-sweep"
    refuse_name(name)  # before the data are looked at
    console = Screen(stderr=args.json)

    def ready(changed: Mapping[str, Any]) -> tuple[config.Experiment, TrainingData]:
        own = config.load(args.recipe, changed, settings=asked.sections())
        own, _ = check(prepare_folders(own, console.print, dry=args.dry_run), look=False)
        own = keep_sources(own, console.print, train=True)
        return own, open_training_data(own.data, find_method(own.method).kind)

    experiment, dataset = ready({})
    from sightline.platform.experiments.sweep import plan as planning

    options = {key: value for key, value in vars(args).items() if key in planning.Asked.__dataclass_fields__}
    plan = planning.make_plan(experiment, dataset, planning.Asked(**options), ready)
    check_tracking(experiment, console.warn)
    if args.dry_run:
        first = planning.first_trials(plan)
        console.print("\n".join(planning.describe(plan, first)))
        return {"plan": plan.model_dump(mode="json"), "first_trials": first}
    from sightline.platform.experiments.sweep.execute import execute

    sweep = Sweep.create(
        name,
        planning.trial_settings(experiment, plan),
        dataset.fingerprint,
        plan,
        command_line(sys.argv[1:]),
        tracking_uri(experiment),
    )
    return execute(sweep, console)
