"""The texts and numbers of a run's report: headline, facts, curves, warnings, next steps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sightline.methods.errors import CallError
from sightline.methods.settings import Duration
from sightline.platform import config
from sightline.platform.checkpoints.local import Checkpoint
from sightline.platform.core.redaction import command_line
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.findings import brief, contrast_of
from sightline.platform.evaluation.results import MethodResult, ProbeOutcomes, ProbeResult
from sightline.platform.runs.events import BrokenSamples, HealthMeasured, RunEvent, StepsDone, TrainingStarted, ValidationDone
from sightline.platform.runs.record import Run, history_of


def phase_seconds(events: Sequence[RunEvent]) -> dict[str, float]:
    """Seconds of the steps by phase, over all attempts, on rank 0."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if isinstance(event, StepsDone):
            for name, value in event.phases.items():
                seconds[name] += value
    return dict(seconds)


def headline(of_method: MethodResult | None, probes: ProbeOutcomes) -> str:
    """What was found, in a sentence or two: control or test metrics, then the probes."""
    parts = [of_method.finding, contrast_of(of_method)] if of_method else []
    done = [outcome for outcome in probes.values() if isinstance(outcome, ProbeResult)]
    if len(done) == 1:
        parts.append(done[0].finding)
    elif done:
        parts.append(f"Probes of the frozen encoder: {'; '.join(brief(result) for result in done)}.")
    nothing = "Trained; nothing was measured: that needs data.val, and control metrics or a probe that fits the data."
    return " ".join(part for part in parts if part) or nothing


def facts(
    run: Run, events: Sequence[RunEvent], train: Dataset, val: Dataset | None, found: Checkpoint, peak: int, parameters: int
) -> list[tuple[str, str]]:
    """(name, value) of what was trained on what, and how long it took. `peak`: bytes of memory; `parameters`: of the encoder."""
    steps = [event for event in events if isinstance(event, StepsDone)]
    seconds, samples = sum(event.seconds for event in steps), sum(event.samples for event in steps)
    wait = sum(event.phases.get("data_wait", 0.0) for event in steps)
    last = [event for event in events if isinstance(event, TrainingStarted)][-1]
    variants = run.settings.get("teacher_cache", {}).get("variants", 0)
    return [
        ("Method", f"{run.settings['method']} ({run.recipe})"),
        ("Training data", f"{train.rows:,} {train.kind} from {len(train.manifest.scenes) or 1} scenes"),
        ("Validation data", f"{val.rows:,} {val.kind}" if val else "none"),
        ("Data fingerprint", run.fingerprint[:16]),
        *([("Teacher cache", f"{variants} fixed draws of each sample, in place of new ones at every visit")] if variants else []),
        ("Parameters", f"{last.parameters / 1e6:.2f} M, of which the encoder {parameters / 1e6:.2f} M"),
        ("Steps", f"{found.state.step:,} of {run.settings['batch']['size']} samples"),
        ("Training time", f"{seconds:,.0f} s"),
        ("Speed", f"{samples / max(seconds, 1e-9):,.1f} samples/s"),
        ("Data wait", f"{wait / max(seconds, 1e-9):.1%} of the time"),
        ("Workers", f"{last.workers} ({last.device}), {last.precision}"),
        ("Attempts", str(run.attempts)),
        ("Peak memory", f"{peak / 2**30:.2f} GiB, all processes"),
        ("Effective history", found.state.history[:16]),
        ("MLflow run", str(run.mlflow_run_id)),
    ]


def curves(events: Sequence[RunEvent]) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value) of losses, learning rate and health metrics."""
    steps = history_of(events)
    health: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for event in events:
        if isinstance(event, HealthMeasured):
            for name, value in event.metrics.items():
                health[f"health: {name}"].append((event.step, value))
    curves = {
        "train loss": [(step + 1, metrics["loss"]) for step, metrics in steps.items()],
        "validation loss": [(event.step, event.losses["loss"]) for event in events if isinstance(event, ValidationDone)],
        "learning rate": [(step + 1, metrics["lr"]) for step, metrics in steps.items()],
        **health,
    }
    return {name: sorted(set(points)) for name, points in curves.items() if points}


def warnings(events: Sequence[RunEvent]) -> list[str]:
    """Sentences about broken samples and about the health of the representation at the end."""
    broken = {reason.partition(":")[0]: reason for e in events if isinstance(e, BrokenSamples) for reason in e.reasons}
    lines = [f"{len(broken)} broken samples were replaced by substitutes, for example {next(iter(broken.values()))}"] if broken else []
    health = [event for event in events if isinstance(event, HealthMeasured)]
    return lines + [f"step {event.step}: {warning}" for event in health[-1:] for warning in event.warnings]


def next_steps(run: Run, registered: str | None) -> list[str]:
    try:
        shipped = run.recipe in config.recipe_names() and bool(config.load(run.recipe))
    except CallError:  # a fine-tuning recipe is not whole without its encoder
        shipped = False
    recipe = run.recipe if shipped else str(run.folder / "settings.yaml")  # a person's own file may be gone or changed
    data = [f"data.{name}={run.settings['data'][name]}" for name in ("train", "val") if run.settings["data"][name]]
    steps = [f"{command_line(['pretrain', recipe, f'train.length={_longer(run)}', *data])}  # longer"]
    if registered:
        steps.append(f'mlflow.pytorch.load_model("{registered}")  # features in plain Python')
    steps.append("sightline prepare --help  # your own data")
    return steps


def _longer(run: Run) -> str:
    length = run.experiment.train.length
    return str(Duration(amount=length.amount * 3, unit=length.unit))
