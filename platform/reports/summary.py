"""The texts and numbers of a run's report: what stands below the verdict, facts, curves, warnings, next steps."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sightline.platform.checkpoints.local import Checkpoint
from sightline.platform.core.paths import shown_path
from sightline.platform.core.redaction import command_line
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.mixed_data import MixedData
from sightline.platform.data.training_data import TrainingData
from sightline.platform.evaluation.findings import brief, contrast_of
from sightline.platform.evaluation.results import MethodResult, ProbeOutcomes, ProbeResult
from sightline.platform.runs.events import BrokenSamples, DataNote, HealthMeasured, RunEvent, StepsDone, TrainingStarted, ValidationDone
from sightline.platform.runs.record import Run, history_of

from .sections import Section, text_table


@dataclass(frozen=True)
class ModelSize:
    """Parameters of what was trained."""

    trained: int
    total: int
    """With those that are not trained, such as a teacher's."""
    encoder: int
    kept: str = "encoder"
    """What is kept after training: an encoder, or a model with a head."""
    weights: str = ""
    """Which of two sets of weights are kept, in words."""


def phase_seconds(events: Sequence[RunEvent]) -> dict[str, float]:
    """Seconds of the steps by phase, over all attempts, on rank 0."""
    seconds: dict[str, float] = defaultdict(float)
    for event in events:
        if isinstance(event, StepsDone):
            for name, value in event.phases.items():
                seconds[name] += value
    return dict(seconds)


def numbers(of_method: MethodResult | None, probes: ProbeOutcomes) -> str:
    """What stands below the verdict: control or test metrics, then the probes."""
    parts = [of_method.finding, contrast_of(of_method)] if of_method else []
    done = [outcome for outcome in probes.values() if isinstance(outcome, ProbeResult)]
    if len(done) == 1:
        parts.append(done[0].finding)
    elif done:
        parts.append(f"Probes of the frozen encoder: {'; '.join(brief(result) for result in done)}.")
    return " ".join(part for part in parts if part)


def facts(
    run: Run, events: Sequence[RunEvent], train: TrainingData, val: Dataset | None, found: Checkpoint, peak: str, size: ModelSize
) -> list[tuple[str, str]]:
    """(name, value) of what was trained on what, and how long it took. `peak`: of memory, in words."""
    steps = [event for event in events if isinstance(event, StepsDone)]
    seconds, samples = sum(event.seconds for event in steps), sum(event.samples for event in steps)
    wait = sum(event.phases.get("data_wait", 0.0) for event in steps)
    last = [event for event in events if isinstance(event, TrainingStarted)][-1]
    variants = run.settings.get("teacher_cache", {}).get("variants", 0)
    return [
        ("Method", f"{run.settings['method']} ({run.recipe})"),
        ("Training data", train.described),
        *([("Validation data", f"{val.rows:,} {val.kind}")] if val else []),
        *([("Teacher cache", f"{variants} fixed draws of each sample, in place of new ones at every visit")] if variants else []),
        ("Parameters trained", f"{size.trained / 1e6:.2f} M of {size.total / 1e6:.2f} M"),
        (f"Parameters of the {size.kept}", f"{size.encoder / 1e6:.2f} M"),
        *([("Weights that are kept", size.weights)] if size.weights else []),
        ("Steps", f"{found.state.step:,} of {run.settings['batch']['size']} samples"),
        ("Training time", f"{seconds:,.0f} s"),
        ("Speed", f"{samples / max(seconds, 1e-9):,.1f} samples/s"),
        ("Data wait", f"{wait / max(seconds, 1e-9):.1%} of the time"),
        ("Workers", f"{last.workers} ({last.device}), {last.precision}"),
        *([("Attempts", str(run.attempts))] if run.attempts > 1 else []),
        ("Peak memory", peak),
    ]


def identities(run: Run, found: Checkpoint) -> list[tuple[str, str]]:
    """(name, value) of what tells this run from others, for the end of a page."""
    return [
        ("Run", f"{run.name}, {run.folder}"),
        ("Data fingerprint", run.fingerprint),
        ("Effective history", found.state.history),
        *([("Commit", run.commit)] if run.commit else []),
        *([("MLflow run", run.mlflow_run_id)] if run.mlflow_run_id else []),
    ]


def mixture(events: Sequence[RunEvent], train: TrainingData) -> Section:
    """What each data set of a mixture contributed; empty for a run on one data set. Losses are means over the last tenth of the run."""
    done = {event.end: event.sets for event in events if isinstance(event, StepsDone) and event.sets}  # of a step the last attempt's
    if not isinstance(train, MixedData) or not done:
        return Section("Data sets")
    last = max(done)
    late = [sets for end, sets in done.items() if end > last * 0.9]
    rows: list[list[str]] = []
    for name, one in zip(train.names, train.sets, strict=True):
        losses = [(sets[name].samples, sets[name].loss) for sets in late if name in sets]
        told = [(samples, loss) for samples, loss in losses if loss is not None]
        loss = f"{sum(n * loss for n, loss in told) / sum(n for n, _ in told):.4g}" if told else "not told by the method"
        seen = done[last][name]
        rows.append([name, f"{train.shares[name]:.3g}", f"{one.rows:,}", f"{seen.seen:,}", f"{seen.epochs:.3g}", loss])
    columns = ("share of the samples", "rows", "samples seen", "epochs of its own", "loss, last tenth")
    return Section("Data sets", tables=[text_table("What the run learned from", columns, rows)])


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
    broken = {reason.partition(": ")[0]: reason for e in events if isinstance(e, BrokenSamples) for reason in e.reasons}
    lines = [f"{len(broken)} broken samples were replaced by substitutes, for example {next(iter(broken.values()))}"] if broken else []
    lines += list(dict.fromkeys(event.text for event in events if isinstance(event, DataNote)))
    if found := overfitted(events):
        lines.append(found[1])
    health = [event for event in events if isinstance(event, HealthMeasured)]
    return lines + [f"step {event.step}: {warning}" for event in health[-1:] for warning in event.warnings]


LONGER = 3
"""How many times as long the run is that a report proposes."""


def overfitted(events: Sequence[RunEvent]) -> tuple[int, str] | None:
    """The step of the least validation loss and a sentence, where that loss has risen since although the training loss fell; else None.

    It must have lost a tenth of what it had gained, over the last third of the run or longer.
    """
    found = curves(events)
    validation, train = found.get("validation loss", []), found.get("train loss", [])
    if len(validation) < 3 or not train:
        return None
    (step, least), (last, end) = min(validation, key=lambda point: point[1]), validation[-1]
    before = [loss for at, loss in train if abs(at - step) <= last / 20]
    after = [loss for at, loss in train if at > last * 0.95]
    rose = end - least > 0.1 * max(validation[0][1] - least, 0.1 * abs(least))
    if 3 * step > 2 * last or not (rose and before and after and statistics.mean(after) < statistics.mean(before)):
        return None
    return step, (
        f"the validation loss was least at step {step:,} of {last:,} ({least:.4g}) and has risen since ({end:.4g}), while the training "
        "loss fell: the network learns these samples by heart, and more of them would help more than more steps"
    )


def longer(run: Run) -> str:
    """The command of the same experiment, longer: the run's own settings, its schedules in proportion."""
    settings = shown_path(run.folder / "settings.yaml")
    return command_line(["pretrain", settings, *(f"{key}={value}" for key, value in run.experiment.lengthened(LONGER).items())])


def next_steps(run: Run, registered: str | None) -> list[str]:
    if found := overfitted(list(run.events())):
        again = command_line(["pretrain", shown_path(run.folder / "settings.yaml"), "train.keep_best=val/loss", "data.train=MORE"])
        steps = [f"{again}  # the validation loss has risen since step {found[0]:,}: more data, and the best checkpoint is kept"]
    else:
        steps = [f"{longer(run)}  # the same experiment, {LONGER} times as long"]
    if registered:
        steps.append(f'mlflow.pytorch.load_model("{registered}")  # in plain Python')
    return steps
