"""After the last step: measure what was learned, draw it, register the encoder and write the report. Every part can be done again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sightline.methods.catalog import find_method
from sightline.methods.contract import (
    BuildContext,
    HasControlMetrics,
    HasEvaluationViews,
    HasKeptWeights,
    HasPredictor,
    HasVisualisations,
    MetricInfo,
    Predictor,
    Pretext,
    Stage,
    Views,
    Visualisation,
)
from sightline.methods.errors import SightlineError
from sightline.methods.random import MicrobatchRng
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.retention import Reason, Retention, kept
from sightline.platform.config import Experiment
from sightline.platform.core.device import choose_device
from sightline.platform.core.files import replacing, write_text
from sightline.platform.core.screen import Screen
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.encoder_input import output_name
from sightline.platform.data.loader.fixed import fixed_microbatches
from sightline.platform.data.training_data import TrainingData, recorded_training_data, sets_of
from sightline.platform.evaluation.findings import flat_intervals, flat_metrics, probe_tables
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.evaluation.paired import FILE as RESAMPLES
from sightline.platform.evaluation.paired import Measured, write_measured
from sightline.platform.evaluation.results import (
    TEST,
    EvaluationResult,
    MethodResult,
    ProbeOutcome,
    ProbeOutcomes,
    ProbeResult,
    probes_to_json,
)
from sightline.platform.evaluation.verdict import verdict_of_run
from sightline.platform.reports import summary
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.tracking.models import Results
from sightline.platform.tracking.problems import TrackingProblem
from sightline.platform.training.stage import make_stage, stage_maker
from sightline.platform.weights.format import ENCODER, Weights, digest, write_folder

from .progress import doing

if TYPE_CHECKING:
    import torch

    from sightline.platform.tracking.registry import Registered
    from sightline.platform.training.memory import MemoryMeter

CONTROLS = (1, 2, 3)
"""Seeds of the random-weights encoders that every probe is held against."""
PICTURED = 6
"""Samples in the report's visualisations."""


@dataclass
class Findings:
    results: Results
    """What MLflow gets."""
    report: Path
    registered: Registered | None
    unregistered: TrackingProblem | None
    """Why the encoder was not registered."""
    next_steps: list[str]
    peak_bytes: int
    peak: str
    """In words."""
    artifacts: list[Path] = field(default_factory=list)


def kept_of(encoder: Any) -> Literal["model", "encoder"]:
    """What is kept of a run: a fine-tuned model is used for what it predicts, an encoder for its tokens."""
    return "model" if isinstance(encoder, Predictor) or output_name(encoder) != "tokens" else "encoder"


@dataclass(frozen=True)
class TrainedModel:
    """What the newest checkpoint of a run holds, on the device that measures it, with the data and the views to measure it on."""

    experiment: Experiment
    found: checkpoint.Checkpoint
    pretext: Pretext
    encoder: Any
    views: Views
    stage: Stage | None
    train: TrainingData
    val: Dataset | None
    device: torch.device

    @property
    def size(self) -> summary.ModelSize:
        parameters = list(self.pretext.parameters())
        return summary.ModelSize(
            trained=sum(one.numel() for one in parameters if one.requires_grad),
            total=sum(one.numel() for one in parameters),
            encoder=sum(one.numel() for one in self.encoder.parameters()),
            kept=kept_of(self.encoder),
            weights=self.pretext.kept_weights if isinstance(self.pretext, HasKeptWeights) else "",
        )

    @classmethod
    def open(cls, run: Run) -> TrainedModel:
        """Raises `SightlineError` where no checkpoint verifies."""
        found = checkpoint.newest(run.folder / "checkpoints")
        if found is None:
            raise SightlineError(f"run {run.name} has no checkpoint that verifies", f"train again with `sightline resume {run.name}`")
        device = choose_device(run.experiment.train.device)
        stage = make_stage(run.experiment, run.folder) if stage_maker(run.experiment, run.folder) else None
        return cls.of(run.experiment, found, device, stage)

    @classmethod
    def of(cls, experiment: Experiment, found: checkpoint.Checkpoint, device: torch.device, stage: Stage | None) -> TrainedModel:
        """What the checkpoint `found` holds."""
        method = find_method(experiment.method)
        pretext = method.build(experiment.method_config, BuildContext(seed=experiment.train.seed))
        pretext.load_state_dict(found.tensors("model"))
        pretext.to(device).eval()
        return cls(
            experiment=experiment,
            found=found,
            pretext=pretext,
            encoder=pretext.encoder().eval(),
            views=method.views(experiment.method_config),
            stage=stage,
            train=recorded_training_data(experiment.data, method.kind),
            val=Dataset.open(experiment.data.val) if experiment.data.val else None,
            device=device,
        )


def finish(run: Run, tracking: Tracking, console: Screen, memory: MemoryMeter) -> Findings:
    """Measure, register and report the newest checkpoint of a trained run."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))  # the workers are gone
    with doing(console, "loading the newest checkpoint"):
        model = TrainedModel.open(run)
    saved = save_encoder(run, model.encoder, model.found.state.step)
    with doing(console, "drawing visualisations"):
        visualisations = visualise(model)
    of_method = measure_method(model, console)
    if of_method is not None:
        write_text(run.folder / "claims.json", json.dumps(of_method.to_json(), indent=1))
    probes = measure_probes(model, console, model.experiment.probe.names, keep=True)
    if probes:
        write_text(run.folder / "probes.json", json.dumps(probes_to_json(probes), indent=1))
    metrics = {**method_metrics(of_method, run.metric_names), **flat_metrics(probes)}
    verdict, numbers = verdict_of_run(of_method, probes, summary.longer(run), kept_of(model.encoder)), summary.numbers(of_method, probes)
    peak = memory.words(run.events())
    with doing(console, "registering the encoder"):
        about = card(run, model, verdict, numbers, of_method, probes, peak)
        outcome = register(run, tracking, model, saved, metrics, about)
    registered, unregistered = (None, outcome) if isinstance(outcome, TrackingProblem) else (outcome, None)
    next_steps = summary.next_steps(run, registered.address if registered else None)
    report = write_page(run, model, verdict, numbers, visualisations, of_method, probes, next_steps, peak)
    settings = write_text(run.folder / "settings.yaml", model.experiment.to_yaml())
    artifacts = [report, settings, run.folder / "claims.json", run.folder / "probes.json", *_save_images(run.folder, visualisations)]
    if measured := comparable(of_method, probes, kept_of(model.encoder)):
        artifacts.append(write_measured(run.folder / RESAMPLES, digest(model.encoder.state_dict()), measured))
    results = Results(
        metrics=metrics,
        step=model.found.state.step,
        verdict=verdict,
        numbers=numbers,
        model_id=registered.model_id if registered else None,
        data=measured_on(model, probes),
        tables=probe_tables(probes),
        checkpoints=[one for one in kept(run.folder / "checkpoints", Retention.of(model.experiment)) if one.reasons != (Reason.NEWEST,)],
    )
    return Findings(results, report, registered, unregistered, next_steps, memory.peak, peak, artifacts)


def measured_on(model: TrainedModel, probes: ProbeOutcomes) -> dict[str, Dataset]:
    """Beginning of the names of metrics in MLflow -> the data that they are measured on."""
    found: dict[str, Dataset] = {}
    if model.val is not None:
        found |= dict.fromkeys(("val/", "health/", "claim/", "test/"), model.val)
    return found | {f"probe/{one.name}/": Dataset.open(str(one.data["test"])) for one in _measured(probes)}


def comparable(of_method: MethodResult | None, probes: ProbeOutcomes, kept: str) -> list[Measured]:
    """What a later version can be compared with: probes, and of a fine-tuned model its own metrics, under the name of test metrics."""
    own: list[EvaluationResult] = [replace(of_method, name=TEST)] if of_method is not None and kept == "model" else []
    return [found for result in (*own, *_measured(probes)) if (found := Measured.of(result, result.rows[0].name))]


def _measured(probes: ProbeOutcomes) -> list[ProbeResult]:
    return [outcome for outcome in probes.values() if isinstance(outcome, ProbeResult)]


def save_encoder(run: Run, encoder: Any, step: int) -> Path:
    """`encoder/` of the run's folder: weights and the settings that build it, as `open_encoder` reads them."""
    folder = run.folder / ENCODER
    source = f"run {run.name}, step {step}"
    state = encoder.state_dict()
    return write_folder(Weights.of(run.settings["method"], run.settings, "encoder", state, source, str(folder)), folder)


def visualise(model: TrainedModel) -> list[Visualisation]:
    """The method's own visualisations of a few samples of the validation data, or of the training data where there are none."""
    import torch

    from sightline.platform.training.step import tensors

    if not isinstance(model.pretext, HasVisualisations):
        return []
    dataset = model.val or next(iter(sets_of(model.train).values()), None)
    if dataset is None:
        return []
    views = model.views.evaluation if isinstance(model.views, HasEvaluationViews) else model.views
    for _, columns in fixed_microbatches(dataset, views, microbatch=PICTURED, limit=PICTURED, stage=model.stage):
        with torch.no_grad():
            batch = model.pretext.to_device(tensors(columns, model.device))
            drawn: list[Visualisation] = model.pretext.visualisations(batch, MicrobatchRng(0, -3, 0))
        return drawn
    return []


def measure_method(model: TrainedModel, console: Screen) -> MethodResult | None:
    """Test metrics of a model with a predictor, control metrics of another; None where the method has neither or there is no `data.val`."""
    experiment, size = model.experiment, model.experiment.batch.microbatch
    if model.val is None:
        return None
    if isinstance(model.pretext, HasPredictor):
        from sightline.platform.evaluation.test_metrics import measure_test_metrics

        with doing(console, "measuring test metrics"):
            train = tuple(sets_of(model.train).values())
            return measure_test_metrics(
                model.pretext, model.views, model.val, batch=size, stage=model.stage, device=model.device, train=train
            )
    if not isinstance(model.pretext, HasControlMetrics):
        return None
    from sightline.platform.evaluation.control_metrics import measure_control_metrics

    with doing(console, "measuring control metrics"):
        return measure_control_metrics(
            model.pretext,
            model.views,
            model.val,
            seed=0,
            batch=size,
            limit=experiment.probe.samples,
            metrics=find_method(experiment.method).metrics,
            stage=model.stage,
            device=model.device,
        )


def measure_probes(
    model: TrainedModel, console: Screen, names: Sequence[str], controls: Sequence[int] = CONTROLS, keep: bool = False
) -> dict[str, ProbeOutcome]:
    """Probe name -> outcome; empty where no data set tests anything. `controls`: seeds of encoders with random weights. `keep`: what is
    found of these in the home, and take it from there.
    """
    experiment = model.experiment
    if not names or not experiment.probe_data:
        return {}
    from sightline.platform.evaluation.probes.catalog import ranked
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.evaluation.probes.dataset_pairs import DatasetPair
    from sightline.platform.evaluation.probes.run import run_probes

    method = find_method(experiment.method)
    random = tuple(method.build(experiment.method_config, BuildContext(seed=seed)).encoder().eval() for seed in controls)
    evaluated = EvaluatedModel("trained encoder", model.encoder, random)
    names = [probe.name for probe in ranked(names) if probe.modality == evaluated.modality]
    pairs = [DatasetPair(Dataset.open(train), Dataset.open(test)) for train, test in experiment.probe_data]
    network = {"method": experiment.method, "settings": experiment.method_config.model_dump(mode="json"), "seeds": list(controls)}
    with doing(console, "probing the encoder") as tell:
        return run_probes(names, [evaluated], pairs, device=model.device, progress=tell, network=network if keep else None)


def method_metrics(result: MethodResult | None, metric_names: int) -> dict[str, float]:
    """`method_intervals` without the ends."""
    return {name: one.value for name, one in method_intervals(result, metric_names).items()}


def method_intervals(result: MethodResult | None, metric_names: int) -> dict[str, Interval]:
    """Control and test metrics under their names in MLflow: `claim/...` and `test/...`. `metric_names`: see `runs.record.METRIC_NAMES`."""
    return {f"{_prefix(result, metric_names)}/{name}": result.values[name] for name in result.main_metrics} if result else {}


def _prefix(result: MethodResult, metric_names: int) -> str:
    return "test" if result.name == TEST and metric_names >= 2 else "claim"


def metric_infos(of_method: MethodResult | None, probes: ProbeOutcomes, metric_names: int) -> dict[str, MetricInfo]:
    """What the metrics of the encoder and of its method mean, by their names in MLflow."""
    own = {f"{_prefix(of_method, metric_names)}/{key}": info for key, info in of_method.main_metrics.items()} if of_method else {}
    of_probes = {f"probe/{name}/{key}": info for name, one in probes.items() for key, info in one.metrics.items()}
    return {**own, **of_probes}


def register(
    run: Run, tracking: Tracking, model: TrainedModel, saved: Path, metrics: Mapping[str, float], about: str
) -> Registered | TrackingProblem:
    """The version, or why there is none: the run's own files hold everything."""
    from mlflow.exceptions import MlflowException

    from sightline.platform.tracking.model_use import has_timm_form
    from sightline.platform.tracking.registry import register_encoder

    experiment = model.experiment
    what = kept_of(model.encoder)
    name = experiment.log.register_as or f"{experiment.method.replace('_', '-')}-{what}"
    tags = {
        "sightline.method": experiment.method,
        "sightline.recipe": run.recipe,
        "sightline.run": run.name,
        "sightline.fingerprint": run.fingerprint,
        "sightline.history": model.found.state.history,
        **({"sightline.commit": run.commit} if run.commit else {}),
        **{f"sightline.{key}": f"{value:.6g}" for key, value in metrics.items()},
    }
    try:
        _ = tracking.client
    except Exception as error:  # of a database they are of many types
        return tracking.problem_of(error)
    try:
        filed: Registered = register_encoder(
            model.encoder,
            name=name,
            run_id=str(run.mlflow_run_id),
            tracking_uri=tracking.uri,
            tags=tags,
            about=about,
            timm=has_timm_form(experiment.method, experiment.method_config, model.encoder.state_dict()),
            saved=saved,
            step=model.found.state.step,
        )
    except (MlflowException, OSError) as error:  # the server went away in the middle
        return tracking.problem_of(error)
    return filed


def card(
    run: Run, model: TrainedModel, verdict: str, numbers: str, of_method: MethodResult | None, probes: ProbeOutcomes, peak: str
) -> str:
    """What the registered model is, as Markdown."""
    from sightline.platform.reports.model_card import model_card

    data = [("training", model.train), *([("validation", model.val)] if model.val else [])]
    facts = summary.facts(run, list(run.events()), model.train, model.val, model.found, peak, model.size)
    return model_card(verdict, numbers, [("Run", run.name), *facts], data, of_method, probes)


def write_page(
    run: Run,
    model: TrainedModel,
    verdict: str,
    numbers: str,
    visualisations: list[Visualisation],
    of_method: MethodResult | None,
    probes: ProbeOutcomes,
    next_steps: list[str],
    peak: str,
) -> Path:
    """`report.html` of the run's folder."""
    from sightline.platform.reports.page import ReportPage, write_report
    from sightline.platform.reports.probe_curves import probe_curves

    experiment, train, events = model.experiment, model.train, list(run.events())
    tuned = kept_of(model.encoder) == "model"
    final = {**method_intervals(of_method, run.metric_names), **flat_intervals(probes)}
    page = ReportPage(
        title=f"{run.name}: {experiment.method} by recipe {run.recipe}",
        kind="fine-tuning run" if tuned else "pre-training run",
        headline=verdict,
        detail=numbers,
        warnings=summary.warnings(events),
        facts=summary.facts(run, events, train, model.val, model.found, peak, model.size),
        control=of_method,
        visualisations=visualisations,
        sections=[
            summary.mixture(events, train),
            probe_curves(events, model.found.state.step, final, metric_infos(of_method, probes, run.metric_names)),
        ],
        probes=list(probes.values()),
        curves=summary.curves(events),
        time=summary.phase_seconds(events),
        next_steps=next_steps,
        commands=[run.command],
        provenance=train.provenance,
        settings=experiment.flat(),
        identities=summary.identities(run, model.found),
    )
    return write_report(run.folder / "report.html", page)


def _save_images(folder: Path, visualisations: list[Visualisation]) -> list[Path]:
    from PIL import Image

    paths = []
    for index, one in enumerate(visualisations):
        paths.append(folder / f"picture-{index + 1}.png")
        with replacing(paths[-1]) as part:
            Image.fromarray(one.image).save(part, "PNG")
    return paths
