"""Measure what encoders are worth: probes with frozen protocols, beside the same networks with random weights and raw pixels.

  sightline evaluate conmim-tiny-1121-0930 --data ./birds --data ./kitchen
  sightline evaluate models:/croco-encoder@candidate encoder.safetensors --probe knn --probe linear --train ./birds/train --test ./birds/val
  sightline evaluate croco-tiny-1121-0930 --probe correspondence --test ./kitchen-pairs --out kitchen.html
  sightline evaluate my-stereo-run crocostereo.safetensors --test ./middlebury
  sightline evaluate my-segmentation-run --data ./camvid --scales 0.75,1,1.25 --flip

MODEL is a run, a file made by `sightline export` or `import`, or a registry URI. Encoders are probed: DATA is a data set made by
`sightline prepare`; each probe takes the first that has what it needs. Fine-tuned models are scored by what they predict, as at the end of
their runs, on one data set, and the first is compared with each other one on the same samples. The metrics are printed and written as JSON
and as one HTML page. docs/probes.md has the protocols. MLflow gets them as a run of its own and as metrics of the models, where the model
was trained or else where new runs go (docs/tracking.md).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sightline.methods.ops.tiling import Passes
    from sightline.platform.core.screen import Screen
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
    from sightline.platform.evaluation.results import ProbeOutcome, ProbeOutcomes
    from sightline.platform.models.encoders import OpenedEncoder
    from sightline.platform.tracking.evaluation_run import RecordedEvaluation
    from sightline.platform.tracking.problems import TrackingProblem

SUMMARY = "measure what encoders are worth: probes beside random weights and raw pixels"


def add_passes(parser: argparse.ArgumentParser) -> None:
    """How a model of label maps sees an image."""
    parser.add_argument("--overlap", type=float, metavar="SHARE", help="of a tile with its neighbours, from 0 to below 1 (default: 0.5)")
    parser.add_argument(
        "--scales", metavar="NUMBERS", help="label maps: sizes at which an image is seen, such as 0.5,0.75,1,1.25,1.5,1.75 (default: 1)"
    )
    parser.add_argument("--flip", action="store_true", help="label maps: see each image mirrored, too")


def passes_of(args: argparse.Namespace) -> Passes | None:
    """What was asked for; None where nothing was. Raises `CallError` for what is no number or no scale."""
    from sightline.methods.errors import CallError

    if args.overlap is None and args.scales is None and not args.flip:
        return None
    from sightline.methods.ops.tiling import Passes

    try:
        scales = (1.0,) if args.scales is None else tuple(float(one) for one in args.scales.split(","))
        return Passes(0.5 if args.overlap is None else args.overlap, scales, args.flip)
    except ValueError as error:
        words = str(error) if "could not convert" not in str(error) else f"--scales {args.scales}: these are no numbers with commas"
        raise CallError(words, "write --scales 0.5,1,1.5, --overlap 0.5") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a run, a file, or models:/NAME@alias")
    parser.add_argument("--probe", action="append", metavar="NAME", help="a probe, may be repeated (default: all that the data allow)")
    parser.add_argument("--data", action="append", default=[], metavar="DIR", help="folder of data sets train/ and val/; may be repeated")
    parser.add_argument("--train", action="append", default=[], metavar="DATA", help="data that train probe heads; may be repeated")
    parser.add_argument("--test", action="append", default=[], metavar="DATA", help="data that test them, one for each --train")
    parser.add_argument("--controls", type=int, default=3, metavar="N", help="random-weights networks a model (default: %(default)s)")
    parser.add_argument(
        "--samples",
        type=int,
        default=1000,
        metavar="N",
        help="most samples of depth, stereo, flow or pose that are tested (default: %(default)s)",
    )
    add_passes(parser)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--no-mlflow", action="store_true", help="record nothing in MLflow")
    parser.add_argument("--out", metavar="REPORT.html", help="report, its JSON beside it (default: under $SIGHTLINE_HOME/evaluations)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from sightline.methods.errors import CallError
    from sightline.platform.evaluation.probes.catalog import check_probe, ranked

    names = args.probe if args.probe and args.probe != ["all"] else None
    for name in names or []:
        check_probe(name)
    if args.controls < 0:
        raise CallError(f"--controls {args.controls}: a number of networks is needed", "use 3, or 0 for none")
    from sightline.platform.evaluation.probes.dataset_pairs import find_dataset_pairs

    dataset_pairs = find_dataset_pairs(args.data, args.train, args.test)
    from sightline.platform.core.redaction import command_line
    from sightline.platform.core.screen import Screen
    from sightline.platform.experiments.progress import doing
    from sightline.platform.models.encoders import open_encoder

    models = list(dict.fromkeys(args.models))
    opened = dict(zip(_names(models), [open_encoder(model) for model in models], strict=True))
    console = Screen(stderr=args.json)
    from sightline.platform.experiments.test_models import is_fine_tuned

    tuned = [name for name, one in opened.items() if is_fine_tuned(one)]
    if tuned and names is None:
        if len(tuned) < len(opened):
            encoder = next(name for name in opened if name not in tuned)
            raise CallError(
                f"{tuned[0]} is a fine-tuned model and {encoder} an encoder: they are measured by different metrics",
                "evaluate them apart, or name a --probe that measures the encoders of both",
            )
        if len(dataset_pairs) > 1:
            raise CallError(f"{len(dataset_pairs)} data sets: fine-tuned models are scored on one", "name one --test DATA")
        return _test(args, models, opened, dataset_pairs[0], passes_of(args), console)
    if passes_of(args) is not None:
        raise CallError("--overlap, --scales and --flip are for models that give label maps, not for probes", "leave them away")
    from sightline.platform.evaluation.probes.run import run_probes
    from sightline.platform.evaluation.results import SkippedProbe, probes_to_json
    from sightline.platform.evaluation.verdict import verdict_of_encoders
    from sightline.platform.experiments.evaluate import record

    evaluated = _evaluated_models(opened, args.controls)
    if names is None:
        modalities = {model.modality for model in evaluated}
        names = [probe.name for probe in ranked() if probe.modality in modalities]
    with doing(Screen(stderr=True), "probing") as progress:
        outcomes = run_probes(names, evaluated, dataset_pairs, device=_device(args.device), progress=progress)
    skipped = [outcome.sentence for outcome in outcomes.values() if isinstance(outcome, SkippedProbe)]
    if len(skipped) == len(outcomes):
        raise CallError("\n".join(skipped), "docs/probes.md says which columns each probe needs of the data")
    about = {name: {"method": one.method, "source": one.source, "sha256": one.sha256} for name, one in opened.items()}
    report, document = _write(args.out, about, outcomes)
    for outcome in outcomes.values():
        _tell(console, outcome)
    verdict = verdict_of_encoders(outcomes)
    run_id = None
    if not args.no_mlflow:
        given = dict(zip(opened, models, strict=True))
        run_id = _run_id(record(given, opened, outcomes, [report, document], command_line(sys.argv[1:])), console)
    console.fields([("found", verdict), ("report", str(report)), ("numbers", str(document))])
    return {
        "models": about,
        "verdict": verdict,
        "probes": probes_to_json(outcomes),
        "report": str(report),
        "figures": str(document),
        "mlflow_run_id": run_id,
    }


def _test(
    args: argparse.Namespace,
    models: Sequence[str],
    opened: Mapping[str, OpenedEncoder],
    pair: DatasetPair,
    passes: Passes | None,
    console: Screen,
) -> dict[str, Any]:
    """Score fine-tuned models on the test data of `pair`."""
    from sightline.platform.core.files import write_text
    from sightline.platform.core.redaction import command_line
    from sightline.platform.core.screen import Screen
    from sightline.platform.evaluation.findings import label_of, show_span
    from sightline.platform.experiments.progress import doing
    from sightline.platform.experiments.test_models import (
        against_first,
        record_tests,
        sentences,
        test_model,
        tested_document,
        write_tested_page,
    )

    tested, data = [], pair.test
    for name, one in opened.items():
        with doing(Screen(stderr=True), f"testing {name}"):
            tested.append(test_model(name, one, data, _device(args.device), args.samples, pair.train, passes))
    paired = against_first(tested)
    verdict, command = sentences(tested, paired), command_line(sys.argv[1:])
    report = write_tested_page(_report_path(args.out, opened), tested, verdict, data, command)
    document = write_text(report.with_suffix(".json"), tested_document(tested, paired, data))
    for model in tested:
        result = model.result
        console.print(f"{model.name}, {result.counts['samples']:,} samples of {data.uri}, {result.seconds:.0f} s", style="bold")
        rows = [(label_of(key, info), show_span(result.values[key], info)) for key, info in result.main_metrics.items()]
        for label, value in rows:
            console.print(f"  {label:<{max(len(label) for label, _ in rows)}}  {value}")
        console.print(f"{result.covers}\n", style="dim")
    run_id = None
    if not args.no_mlflow:
        given = dict(zip(opened, models, strict=True))
        run_id = _run_id(record_tests(given, tested, data, verdict, [report, document], command), console)
    console.fields([("found", verdict), ("report", str(report)), ("numbers", str(document))])
    return {
        "verdict": verdict,
        "tests": json.loads(document.read_text()),
        "report": str(report),
        "figures": str(document),
        "mlflow_run_id": run_id,
    }


def _run_id(recorded: RecordedEvaluation | TrackingProblem, console: Screen) -> str | None:
    """Of the MLflow run; where there is none, why is told."""
    from sightline.platform.tracking.problems import TrackingProblem

    if not isinstance(recorded, TrackingProblem):
        return recorded.run_id
    console.warn(f"not recorded in MLflow: {recorded.what}" + (f"\n  hint: {recorded.hint}" if recorded.hint else ""))
    return None


def _report_path(out: str | None, models: Mapping[str, object]) -> Path:
    from sightline.platform.core.paths import home

    first = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in next(iter(models)))
    return Path(out).expanduser().absolute() if out else home() / "evaluations" / f"{first}-{time.strftime('%m%d-%H%M%S')}.html"


def _names(models: Sequence[str]) -> list[str]:
    """Short names that tell the models apart: the last part of a path where that will do."""
    short = [Path(model).stem if "://" not in model and not model.startswith("models:") else model for model in models]
    return short if len(set(short)) == len(short) else list(models)


def _evaluated_models(opened: dict[str, OpenedEncoder], count: int) -> list[EvaluatedModel]:
    """Models of one architecture share their controls, which are then measured once: networks of the same random weights and answers."""
    import torch

    from sightline.platform.data.kinds import input_of
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.weights.format import digest

    controls: dict[str, tuple[Any, ...]] = {}
    evaluated = []
    for name, one in opened.items():
        fresh: tuple[Any, ...] = tuple(one.random(seed) for seed in range(1, count + 1))
        given = input_of(one.encoder).example(2)
        with torch.no_grad():
            same = [digest({**network.state_dict(), "given": given, "tokens": network.tokens(given)}) for network in fresh]
        evaluated.append(EvaluatedModel(name, one.encoder, controls.setdefault(" ".join(same), fresh)))
    return evaluated


def _device(wanted: str) -> torch.device:
    from sightline.methods.errors import CallError
    from sightline.platform.core.device import choose_device

    device = choose_device(wanted)
    if wanted == "cuda" and device.type != "cuda":
        raise CallError("--device cuda: torch finds no GPU here", "use --device cpu")
    return device


def _write(out: str | None, models: dict[str, dict[str, str]], outcomes: ProbeOutcomes) -> tuple[Path, Path]:
    from sightline.platform.core.files import write_text
    from sightline.platform.core.redaction import command_line
    from sightline.platform.evaluation.findings import brief
    from sightline.platform.evaluation.results import ProbeResult, probes_to_json
    from sightline.platform.evaluation.verdict import verdict_of_encoders
    from sightline.platform.reports.page import ReportPage, write_report

    report = _report_path(out, models)
    done = [outcome for outcome in outcomes.values() if isinstance(outcome, ProbeResult)]
    write_report(
        report,
        ReportPage(
            title=f"Evaluation of {', '.join(models)}",
            kind="evaluation",
            headline=verdict_of_encoders(outcomes),
            detail=f"{done[0].rows[0].name}: {'; '.join(brief(outcome) for outcome in done)}.",
            facts=[(name, f"{one['method']}, {one['source']}") for name, one in models.items()],
            probes=list(outcomes.values()),
            commands=[command_line(sys.argv[1:])],
            identities=[(f"SHA-256 of {name}", one["sha256"]) for name, one in models.items()],
        ),
    )
    document = write_text(report.with_suffix(".json"), json.dumps({"models": models, "probes": probes_to_json(outcomes)}, indent=1))
    return report, document


def _tell(console: Screen, outcome: ProbeOutcome) -> None:
    from sightline.platform.evaluation.findings import heading_of, table
    from sightline.platform.evaluation.results import SkippedProbe

    if isinstance(outcome, SkippedProbe):
        console.print(f"{outcome.sentence}\n", style="dim")
        return
    rows = table(outcome)
    width = max(len(name) for name, _, _ in rows)
    console.print(f"{heading_of(outcome)}, {outcome.seconds:.0f} s", style="bold")
    for name, value, differences in rows:
        console.print(f"  {name:<{width}}  {value}")
        for difference in differences:
            console.print(f"    {difference}")
    console.print(f"{outcome.covers}\n", style="dim")
