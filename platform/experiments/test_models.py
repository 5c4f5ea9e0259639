"""`sightline evaluate` of fine-tuned models: what they predict, scored on a data set, as at the end of their runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.methods.catalog import find_method
from sightline.methods.contract import HasControlMetrics, HasPredictor, PredictsLabels
from sightline.methods.errors import CallError
from sightline.platform.core.scratch import scratch_folder
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.encoder_input import class_names
from sightline.platform.evaluation.findings import label_of, show_difference, show_span
from sightline.platform.evaluation.paired import FILE, Measured, Paired, compare, unlike, write_measured
from sightline.platform.evaluation.results import TEST, MethodResult
from sightline.platform.evaluation.verdict import verdict_of_run
from sightline.platform.models.encoders import OpenedEncoder
from sightline.platform.tracking.evaluation_run import EvaluatedEncoder, Evaluation, RecordedEvaluation, record_evaluation
from sightline.platform.tracking.problems import Kind, TrackingProblem

from .preflight import check_columns

if TYPE_CHECKING:
    import torch

    from sightline.methods.ops.tiling import Passes

BATCH = 16


@dataclass(frozen=True)
class TestedModel:
    """A fine-tuned model and its metrics on the data."""

    name: str
    opened: OpenedEncoder
    result: MethodResult

    @property
    def measured(self) -> Measured | None:
        """The first metric with its resamples."""
        return Measured.of(replace(self.result, name=TEST), self.result.rows[0].name)


def is_fine_tuned(opened: OpenedEncoder) -> bool:
    """Whether the model predicts something, so that its own metrics say what it is worth."""
    from .finish import kept_of

    return kept_of(opened.encoder) == "model"


def test_model(
    name: str,
    opened: OpenedEncoder,
    dataset: Dataset,
    device: torch.device,
    limit: int,
    train: Dataset | None = None,
    passes: Passes | None = None,
) -> TestedModel:
    """The metrics that a run of this model would report with `data.val` set to `dataset`, on at most `limit` samples where the task has
    a limit. Of label maps: `train` gives baselines, `passes` says how the network sees an image; for other tasks they are refused.

    Raises `CallError` where the data are none for this model."""
    method, config = find_method(opened.method), opened.config
    if dataset.kind != method.kind:
        raise CallError(f"{dataset.uri} holds {dataset.kind}; {name} ({method.id}) takes {method.kind}", "name data of that kind")
    views = method.views(config)
    check_columns(method, views, dataset, dataset.uri)
    pretext = opened.pretext()
    if isinstance(pretext, HasPredictor):
        from sightline.platform.evaluation.test_metrics import measure_test_metrics

        parts = pretext.predictor.task == "part_segmentation"
        what = "parts" if parts else "classes"
        known, there = class_names(pretext.predictor), dataset.manifest.parts if parts else dataset.manifest.classes
        if known and tuple(there) != tuple(known):
            raise CallError(
                f"the {what} of {dataset.uri} are {', '.join(there) or 'not named'}; {name} knows {', '.join(known)}",
                "prepare the data with the classes of the model, in its order: --classes FILE",
            )
        maps = isinstance(pretext.predictor, PredictsLabels)
        if passes is not None and not maps:
            raise CallError(f"{name} gives no label maps: --overlap, --scales and --flip are for those", "leave them away")
        fits = train is not None and maps and train.manifest.classes == there
        known_data = (train,) if train is not None and fits else ()
        found = measure_test_metrics(pretext, views, dataset, batch=BATCH, device=device, train=known_data, passes=passes)
        return TestedModel(name, opened, found)
    if passes is not None:
        raise CallError(f"{name} gives no label maps: --overlap, --scales and --flip are for those", "leave them away")
    if not isinstance(pretext, HasControlMetrics):
        raise CallError(f"{method.id} has no metrics of its own", "name a model of classes, masks, depth, stereo, flow or pose")
    from sightline.platform.evaluation.control_metrics import measure_control_metrics

    result = measure_control_metrics(pretext, views, dataset, seed=0, batch=BATCH, limit=limit, metrics=method.metrics, device=device)
    return TestedModel(name, opened, result)


def against_first(models: Sequence[TestedModel]) -> dict[str, Paired]:
    """The first model against each other one that was measured alike, on the same resamples."""
    first, *others = models
    one = first.measured
    found = {}
    for other in others:
        two = other.measured
        if one is not None and two is not None and one.metric == two.metric and not unlike(one, two):
            found[other.name] = compare(one, two)
    return found


def sentences(models: Sequence[TestedModel], paired: Mapping[str, Paired]) -> str:
    """What each is worth on these data, then the first against the others."""
    said = []
    for one in models:
        own = verdict_of_run(one.result, {}, kept="model")
        said.append(own if len(models) == 1 else f"{one.name}: {own}")
    for name, apart in paired.items():
        words = {"better": "is better than", "worse": "is worse than"}.get(str(apart.verdict), "is not shown to differ from")
        size = f"{show_difference(apart.difference.value, apart.info)}, interval {show_span(apart.difference, apart.info)}"
        said.append(f"{models[0].name} {words} {name} in {label_of(apart.metric, apart.info)} ({size}).")
    return " ".join(said)


def record_tests(
    given: Mapping[str, str], models: Sequence[TestedModel], dataset: Dataset, verdict: str, artifacts: Sequence[Path], command: str
) -> RecordedEvaluation | TrackingProblem:
    """The MLflow run of this test, or why MLflow did not take it. `given`: what a person opened each model from, by its name."""
    with scratch_folder("test") as scratch:
        tested = []
        for place, one in enumerate(models):
            (scratch / str(place)).mkdir()
            kept = [one.measured] if one.measured else []
            resamples = write_measured(scratch / str(place) / FILE, one.opened.sha256, kept)
            metrics = {f"test/{key}": one.result.values[key].value for key in one.result.main_metrics}
            tested.append(
                EvaluatedEncoder(one.name, given[one.name], one.opened.method, one.opened.source, one.opened.sha256, metrics, resamples)
            )
        try:
            return record_evaluation(Evaluation(tested, {"test/": dataset}, verdict, command, artifacts))
        except CallError as error:  # an address that is none
            return TrackingProblem(Kind.OTHER, str(error), error.hint)


def tested_document(models: Sequence[TestedModel], paired: Mapping[str, Paired], dataset: Dataset) -> str:
    """JSON of what was measured."""
    told = {
        one.name: {"method": one.opened.method, "source": one.opened.source, "sha256": one.opened.sha256, "test": one.result.to_json()}
        for one in models
    }
    apart = {
        name: {"metric": one.metric, "difference": one.difference.as_dict(), "verdict": str(one.verdict)} for name, one in paired.items()
    }
    return json.dumps({"data": dataset.uri, "fingerprint": dataset.fingerprint, "models": told, "first_minus": apart}, indent=1)


def write_tested_page(path: Path, models: Sequence[TestedModel], headline: str, dataset: Dataset, command: str) -> Path:
    """The HTML page."""
    from sightline.platform.reports.evaluation import method_section
    from sightline.platform.reports.page import ReportPage, write_report

    sections = [replace(method_section(one.result), heading=f"{one.name}: {one.result.title}") for one in models]
    return write_report(
        path,
        ReportPage(
            title=f"Test of {', '.join(one.name for one in models)}",
            kind="evaluation",
            headline=headline,
            detail=models[0].result.finding,
            facts=[
                ("Data", f"{dataset.rows:,} {dataset.kind}"),
                *((one.name, f"{one.opened.method}, {one.opened.source}") for one in models),
            ],
            sections=sections,
            commands=[command],
            provenance=dataset.provenance,
            identities=[
                ("Data", f"{dataset.uri}, {dataset.fingerprint}"),
                *((f"SHA-256 of {one.name}", one.opened.sha256) for one in models),
            ],
        ),
    )
