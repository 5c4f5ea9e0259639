"""After the last step: what the encoder is worth, pictures, claims, the registry and the report. Every part can be done again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext, Stage, Visualisation
from sightline.methods.errors import SightlineError
from sightline.methods.random import MicrobatchRng
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.fixed import fixed_microbatches
from sightline.platform.evaluation.probes.findings import flat_metrics
from sightline.platform.reports import summary
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.training.stage import make_stage, stage_maker
from sightline.platform.weights.format import ENCODER, Weights, write_folder

from .progress import doing

if TYPE_CHECKING:
    from sightline.platform.training.memory import MemoryMeter

CONTROLS = (1, 2, 3)
"""Seeds of the random-weights encoders that every probe is held against."""
PICTURED = 6
"""Samples in the report's pictures."""


@dataclass
class Findings:
    headline: str
    report: Path
    registered: str | None
    metrics: dict[str, float]
    next_steps: list[str]
    peak_bytes: int
    artifacts: list[Path] = field(default_factory=list)


def finish(run: Run, tracking: Tracking, console: Console, memory: MemoryMeter) -> Findings:
    """Measure, register and report the newest checkpoint of a trained run."""
    import torch

    experiment = run.experiment
    found = checkpoint.newest(run.folder / "checkpoints")
    if found is None:
        raise SightlineError(f"run {run.name} has no checkpoint that verifies", f"train again with `sightline resume {run.name}`")
    method = find_method(experiment.method)
    device = torch.device("cuda" if experiment.train.device != "cpu" and torch.cuda.is_available() else "cpu")
    pretext = method.build(experiment.method_config, BuildContext(seed=experiment.train.seed))
    pretext.load_state_dict(found.tensors("model"))
    pretext.to(device).eval()
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the workers are gone
    encoder = pretext.encoder().eval()
    saved = save_encoder(run, encoder, found.state.step)
    views = method.views(experiment.method_config)
    train = Dataset.open(str(experiment.data.train))
    val = Dataset.open(experiment.data.val) if experiment.data.val else None

    with doing(console, "drawing pictures"):
        stage = make_stage(experiment, run.folder) if stage_maker(experiment, run.folder) else None
        pictures = _pictures(pretext, views, val or train, device, stage)
    claims = None
    if val is not None and (hasattr(pretext, "control_metrics") or hasattr(pretext, "predictor")):
        group = experiment.batch.microbatch
        if hasattr(pretext, "predictor"):
            from sightline.platform.evaluation.test_metrics import measure_test_metrics

            with doing(console, "scoring the fine-tuned model"):
                claims = measure_test_metrics(pretext, views, val, batch=group, device=device)
        else:
            from sightline.platform.evaluation.control_metrics import measure_control_metrics

            with doing(console, "measuring the method's claims"):
                claims = measure_control_metrics(pretext, views, val, seed=0, batch=group, limit=experiment.probe.samples, device=device)
        (run.folder / "claims.json").write_text(json.dumps(claims, indent=1))
    probes = _probe(run, encoder, device, console)
    metrics = {**_claim_metrics(claims), **flat_metrics(probes)}
    headline = summary.headline(run, claims, probes)

    with doing(console, "registering the encoder"):
        registered = _register(run, tracking, encoder, saved, found, metrics, headline)
    next_steps = summary.next_steps(run, registered)
    from sightline.platform.reports.page import write_report

    report = write_report(
        run.folder / "report.html",
        {
            "title": f"{run.name}: {experiment.method} by recipe {run.recipe}",
            "headline": headline,
            "facts": summary.facts(run, train, val, found, memory.peak, sum(p.numel() for p in encoder.parameters())),
            "curves": summary.curves(run),
            "pictures": pictures,
            "probes": list(probes.values()),
            "claims": claims,
            "meanings": dict(method.metric_meanings),
            "time": summary.phase_seconds(run),
            "config": experiment.flat(),
            "provenance": [f"{s.where} (read as {s.reader}): {s.licence}" for s in train.manifest.provenance.sources],
            "commands": [run.command],
            "next": next_steps,
            "warnings": summary.warnings(run),
        },
    )
    settings = run.folder / "settings.yaml"
    settings.write_text(experiment.to_yaml())
    artifacts = [report, settings, run.folder / "claims.json", run.folder / "probes.json", *_save_pictures(run, pictures)]
    return Findings(headline, report, registered, metrics, next_steps, memory.peak, artifacts)


def save_encoder(run: Run, encoder: Any, step: int) -> Path:
    """`encoder/` of the run's folder: weights and the settings that build it, as `open_encoder` reads them."""
    folder = run.folder / ENCODER
    source = f"run {run.name}, step {step}"
    state = encoder.state_dict()
    return write_folder(Weights.of(run.settings["method"], run.settings, "encoder", state, source, str(folder)), folder)


def _pictures(pretext: Any, views: Any, dataset: Dataset, device: Any, stage: Stage | None) -> list[Visualisation]:
    import torch

    from sightline.platform.training.step import tensors

    for _, columns in fixed_microbatches(dataset, views, microbatch=PICTURED, limit=PICTURED, stage=stage):
        with torch.no_grad():
            pictures: list[Visualisation] = pretext.visualisations(pretext.to_device(tensors(columns, device)), MicrobatchRng(0, -3, 0))
        return pictures
    return []


def _save_pictures(run: Run, pictures: list[Visualisation]) -> list[Path]:
    from PIL import Image

    paths = []
    for index, picture in enumerate(pictures):
        paths.append(run.folder / f"picture-{index + 1}.png")
        Image.fromarray(picture.image).save(paths[-1])
    return paths


def _probe(run: Run, encoder: Any, device: Any, console: Console) -> dict[str, dict[str, Any]]:
    """Probe name -> result, kept in `probes.json`; empty where no data set tests anything."""
    experiment = run.experiment
    places = experiment.probe_data
    if not experiment.probe.names or not places:
        return {}
    from sightline.platform.evaluation.probes.catalog import find_probe
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.evaluation.probes.run import DatasetPair, run_probes

    method = find_method(experiment.method)
    controls = tuple(method.build(experiment.method_config, BuildContext(seed=seed)).encoder().eval() for seed in CONTROLS)
    model = EvaluatedModel("trained encoder", encoder, controls)
    dataset_pairs = [DatasetPair(Dataset.open(train), Dataset.open(test)) for train, test in places]
    with doing(console, "probing the encoder") as tell:
        results = run_probes(
            [name for name in experiment.probe.names if find_probe(name).modality == model.modality],
            [model],
            dataset_pairs,
            device=device,
            progress=tell,
        )
    (run.folder / "probes.json").write_text(json.dumps(results, indent=1))
    return results


def _register(
    run: Run, tracking: Tracking, encoder: Any, saved: Path, found: checkpoint.Checkpoint, metrics: Mapping[str, float], headline: str
) -> str | None:
    """`models:/<name>@candidate`, or None where the registry is out of reach: the run's own files hold everything."""
    from mlflow.exceptions import MlflowException

    from sightline.platform.tracking.registry import register_encoder

    experiment = run.experiment
    what = "model" if hasattr(encoder, "task") else "encoder"
    name = experiment.log.register_as or f"{experiment.method.replace('_', '-')}-{what}"
    tags = {
        "sightline.method": experiment.method,
        "sightline.recipe": run.recipe,
        "sightline.run": run.name,
        "sightline.fingerprint": run.fingerprint,
        "sightline.history": found.state.history,
        **({"sightline.commit": run.commit} if run.commit else {}),
        **{f"sightline.{key}": f"{value:.6g}" for key, value in metrics.items()},
    }
    try:
        _ = tracking.client
    except Exception:  # of a database they are of many types
        return None
    try:
        filed = register_encoder(
            encoder, name=name, run_id=str(run.mlflow_run_id), tracking_uri=tracking.uri, tags=tags, usage=headline, saved=saved
        )
    except (MlflowException, OSError):  # the server went away in the middle
        return None
    return str(filed.uri)


def _claim_metrics(claims: Mapping[str, Any] | None) -> dict[str, float]:
    return {f"claim/{name}": figure["value"] for name, figure in (claims or {}).get("figures", {}).items()}
