"""A comparison from its first run to its page: what `compare` and `resume` share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from sightline.platform import config
from sightline.platform.core.device import choose_device
from sightline.platform.core.files import write_text
from sightline.platform.core.locks import by_one_driver
from sightline.platform.core.ray_init import end_ray
from sightline.platform.core.screen import Screen
from sightline.platform.evaluation.probes.catalog import ranked
from sightline.platform.evaluation.probes.context import EvaluatedModel
from sightline.platform.evaluation.probes.dataset_pairs import find_dataset_pairs
from sightline.platform.evaluation.probes.run import run_probes
from sightline.platform.evaluation.results import ProbeOutcome, probes_to_json
from sightline.platform.experiments.progress import doing
from sightline.platform.experiments.train_run import is_trained, train_tracked
from sightline.platform.models.encoders import open_encoder
from sightline.platform.reports.page import write_report
from sightline.platform.runs.record import Run, RunStatus
from sightline.platform.tracking import parent_run
from sightline.platform.tracking.client import undelivered
from sightline.platform.tracking.mlflow_run import Tracking, is_behind
from sightline.platform.training.memory import MemoryMeter

from . import page
from .record import Comparison, ComparisonStatus


@by_one_driver
def execute(comparison: Comparison, console: Screen) -> dict[str, Any]:
    """Run what is missing of `comparison` up to its page. Returns a JSON-able result; raises `SightlineError`.

    Seed by seed, so that a comparison that is stopped has the same seeds of all entries.
    """

    def say(text: str) -> None:
        console.print(text)

    experiments = [config.load(entry.recipe, settings=entry.settings) for entry in comparison.entries]
    parent_run.check(comparison, experiments[0], console.warn)
    if comparison.mlflow_run_id is None:
        labels = ", ".join(entry.label for entry in comparison.entries)
        texts = {"budget": comparison.budget, "compared": labels}
        comparison.mlflow_run_id = parent_run.begin(comparison, "comparison", experiments, texts, say)
        comparison.save()
        names = (comparison.run_name(entry, seed) for seed in comparison.seeds for entry in comparison.entries)
        parent_run.nest(names, comparison.mlflow_run_id)
    runs = [(seed, entry) for seed in comparison.seeds for entry in comparison.entries]
    for number, (seed, entry) in enumerate(runs):
        run = comparison.run(entry, seed)
        if is_trained(run.experiment, run.folder):
            _close_missed(run)
            continue
        say(f"run {number + 1} of {len(runs)}: {run.name}, {entry.samples:,} samples")
        _train(comparison, run, console)
        if run.status == RunStatus.STOPPED:
            comparison.status = ComparisonStatus.STOPPED
            comparison.save()
            say(f"stopped; go on with: sightline resume {shlex.quote(comparison.name)}")
            return {"comparison": comparison.name, "status": "stopped", "folder": str(comparison.folder)}
    end_ray()
    with doing(console, "measuring") as tell:
        probes = _measure(comparison, tell)
    write_text(comparison.folder / "probes.json", json.dumps(probes_to_json(probes), indent=1))
    costs = page.costs(comparison)
    report = write_report(comparison.folder / "report.html", page.page(comparison, probes, costs))
    comparison.status = ComparisonStatus.FINISHED
    comparison.save()
    parent_run.end(comparison, report, page.verdict(comparison, probes), page.metrics(comparison, probes), {})
    for line in page.lines(comparison, probes, costs):
        say(line)
    verdict = page.verdict(comparison, probes)
    console.fields([("found", verdict), ("report", str(report)), ("next", page.longer(comparison))])
    return {
        "comparison": comparison.name,
        "status": comparison.status,
        "folder": str(comparison.folder),
        "report": str(report),
        "verdict": verdict,
        "mlflow_run_id": comparison.mlflow_run_id,
        "costs": [asdict(cost) for cost in costs],
        "probes": probes_to_json(probes),
    }


def _train(comparison: Comparison, run: Run, console: Screen) -> None:
    tracking, memory = Tracking(run), MemoryMeter()
    memory.start()
    end = "FAILED"
    try:
        train_tracked(run, tracking, console)
        end = "FINISHED" if run.status == RunStatus.TRAINED else "KILLED"
    finally:
        memory.stop()
        comparison.peaks[run.name] = max(memory.peak, comparison.peaks.get(run.name, 0))
        comparison.save()
        tracking.close(end)
    if tracking.problem:
        console.warn(undelivered(tracking.problem, comparison.name))


def _close_missed(run: Run) -> None:
    """End a trained run in MLflow, where its driver died before it did, or MLflow was unreachable."""
    if run.status not in (RunStatus.TRAINED, RunStatus.FINISHED):
        run.status = RunStatus.TRAINED
        run.save()
    elif not is_behind(run):
        return
    Tracking(run).close("FINISHED")


def _measure(comparison: Comparison, progress: Callable[[str, float], None]) -> dict[str, ProbeOutcome]:
    """Probe name -> outcome. The first entry is compared with the others, and each with its network of random weights."""
    evaluated = []
    for entry in comparison.entries:
        first, *others = [open_encoder(comparison.run_name(entry, seed)) for seed in comparison.seeds]
        controls = tuple(first.random(seed) for seed in range(1, comparison.controls + 1))
        evaluated.append(EvaluatedModel(entry.label, first.encoder, controls, tuple(one.encoder for one in others)))
    modalities = {model.modality for model in evaluated}
    names = comparison.probes or tuple(probe.name for probe in ranked() if probe.modality in modalities)
    dataset_pairs = find_dataset_pairs(comparison.data["folders"], comparison.data["train"], comparison.data["test"])
    return run_probes(names, evaluated, dataset_pairs, device=choose_device(), progress=progress)
