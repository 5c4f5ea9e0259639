"""Creates a run: its record, with the weights that it begins from and its teachers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sightline.platform import config
from sightline.platform.core.files import new_folder
from sightline.platform.core.paths import runs_folder
from sightline.platform.core.redaction import redact
from sightline.platform.core.version import this_commit
from sightline.platform.runs.identity import identity
from sightline.platform.runs.names import refuse_taken, taken
from sightline.platform.runs.record import METRIC_NAMES, Run
from sightline.platform.tracking.client import to_record

if TYPE_CHECKING:
    from sightline.platform.weights.format import Weights


def create_run(
    name: str, experiment: config.Experiment, fingerprint: str, command: str, tracking_uri: str, parent: str | None = None
) -> Run:
    """Write the run's record, the weights it begins from (`train.init`) and its teachers, which are pinned by their SHA-256.

    `fingerprint`: of the training data. `parent`: id of the MLflow run that this one is nested in. Raises `CallError` where a run of this
    name exists, or where `train.init` or a teacher names no weights that fit.
    """
    refuse_taken(name, "run")
    initial = None
    teachers: dict[str, Weights] = {}
    if experiment.train.init is not None or experiment.has_teachers:
        from sightline.platform.models.resolve import find_initial, resolve_teachers  # imports torch

        if experiment.train.init is not None:
            initial = find_initial(experiment, tracking_uri or None)
            experiment = experiment.model_copy(update={"train": experiment.train.model_copy(update={"init": initial.place})})
        experiment, teachers = resolve_teachers(experiment, tracking_uri or None)
    folder = runs_folder() / name
    run = Run(
        name=name,
        folder=folder,
        recipe=experiment.recipe,
        settings={},
        fingerprint=fingerprint,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=redact(command),
        parent=parent,
        commit=this_commit(),
        tracking_uri=to_record(tracking_uri),
        metric_names=METRIC_NAMES,
    )
    run.experiment = config.without_password(experiment)
    try:
        with new_folder(folder) as part:
            if initial is not None:
                initial.keep(experiment, part)
            if teachers:
                from sightline.platform.runs.pinned import keep_teachers

                keep_teachers(teachers, part)
            identity(part)
            replace(run, folder=part).save()
    except FileExistsError:
        raise taken(name, "run", folder) from None
    return run
