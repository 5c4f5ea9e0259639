"""After the last step: what the encoder is worth, pictures, claims, the registry and the report. Every part can be done again."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from sightline.methods.catalog import find_method
from sightline.methods.contract import Live, Picture
from sightline.methods.errors import SightlineError
from sightline.methods.random import Noise

from . import checkpoint
from .data.dataset import Dataset
from .data.fixed import fixed_groups
from .runs import Run
from .tracking import Tracking

if TYPE_CHECKING:
    from .jobs import MemoryMeter

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
    pretext = method.build(experiment.settings, Live(seed=experiment.train.seed))
    pretext.load_state_dict(found.tensors("model"))
    pretext.to(device).eval()
    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the workers are gone
    encoder = pretext.encoder().eval()
    save_encoder(run, encoder)
    views = method.views(experiment.settings)
    train = Dataset.open(str(experiment.data.train))
    val = Dataset.open(experiment.data.val) if experiment.data.val else None

    with console.status("drawing pictures"):
        pictures = _pictures(pretext, views, val or train, device)
    claims = None
    if val is not None and hasattr(pretext, "claims"):
        from .claims import measure_claims

        with console.status("measuring the method's claims"):
            group = experiment.batch.group
            claims = measure_claims(pretext, views, val, seed=0, batch=group, limit=experiment.probe.samples, device=device)
        (run.folder / "claims.json").write_text(json.dumps(claims, indent=1))
    probe = _probe(run, encoder, device, console)
    metrics = {**_claim_metrics(claims), **_probe_metrics(probe)}
    headline = _headline(run, claims, probe)

    registered = None
    with console.status("registering the encoder"):
        registered = _register(run, tracking, encoder, found, metrics, headline)
    next_steps = _next_steps(run, registered)
    from .report import write_report

    report = write_report(
        run.folder / "report.html",
        {
            "title": f"{run.name}: {experiment.method} by recipe {run.recipe}",
            "headline": headline,
            "facts": _facts(run, train, val, found, memory.peak, sum(p.numel() for p in encoder.parameters())),
            "curves": _curves(run),
            "pictures": pictures,
            "probe": probe,
            "claims": claims,
            "meanings": dict(method.loss_figures),
            "time": phase_seconds(run),
            "config": experiment.flat(),
            "provenance": [f"{s.where} (read as {s.reader}): {s.licence}" for s in train.manifest.provenance.sources],
            "commands": [run.command],
            "next": next_steps,
            "warnings": _warnings(run),
        },
    )
    settings = run.folder / "settings.yaml"
    settings.write_text(experiment.to_yaml())
    artifacts = [report, settings, run.folder / "claims.json", run.folder / "probe.json"]
    return Findings(headline, report, registered, metrics, next_steps, memory.peak, artifacts)


def save_encoder(run: Run, encoder: Any) -> Path:
    """`encoder/` of the run's folder: weights and the settings that build it."""
    from safetensors.torch import save_file

    folder = run.folder / "encoder"
    folder.mkdir(exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}, folder / "encoder.safetensors")
    sections = {name: run.settings[name] for name in ("method", "model", "pretext", "loss", "augment")}
    (folder / "encoder.json").write_text(json.dumps(sections, indent=1))
    return folder


def phase_seconds(run: Run) -> dict[str, float]:
    """Where the time of the steps went, over all attempts, on rank 0."""
    seconds: dict[str, float] = defaultdict(float)
    for event in run.events():
        if event["kind"] == "steps":
            for name, value in event["phases"].items():
                seconds[name] += value
    return dict(seconds)


def _pictures(pretext: Any, views: Any, dataset: Dataset, device: Any) -> list[Picture]:
    import torch

    from .step import tensors

    for _, columns in fixed_groups(dataset, views, group=PICTURED, limit=PICTURED):
        with torch.no_grad():
            pictures: list[Picture] = pretext.pictures(pretext.to_device(tensors(columns, device)), Noise(0, -3, 0))
        return pictures
    return []


def _probe(run: Run, encoder: Any, device: Any, console: Console) -> dict[str, Any] | None:
    experiment = run.experiment
    train, test = experiment.probe.train or experiment.data.train, experiment.probe.test or experiment.data.val
    if "depth" not in experiment.probe.names or train is None or test is None:
        return None
    from .probes.depth import run_depth_probe

    method = find_method(experiment.method)
    controls = [method.build(experiment.settings, Live(seed=seed)).encoder().eval() for seed in CONTROLS]
    with console.status("probing depth"):
        name = "trained encoder"
        result = run_depth_probe({name: encoder}, Dataset.open(train), Dataset.open(test), controls=controls, device=device)
    (run.folder / "probe.json").write_text(json.dumps(result, indent=1))
    return result


def _register(
    run: Run, tracking: Tracking, encoder: Any, found: checkpoint.Checkpoint, metrics: Mapping[str, float], headline: str
) -> str | None:
    """`models:/<name>@candidate`, or None where the registry is out of reach: the run's own files hold everything."""
    from .registry import register_encoder

    experiment = run.experiment
    name = experiment.log.register_as or f"{experiment.method.replace('_', '-')}-encoder"
    tags = {
        "sightline.method": experiment.method,
        "sightline.recipe": run.recipe,
        "sightline.run": run.name,
        "sightline.fingerprint": run.fingerprint,
        "sightline.history": found.state.history,
        **{f"sightline.{key}": f"{value:.6g}" for key, value in metrics.items()},
    }
    try:
        _ = tracking.client
    except Exception as error:
        tracking.problem = f"{type(error).__name__}: {error}"
        return None
    filed = register_encoder(encoder, name=name, run_id=str(run.mlflow_run_id), tracking_uri=tracking.uri, tags=tags, usage=headline)
    return str(filed.uri)


def _claim_metrics(claims: Mapping[str, Any] | None) -> dict[str, float]:
    return {f"claim/{name}": figure["value"] for name, figure in (claims or {}).get("figures", {}).items()}


def _probe_metrics(probe: Mapping[str, Any] | None) -> dict[str, float]:
    if not probe or "skipped" in probe:
        return {}
    kinds = {row["kind"]: row for row in reversed(probe["rows"])}
    out: dict[str, float] = {}
    for kind, label in (("encoder", ""), ("control mean", "random_")):
        if kind in kinds:
            out |= {f"probe/depth/{label}{metric}": figure["value"] for metric, figure in kinds[kind]["metrics"].items()}
    return out


def _headline(run: Run, claims: Mapping[str, Any] | None, probe: Mapping[str, Any] | None) -> str:
    parts = []
    if claims:
        for difference in claims["differences"][:1]:
            first, other = difference["of"]
            figures = claims["figures"]
            against = _tail(find_method(run.experiment.method).loss_figures.get(other, other))
            parts.append(f"{_short(first)} {figures[first]['value']:.2f} against {figures[other]['value']:.2f} for {against}.")
    if probe:
        parts.append(probe.get("finding") or probe.get("skipped", ""))
    return " ".join(part for part in parts if part) or "Trained; nothing was measured, because no data.val was given."


def _short(figure: str) -> str:
    kind, _, what = figure.partition("_")
    return f"{kind.upper() if len(kind) == 4 else kind} with the {what.replace('_', ' ')}:"


def _tail(meaning: str) -> str:
    return meaning.rpartition("with ")[2]


def _facts(
    run: Run, train: Dataset, val: Dataset | None, found: checkpoint.Checkpoint, peak: int, parameters: int
) -> list[tuple[str, str]]:
    events = list(run.events())
    steps = [e for e in events if e["kind"] == "steps"]
    starts = [e for e in events if e["kind"] == "start"]
    seconds = sum(e["seconds"] for e in steps)
    samples = sum(e["samples"] for e in steps)
    wait = sum(e["phases"].get("data_wait", 0.0) for e in steps)
    last = starts[-1]
    return [
        ("Method", f"{run.settings['method']} ({run.recipe})"),
        ("Training data", f"{train.rows:,} {train.kind} from {len(train.manifest.scenes) or 1} scenes"),
        ("Validation data", f"{val.rows:,} {val.kind}" if val else "none"),
        ("Data fingerprint", run.fingerprint[:16]),
        ("Parameters", f"{last['parameters'] / 1e6:.2f} M, of which the encoder {parameters / 1e6:.2f} M"),
        ("Steps", f"{found.state.step:,} of {run.settings['batch']['size']} samples"),
        ("Training time", f"{seconds:,.0f} s"),
        ("Speed", f"{samples / max(seconds, 1e-9):,.1f} samples/s"),
        ("Data wait", f"{wait / max(seconds, 1e-9):.1%} of the time"),
        ("Workers", f"{last['workers']} ({last['device']}), {last['precision']}"),
        ("Attempts", str(run.attempts)),
        ("Peak memory", f"{peak / 2**30:.2f} GiB, all processes"),
        ("Effective history", found.state.history[:16]),
        ("MLflow run", str(run.mlflow_run_id)),
    ]


def _curves(run: Run) -> dict[str, list[tuple[int, float]]]:
    steps = run.history()
    curves = {
        "train loss": [(step + 1, figures["loss"]) for step, figures in steps.items()],
        "validation loss": [(e["step"], e["losses"]["loss"]) for e in run.events() if e["kind"] == "validation"],
        "learning rate": [(step + 1, figures["lr"]) for step, figures in steps.items()],
    }
    return {name: sorted(set(points)) for name, points in curves.items() if points}


def _warnings(run: Run) -> list[str]:
    broken = {reason.partition(":")[0]: reason for e in run.events() if e["kind"] == "broken" for reason in e["reasons"]}
    lines = [f"{len(broken)} broken samples were replaced by substitutes, for example {next(iter(broken.values()))}"] if broken else []
    return lines


def _next_steps(run: Run, registered: str | None) -> list[str]:
    recipe, data = run.recipe, run.settings["data"]
    steps = [f"sightline pretrain {recipe} train.length='{_longer(run)}' data.train={data['train']} data.val={data['val']}  # longer"]
    if registered:
        steps.append(f'mlflow.pytorch.load_model("{registered}")  # features in plain Python')
    steps.append("sightline prepare pairs --help  # your own pairs, RGB-D sequences or frames")
    return steps


def _longer(run: Run) -> str:
    length = run.experiment.train.length
    return f"{length.amount * 3:g} {length.unit}"
