"""Models that MLflow ranks, evaluations as runs, and promotion, against a real database."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.checkpoints.local import Checkpoint, TrainState
from sightline.platform.checkpoints.retention import Kept, Reason
from sightline.platform.core.paths import local_tracking_uri
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.paired import FILE, Measured, write_measured
from sightline.platform.evaluation.probes.spec import share
from sightline.platform.evaluation.results import Resamples
from sightline.platform.experiments.promote import carry_out, decide
from sightline.platform.models.resolve import find_weights
from sightline.platform.runs.events import StepsDone, ValidationDone
from sightline.platform.runs.record import Run
from sightline.platform.tracking.client import connect, open_registry
from sightline.platform.tracking.evaluation_run import EvaluatedEncoder, Evaluation, RecordedEvaluation, record_evaluation
from sightline.platform.tracking.mlflow_run import Tracking
from sightline.platform.tracking.models import EXTERNAL, Results, drop_gone_checkpoints_of
from sightline.platform.tracking.problems import TrackingProblem
from sightline.platform.tracking.promotion import PROMOTED, REPLACED, find_version
from sightline.platform.tracking.registry import LoggedCheckpoint, _tracking, checkpoint_of


def kept(step: int, folder: Path) -> Kept:
    state, path = TrainState(step, step, 0, 1, "", "", "fp32", ""), folder / f"checkpoints/step-{step:08d}"
    path.mkdir(parents=True, exist_ok=True)
    return Kept(Checkpoint(path, state), (Reason.MILESTONE,), {})


def knn(share_found: float, data: Dataset, seed: int) -> Measured:
    """The k-NN accuracy of an encoder that is right in this share of 200 images."""
    draws = np.random.default_rng(0).normal(0, 0.02, 300) + np.random.default_rng(seed).normal(0, 0.001, 300) + share_found
    conditions = {"protocol": "abc", "test data": data.fingerprint}
    info = share("accuracy", "share of test images whose class is found")
    return Measured(
        "knn", "accuracy", info, share_found, Resamples(draws, 0.95, conditions), "image", 200, {"train": None, "test": data.uri}
    )


@pytest.mark.slow
def test_the_models_of_a_run_are_ranked_and_a_resume_repeats_nothing(toy_run: Callable[..., Run], tmp_path: Path) -> None:
    run = toy_run("ranked")
    run.append([StepsDone(0, {"loss": [3.0, 2.0, 1.0]}, [1.0] * 3, [1.0] * 3, 1.0, {}, 6)])
    run.append([ValidationDone(step, {"loss": 1.0 / step}) for step in (1, 2, 3)])
    val = Dataset.open(str(run.experiment.data.val))
    client = connect(local_tracking_uri())
    first = Tracking(run)
    final = first.client.create_logged_model(first.client.get_run(first.run_id).info.experiment_id, "encoder", first.run_id)
    client.finalize_logged_model(final.model_id, "READY")
    results = Results(
        metrics={"probe/knn/accuracy": 0.75},
        step=3,
        verdict="It has learned.",
        model_id=final.model_id,
        data={"val/": val, "probe/knn/": val},
        checkpoints=[kept(2, run.folder), kept(1, run.folder)],
        tables={"probe_values.json": {"probe": ["knn"], "value": [0.75], "low": [None]}},
    )
    first.close("FINISHED", results=results)
    assert first.problem is None
    for _ in range(2):  # as a resume does
        Tracking(Run.open(str(run.folder))).close("FINISHED", results=results)
    filed = client.get_run(first.run_id)
    assert filed.data.tags["mlflow.note.content"] == "It has learned."

    models = client.search_logged_models([filed.info.experiment_id], order_by=[{"field_name": "metrics.val/loss", "ascending": True}])
    assert [model.name for model in models] == ["encoder", "step-2", "step-1"] and {str(model.status) for model in models} == {"READY"}
    assert [model.tags.get(EXTERNAL) for model in models] == [None, "true", "true"]
    assert models[1].tags["sightline.checkpoint"].endswith("checkpoints/step-00000002")
    held = [[(m.key, m.step, m.value, m.dataset_name, m.dataset_digest) for m in model.metrics] for model in models]
    of_val = (val.uri.rpartition("/")[2], val.fingerprint[:36])
    assert sorted(held[0]) == [("probe/knn/accuracy", 3, 0.75, *of_val), ("val/loss", 3, pytest.approx(1 / 3), *of_val)]
    assert held[1:] == [[("val/loss", 2, 0.5, *of_val)], [("val/loss", 1, 1.0, *of_val)]]
    ranked = {"field_name": "metrics.probe/knn/accuracy", "dataset_name": of_val[0], "dataset_digest": of_val[1], "ascending": False}
    assert client.search_logged_models([filed.info.experiment_id], order_by=[ranked])[0].name == "encoder"
    for name in ("val/loss", "probe/knn/accuracy"):
        points = client.get_metric_history(first.run_id, name)
        assert len({m.step for m in points}) == len(points), "what a model has, the run does not get twice"
    assert sorted(output.step for output in filed.outputs.model_outputs) == [1, 2]

    with _tracking(local_tracking_uri()):  # MLflow looks for tables in its global place
        table = client.load_table(filed.info.experiment_id, "probe_values.json", [first.run_id])
    assert table["value"].tolist() == [0.75], "a resume adds no rows"

    milestone = EvaluatedEncoder("ranked@2", "ranked@2", "croco", "run ranked, step 2", "sha of step 2", {"probe/knn/accuracy": 0.7})
    done = record_evaluation(Evaluation([milestone], {"probe/knn/": val}, "Measured.", "evaluate ranked@2"))
    assert isinstance(done, RecordedEvaluation)
    assert client.get_run(done.run_id).data.tags["mlflow.parentRunId"] == first.run_id
    (evaluated,) = client.search_logged_models([filed.info.experiment_id], "tags.`sightline.sha256` = 'sha of step 2'")
    assert evaluated.name == "step-2" and {m.key for m in evaluated.metrics} == {"val/loss", "probe/knn/accuracy"}

    address = f"models:/{evaluated.model_id}"
    again = record_evaluation(Evaluation([replace(milestone, name="m", model=address)], {"probe/knn/": val}, "Again.", ""))
    assert isinstance(again, RecordedEvaluation) and len(client.search_logged_models([filed.info.experiment_id])) == 3, "no fourth model"
    assert checkpoint_of(address) == LoggedCheckpoint(first.run_id, 2, run.folder) and checkpoint_of(f"models:/{final.model_id}") is None
    with pytest.raises(CallError, match="run ranked has no checkpoint @2"):
        find_weights(address)
    assert drop_gone_checkpoints_of([run]) == (0, {})
    shutil.rmtree(run.folder / "checkpoints/step-00000002")
    assert drop_gone_checkpoints_of([run]) == (1, {})
    assert [model.name for model in client.search_logged_models([filed.info.experiment_id])] == ["step-1", "encoder"]
    shutil.rmtree(run.folder / "checkpoints/step-00000001")
    Tracking(Run.open(str(run.folder))).close("FINISHED", results=replace(results, checkpoints=()))
    assert [model.name for model in client.search_logged_models([filed.info.experiment_id])] == ["encoder"], "training deletes them, too"


@pytest.mark.slow
def test_a_version_takes_the_place_of_another_by_what_both_have_recorded(toy_run: Callable[..., Run], tmp_path: Path) -> None:
    run = toy_run("promoted")
    data = Dataset.open(str(run.experiment.data.val))
    tracking = Tracking(run)
    client, experiment = tracking.client, tracking.client.get_run(tracking.run_id).info.experiment_id
    client.create_registered_model("toy-encoder")
    for number, found in ((1, 0.5), (2, 0.6), (3, 0.601)):
        made = client.create_run(experiment).info.run_id
        client.log_artifact(made, str(write_measured(tmp_path / FILE, f"sha{number}", [knn(found, data, number)])))
        client.create_model_version("toy-encoder", run.folder.as_uri(), made, tags={"sightline.sha256": f"sha{number}"})
    client.set_registered_model_alias("toy-encoder", "candidate", "2")
    registry = open_registry(to_write=True)

    def outcome(reference: str) -> Any:
        return decide(registry, find_version(registry, reference, "candidate"), "champion", None, [])

    nobody = outcome("toy-encoder/1")
    assert nobody.better and nobody.incumbent is None
    carry_out(registry, nobody, forced=False)
    better = outcome("toy-encoder")
    told = "Version 2 is better than version 1, the champion, in knn accuracy: 60.0% against 50.0% (+10.0 points, interval +9."
    assert better.sentence.startswith(told)
    assert better.sentence.endswith("; the same 200 images for both; both figures recorded earlier).") and better.recorded
    carry_out(registry, better, forced=False)
    assert find_version(registry, "toy-encoder@champion", "").number == "2"
    tags = [client.get_model_version("toy-encoder", number).tags for number in "12"]
    assert "champion by" in tags[0][PROMOTED] and "now version 2: Version 2 is better" in tags[0][REPLACED]
    assert "in the place of version 1: Version 2 is better" in tags[1][PROMOTED] and REPLACED not in tags[1]

    same = outcome("toy-encoder/3")
    assert not same.better
    assert same.sentence.startswith("No difference is shown between version 3 and version 2, the champion, in knn accuracy:")
    with pytest.raises(SightlineError, match="version 2 became champion meanwhile"):
        carry_out(registry, better, forced=False)
    carry_out(registry, same, forced=True)
    assert client.get_model_version("toy-encoder", "3").tags[PROMOTED].endswith(f"forced. {same.sentence}")
    assert outcome("toy-encoder/3").sentence == "Version 3 of toy-encoder is champion already."
    for wrong in ("toy-encoder/9", "toy-encoder@nobody", "toy-encodre", "a/b/c"):
        with pytest.raises(CallError):
            outcome(wrong)

    evaluated = EvaluatedEncoder("toy", "models:/toy-encoder/3", "croco", "here", "sha3", {"probe/knn/accuracy": 0.601})
    other = replace(evaluated, name="a/file.x", sha256="of a stranger", metrics={"probe/knn/accuracy": 0.4})
    done = record_evaluation(Evaluation([evaluated, other], {"probe/knn/": data}, "Both were measured.", "evaluate ..."))
    assert isinstance(done, RecordedEvaluation)
    below = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{done.run_id}'")
    assert {child.data.metrics["probe/knn/accuracy"] for child in below} == {0.601, 0.4}
    assert {child.info.status for child in below} == {"FINISHED"}
    best = client.search_logged_models([experiment], order_by=[{"field_name": "metrics.probe/knn/accuracy", "ascending": False}])
    digest = data.fingerprint[:36]
    assert [(model.name, model.metrics[0].dataset_digest) for model in best[:2]] == [("toy", digest), ("a-file-x", digest)]
    again = record_evaluation(Evaluation([other], {"probe/knn/": data}, "Again.", "evaluate ..."))
    assert isinstance(again, RecordedEvaluation)
    assert len(client.search_logged_models([experiment], "tags.`sightline.sha256` = 'of a stranger'")) == 1
    assert json.loads(client.get_run(again.run_id).inputs.dataset_inputs[0].dataset.profile)["num_rows"] == data.rows


def test_a_place_that_refuses_gets_no_evaluation(home: Path) -> None:
    (home / "mlflow.db").mkdir(parents=True)
    refused = record_evaluation(Evaluation([EvaluatedEncoder("a", "file", "croco", "", "", {})], {}, "", ""))
    assert isinstance(refused, TrackingProblem) and "is a folder" in refused.what
