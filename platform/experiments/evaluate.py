"""Records in MLflow what `sightline evaluate` has measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.core.scratch import scratch_folder
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.findings import flat_metrics, probe_tables
from sightline.platform.evaluation.paired import FILE, Measured, write_measured
from sightline.platform.evaluation.results import ProbeOutcomes, ProbeResult
from sightline.platform.evaluation.verdict import verdict_of_encoders
from sightline.platform.models.encoders import OpenedEncoder
from sightline.platform.tracking.evaluation_run import EvaluatedEncoder, Evaluation, RecordedEvaluation, record_evaluation
from sightline.platform.tracking.problems import Kind, TrackingProblem


def record(
    models: Mapping[str, str], opened: Mapping[str, OpenedEncoder], outcomes: ProbeOutcomes, artifacts: Sequence[Path], command: str
) -> RecordedEvaluation | TrackingProblem:
    """The MLflow run of this evaluation, or why MLflow did not take it. `models`: what a person opened each encoder from, by its name."""
    done = [outcome for outcome in outcomes.values() if isinstance(outcome, ProbeResult)]
    with scratch_folder("evaluation") as scratch:
        encoders = []
        for place, (name, one) in enumerate(opened.items()):
            measured = [found for outcome in done if (found := Measured.of(outcome, name))]
            (scratch / str(place)).mkdir()
            resamples = write_measured(scratch / str(place) / FILE, one.sha256, measured)
            encoders.append(
                EvaluatedEncoder(name, models[name], one.method, one.source, one.sha256, flat_metrics(outcomes, name), resamples)
            )
        evaluation = Evaluation(
            encoders,
            {f"probe/{outcome.name}/": Dataset.open(str(outcome.data["test"])) for outcome in done},
            verdict_of_encoders(outcomes),
            command,
            artifacts,
            probe_tables(outcomes),
        )
        try:
            return record_evaluation(evaluation)
        except CallError as error:  # an address that is none
            return TrackingProblem(Kind.OTHER, str(error), error.hint)
