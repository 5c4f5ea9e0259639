"""Probes of checkpoints while a run trains: which are measured, that training waits for none, and what a kill leaves."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import yaml
from commands import finish, start
from toy import TOY_IMAGES, write_images
from toy_discs import ENCODER, write_clouds

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext, MetricInfo
from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints.links import LINKS, link_checkpoint
from sightline.platform.checkpoints.remote import Storage
from sightline.platform.checkpoints.retention import Retention, prune
from sightline.platform.cluster.resources import plan_resources
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.intervals import Interval
from sightline.platform.experiments import preflight
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.sweep.plan import Asked, make_plan, trial_settings
from sightline.platform.experiments.sweep.trial import measure_probe
from sightline.platform.experiments.training_probes import ProbeTask, TrainingProbes, measure
from sightline.platform.reports.page import ReportPage, render
from sightline.platform.reports.probe_curves import probe_curves
from sightline.platform.runs.events import CheckpointWritten, ProbesMeasured, ProbesMissed, RunEvent, TrainingEnded
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import metrics_of


def reach(run: Run, step: int, weights: dict[str, torch.Tensor] | None = None) -> CheckpointWritten:
    """A checkpoint of `step`, as training leaves it, and its event."""
    state = checkpoint.TrainState(step, 12 * step, 0, 1, run.fingerprint, "", "fp32", "")
    tensors = {"model": weights or {"w": torch.full((2,), float(step))}, "optimizer": {"m": torch.ones(2)}}
    path = checkpoint.write(run.folder / "checkpoints", state, tensors)
    prune(run.folder / "checkpoints", Retention.of(run.experiment))
    return CheckpointWritten(step=step, path=str(path), seconds=0.0)


def found(step: int, **values: float) -> ProbesMeasured:
    named = {f"probe/knn/{name}": value for name, value in values.items()}
    return ProbesMeasured(step=step, values=named, low={}, high={}, baselines={"probe/knn/random_accuracy": 0.1}, skipped={}, seconds=1.0)


@dataclass
class Probing:
    """The probes of a run whose tasks a test ends by `answer`."""

    run: Run
    events: list[RunEvent] = field(default_factory=list)
    asked: list[ProbeTask] = field(default_factory=list)
    probes: Any = None
    _answer: Any = None
    _ready: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Probing:
        self.probes = TrainingProbes(self.run, self.events.append)
        self.probes.begin(plan_resources(1, 2, 0))
        return self

    def see(self, step: int) -> None:
        self.probes.see(reach(self.run, step))
        while self.probes._task is None and self.probes._thread.is_alive():
            self.probes._thread.join(0.001)

    def answer(self, with_: Any) -> None:
        self._answer = with_
        self._ready.set()
        self.probes._thread.join()

    def get(self, task: ProbeTask) -> ProbesMeasured:
        self._ready.wait(300)
        self._ready.clear()
        if isinstance(self._answer, Exception):
            raise self._answer
        return found(task.step, accuracy=0.5) if self._answer is None else self._answer


@pytest.fixture
def probing(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> Probing:
    """Probes every 5 steps of a run of 18 steps, without Ray."""
    one = Probing(toy_run("probed", **{"probe.every": "5 steps"}))

    def submit(self: TrainingProbes, task: ProbeTask) -> ProbeTask:
        one.asked.append(task)
        return task

    monkeypatch.setattr(TrainingProbes, "_submit", submit)
    monkeypatch.setattr(ray, "get", one.get)
    monkeypatch.setattr(ray, "cancel", lambda task, force: one.answer(ray.exceptions.TaskCancelledError()))
    return one.start()


def test_a_checkpoint_is_measured_when_it_is_due_and_training_waits_for_none(probing: Probing) -> None:
    for step in (4, 6, 8, 10, 12, 18):  # 4 and 8 are not due; 10 comes while 6 is measured; 18 is the last step
        probing.see(step)
    assert [task.step for task in probing.asked] == [6]
    assert probing.events == [ProbesMissed(step=10, reason="the probes of step 6 were still running", late=True)]
    probing.answer(None)
    assert probing.events[1:] == [found(6, accuracy=0.5)]
    assert [event for event in probing.run.events() if isinstance(event, ProbesMeasured | ProbesMissed)][1].step == 6
    assert not (probing.run.folder / LINKS).exists()


def test_data_that_allow_no_probe_are_asked_once(probing: Probing) -> None:
    probing.see(6)
    probing.answer(found(6))
    probing.see(12)
    assert [task.step for task in probing.asked] == [6]


@pytest.mark.slow
def test_the_authors_svm_of_clouds_is_measured_during_training_and_chooses_the_checkpoint(home: Path, tmp_path: Path) -> None:
    data = {f"data.{name}": str(write_clouds(tmp_path / name, rows, 1, points=1024)) for name, rows in (("train", 12), ("val", 4))}
    asked = {"probe.every": 3, "probe.during": ["svm_modelnet40"], "train.keep_best": "probe/svm_modelnet40/accuracy higher"}
    settings = ENCODER | {"batch": {"size": 12, "microbatch": 12}, "optim": {"lr": 1e-3}, "train": {"length": "12 steps"}}
    experiment, dataset = preflight.check(config.load("toy", {**data, **asked}, settings=settings), look=False)
    run = create_run("svm", experiment, dataset.fingerprint, "test", "")
    weights = find_method("i2p_mae").build(experiment.method_config, BuildContext(seed=0)).state_dict()
    link_checkpoint(Path(reach(run, 6, weights).path), run.folder / LINKS)
    event = measure(ProbeTask(run.experiment, run.folder, run.metric_names, 6, random=False))
    assert 0 <= event.values["probe/svm_modelnet40/accuracy"] <= 1 and not event.skipped
    assert Retention.of(experiment).value(event.values) == event.values["probe/svm_modelnet40/accuracy"]


def test_what_is_measured_outlives_the_checkpoint(probing: Probing) -> None:
    probing.see(6)
    reach(probing.run, 7)
    reach(probing.run, 8)  # two are kept
    assert not (probing.run.folder / "checkpoints/step-00000006").exists()
    kept = checkpoint.newest(probing.run.folder / LINKS)
    assert kept and kept.state.step == 6 and kept.tensors("model")["w"].tolist() == [6, 6]
    probing.answer(None)
    assert not kept.path.exists() and len(checkpoint.steps(probing.run.folder / "checkpoints")) == 2


def test_the_best_by_a_probe_stays_or_is_put_back(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.keep_best`; the other is deleted while it is measured."""
    run = toy_run("best", **{"probe.every": 3, "train.keep": 1, "train.keep_best": "probe/knn/accuracy higher"})
    one = Probing(run)
    monkeypatch.setattr(TrainingProbes, "_submit", lambda self, task: task)
    monkeypatch.setattr(ray, "get", one.get)
    one.start()
    for step, accuracy in ((3, 0.4), (6, 0.5), (9, 0.3)):
        one.see(step)
        reach(run, step + 1)
        one.answer(found(step, accuracy=accuracy))
    kept = {path.name[-2:]: checkpoint.read_note(path / checkpoint.NOTE).metrics for path in checkpoint.steps(run.folder / "checkpoints")}
    reach(run, 12)
    assert "06" in kept and kept["06"] == {"probe/knn/accuracy": 0.5}
    left = [found.state.step for found in checkpoint.checkpoints(run.folder / "checkpoints")]
    assert left == [12, 6] and checkpoint.problem(run.folder / "checkpoints/step-00000006") is None


def test_nodes_that_share_no_folder_give_the_checkpoint_by_the_storage(probing: Probing, tmp_path: Path) -> None:
    run = probing.run
    run.experiment = run.experiment.model_copy(
        update={"train": run.experiment.train.model_copy(update={"storage": str(tmp_path / "store")})}
    )
    written = reach(run, 6)
    storage = Storage.of(run.experiment, run.folder)
    assert storage
    storage.push(Retention.of(run.experiment))
    shutil.rmtree(written.path)
    probing.probes.see(CheckpointWritten(step=6, path="/of/another/node/step-00000006", seconds=0.0))
    probing.answer(None)
    assert probing.events == [found(6, accuracy=0.5)] and not (run.folder / "checkpoints/step-00000006").exists()


def test_a_probe_that_fails_is_told_and_the_next_is_measured(probing: Probing) -> None:
    probing.see(6)
    probing.answer(ray.exceptions.OutOfMemoryError("of 5 GB"))
    probing.see(12)
    probing.answer(ray.exceptions.RayTaskError("f", "trace", ValueError("odd\nlines")))
    assert [(e.step, e.reason, e.late) for e in probing.events if isinstance(e, ProbesMissed)] == [
        (6, "the node ran out of memory", False),
        (12, "ValueError: odd", False),
    ]
    gone = CheckpointWritten(step=16, path=str(probing.run.folder / "checkpoints/step-00000016"), seconds=0.0)
    probing.probes.see(gone)
    probing.probes._thread.join()
    assert "not there, or not on this node" in probing.events[-1].reason  # type: ignore[attr-defined]


def test_a_resume_measures_the_newest_checkpoint_once(probing: Probing) -> None:
    probing.see(6)
    probing.answer(None)
    left = probing.run.folder / LINKS
    link_checkpoint(Path(reach(probing.run, 12).path), left)  # the driver is killed while 12 is measured
    again = Probing(probing.run, asked=probing.asked).start()
    probing.answer(None)
    again.probes._thread.join()
    assert [(task.step, task.random) for task in probing.asked] == [(6, True), (12, False)] and not left.exists()
    third = Probing(probing.run, asked=probing.asked).start()
    third.see(12)
    assert [task.step for task in probing.asked] == [6, 12]


@pytest.mark.parametrize("stopped", [True, False])
def test_at_the_end_the_last_probes_are_waited_for_unless_somebody_stopped(probing: Probing, stopped: bool) -> None:
    probing.see(6)
    probing.probes.see(TrainingEnded(step=9 if stopped else 18, history="", stopped=stopped))
    if not stopped:
        threading.Timer(0.02, lambda: probing.answer(None)).start()
    probing.probes.end()
    assert [type(event).__name__ for event in probing.events] == ([] if stopped else ["ClusterNote", "ProbesMeasured"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({}, "at the end only"), ({"probe.every": 3, "probe.during": ["linear"]}, "probe 'knn' is not measured during training, only linear")],
)
def test_the_best_by_a_probe_that_nobody_measures_is_refused(toy_run: Callable[..., Run], settings: dict[str, Any], said: str) -> None:
    run = toy_run("unmeasured", **settings, **{"train.keep_best": "probe/knn/accuracy higher"})
    with pytest.raises(CallError, match=said):
        preflight.check(run.experiment)


def test_without_the_setting_nothing_is_measured(toy_run: Callable[..., Run]) -> None:
    for every in (None, 0):
        probes = TrainingProbes(run := toy_run(f"plain-{every}", **{"probe.every": every}), lambda event: None)
        probes.see(reach(run, 6))
        probes.end()
        assert run.experiment.probe.every is None and not probes._thread.is_alive()


@pytest.mark.slow
def test_measured_are_control_metrics_under_their_final_names(toy_run: Callable[..., Run]) -> None:
    run = toy_run("measured", **{"probe.every": 6, "probe.samples": 4})
    weights = find_method("croco").build(run.experiment.method_config, BuildContext(seed=0)).state_dict()
    link_checkpoint(Path(reach(run, 6, weights).path), run.folder / LINKS)
    task = ProbeTask(run.experiment, run.folder, run.metric_names, 6, random=False)
    event = measure(ProbeTask.from_values(task.to_values()))
    assert {"claim/psnr_true_view", "claim/psnr_other_view"} <= set(event.values)
    assert event.low["claim/psnr_true_view"] < event.values["claim/psnr_true_view"] < event.high["claim/psnr_true_view"]
    assert "no label column" in event.skipped["knn"] or "needed" in event.skipped["knn"]
    with pytest.raises(FileNotFoundError, match="step 12"):
        measure(ProbeTask(run.experiment, run.folder, run.metric_names, 12, random=False))


@pytest.mark.slow
def test_a_rung_of_a_sweep_is_a_point_of_the_same_curve(home: Path, tmp_path: Path) -> None:
    data = {f"data.{name}": str(write_images(tmp_path / name, 24, seed=len(name))) for name in ("train", "val")}
    experiment = config.load("toy", {**data, "probe.every": 1}, settings=TOY_IMAGES["loca"])
    assert (
        trial_settings(
            experiment, make_plan(experiment, Dataset.open(data["data.train"]), Asked(space=["optim.lr=1e-4..1e-3"]))
        ).probe.every
        is None
    )
    run = create_run("trial", experiment, "", "test", "")
    reach(run, 6, find_method("loca").build(experiment.method_config, BuildContext(seed=0)).state_dict())
    value = measure_probe(experiment, run.folder / "checkpoints", 6, "knn.accuracy")
    (event,) = [event for event in run.events() if isinstance(event, ProbesMeasured)]
    assert list(metrics_of(event)) == [("probe/knn/accuracy", 6, value)]


def test_the_report_draws_a_curve_that_ends_in_the_final_value() -> None:
    events: list[RunEvent] = [found(100, accuracy=0.2), found(200, accuracy=0.3), ProbesMissed(step=300, reason="x", late=True)]
    final = {"probe/knn/accuracy": Interval(0.4, 0.35, 0.45, 9), "probe/knn/pixels_accuracy": Interval(0.25, 0.2, 0.3, 9)}
    infos = {"probe/knn/accuracy": MetricInfo(label="accuracy", unit="%")}
    section = probe_curves(events, 400, final, infos)
    (chart,) = section.drawn
    assert chart.title == "Knn accuracy" and chart.lines == ("trained encoder", "random weights", "raw pixels")
    assert "trained encoder: from 20 to 40; random weights: 10; raw pixels: 25" in chart.svg
    assert section.notes == ["The checkpoint of step 300 was passed over, because the probes before were still running."]
    assert "While it trained" in render(ReportPage("t", sections=[section]))
    assert probe_curves([], 400, final, infos).empty


def test_probes_get_a_gpu_that_nobody_else_takes() -> None:
    assert plan_resources(2, 16, 4, probes=True).probe_gpus == 1
    assert plan_resources(4, 16, 4, probes=True).probe_gpus == plan_resources(2, 16, 4).probe_gpus == 0
    assert plan_resources(2, 16, 4, probes=True, stage=True).probe_gpus == 0  # its actors have the others


def priorities_of(name: str, until: Callable[[], bool]) -> set[tuple[int, int]]:
    """(scheduling policy, niceness) that processes of this name below this one had."""
    seen, limit = set(), time.monotonic() + 120
    while not until() and time.monotonic() < limit:
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error, OSError):
                if name in " ".join(child.cmdline()):
                    seen.add((os.sched_getscheduler(child.pid), child.nice()))
        time.sleep(0.05)
    return seen


@pytest.mark.slow
def test_a_task_of_ray_measures_beside_the_training(toy_run: Callable[..., Run], ray_head: None) -> None:
    """Its process is one of its own, of low priority, that ends with it; a task that dies is told."""
    run = toy_run("real", **{"probe.every": 6, "probe.samples": 4})
    weights = find_method("croco").build(run.experiment.method_config, BuildContext(seed=0)).state_dict()
    events: list[RunEvent] = []
    probes = TrainingProbes(run, events.append)
    probes.begin(plan_resources(1, 2, 0))
    probes.see(reach(run, 6, weights))
    probes.see(reach(run, 12, weights))
    assert events == [ProbesMissed(step=12, reason="the probes of step 6 were still running", late=True)]
    assert (os.SCHED_IDLE, 19) in priorities_of("ray::_task", until=lambda: not probes._thread.is_alive())
    probes._thread.join(500)
    assert isinstance(measured := events[-1], ProbesMeasured) and measured.step == 6 and measured.values["claim/psnr_true_view"] > 0

    again = TrainingProbes(toy_run("dies", **{"probe.every": 6}), events.append)
    again.begin(plan_resources(1, 2, 0))
    broken = reach(again.run, 6, {"w": torch.ones(2)})  # weights of another network
    again.see(broken)
    again._thread.join(500)
    assert isinstance(failed := events[-1], ProbesMissed) and not failed.late and "RuntimeError: Error(s) in loading" in failed.reason


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_kill_while_a_checkpoint_is_measured_loses_that_one_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In MLflow each step stands once, and the curve ends in the final value at the last step."""
    for name, rows in (("train", 120), ("val", 40)):
        write_images(tmp_path / name, rows, seed=len(name))
    settings = {**TOY_IMAGES["loca"], "probe": {"names": ["knn"], "during": ["knn"], "samples": 20}}
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(settings))
    home = tmp_path / "home"
    words = ["toy.yaml", f"data.train={tmp_path / 'train'}", f"data.val={tmp_path / 'val'}", "train.length=2500 steps"]
    words += ["train.checkpoint_every=100 steps", "train.validate_every=1000 steps", "probe.every=200", "optim.warmup=100 steps"]
    driver = start(home, "pretrain", *words, "--name", "killed")
    record, links = home / "runs/killed/probes.jsonl", home / "runs/killed/.probing"
    limit = time.monotonic() + 400
    while not (record.exists() and links.exists()):  # the second is being measured
        assert driver.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    os.killpg(driver.pid, signal.SIGKILL)
    before = [event for event in Run.read(home / "runs/killed").events() if isinstance(event, ProbesMeasured)]
    finish(start(home, "resume", "killed"))
    monkeypatch.setenv("SIGHTLINE_HOME", str(home))
    run = Run.open("killed")
    steps = [event.step for event in run.events() if isinstance(event, ProbesMeasured)]
    assert steps[: len(before)] == [event.step for event in before] and len(set(steps)) == len(steps) > len(before)
    assert not links.exists()

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow.db'}")
    for metric in ("probe/knn/accuracy", "claim/accuracy_own_reference"):
        history = client.get_metric_history(str(run.mlflow_run_id), metric)
        assert [point.step for point in history] == [*steps, 2500]
    assert "While it trained" in (run.folder / "report.html").read_text()
