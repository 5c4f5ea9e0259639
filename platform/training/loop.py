"""The training loop, one for every method. A plain function: a Ray Train worker calls it on each rank, a test or a sweep trial in-process.

It continues from the newest checkpoint that verifies, or begins at the first step. What it does from there is a function of the settings,
the data set and the step, so an attempt after a kill repeats exactly the steps that the lost one made.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from sightline.methods import collective
from sightline.methods.catalog import find_method
from sightline.methods.check import check_encoder
from sightline.methods.contract import BuildContext, Pretext
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints import remote
from sightline.platform.checkpoints.restore import RestorePoint, check_same, find
from sightline.platform.checkpoints.retention import Retention
from sightline.platform.checkpoints.uploader import Uploader
from sightline.platform.config import METHOD_SECTIONS, Experiment
from sightline.platform.core.device import choose_device
from sightline.platform.core.locks import TRAINING, exclusive_lock
from sightline.platform.data.loader.mixed_plan import MixedPlan
from sightline.platform.data.loader.stream import Microbatch
from sightline.platform.data.ray_source import ORDER, RaySource
from sightline.platform.runs.events import (
    BrokenSamples,
    DataNote,
    MemoryPeak,
    Post,
    RunEvent,
    Stop,
    StorageNote,
    TrainingEnded,
    TrainingStarted,
    WorkerStarted,
)
from sightline.platform.runs.pinned import load_initial

from .compile import compile_blocks
from .inputs import TrainInputs
from .job import TrainJob
from .memory import peak_of_process
from .meters import SystemMeter
from .mixture import SetMeter
from .precision import allow_tf32, run_precision
from .prefetch import prefetched
from .recompute import checkpoint_activations
from .report import StepReporter, report_nonfinite
from .saving import CheckpointSaver, Publish
from .step import Phases, Stepper
from .validation import Validator

LOCK_TIMEOUT_SECONDS = 120.0
"""For another process to end its training of the run. Workers of a killed driver write for some seconds more, and NFS 4 frees the locks
of a dead machine after 90 seconds."""


def train(job: TrainJob, post: Post, stop: Stop, publish: Publish | None = None, wait: bool = False) -> None:
    """Train from the newest checkpoint to the end, to an early end that `stop` asks for, or to the first loss that is not finite.

    `post` gets the events of `runs/events.py`: from rank 0 alone, unless an event says otherwise. `publish`: told of checkpoints that are
    whole, by all ranks or none. `wait`: for each checkpoint, before the next step, for a caller that acts on it. Raises `SightlineError`
    where another process trains the run for longer than `LOCK_TIMEOUT_SECONDS`.
    """
    torch.set_num_threads(job.threads)
    with _lock(job.folder) if collective.rank() == 0 else contextlib.nullcontext():
        _train(job, post, stop, publish, wait)


def _lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """For the process that writes checkpoints and record."""
    hint = "wait for it, or stop it (Ctrl-C, or `kill` with its process id), and then go on with `sightline resume`"
    return exclusive_lock(folder / TRAINING, f"run {folder.name} is being trained", hint, LOCK_TIMEOUT_SECONDS)


def _train(job: TrainJob, post: Post, stop: Stop, publish: Publish | None, wait: bool) -> None:
    experiment = job.experiment
    device = choose_device(experiment.train.device, required=True)
    inputs = TrainInputs.open(job)
    post_once = post if collective.rank() == 0 else _ignore

    def say(text: str) -> None:
        post(StorageNote(text))

    storage = remote.Storage.of(experiment, job.folder)
    retention = Retention.of(experiment, inputs.clock)
    uploader = Uploader(storage, retention) if storage and collective.rank() == 0 else None
    found = find(job.checkpoints, storage, uploader, say, device)
    if found:
        check_same(found.state, experiment, inputs.dataset.fingerprint)
    if isinstance(inputs.dataset, RaySource):
        again = f"; at step {found.state.step} it begins anew" if found else ""
        post_once(DataNote(f"{inputs.dataset.name}: {ORDER}{again}"))
    first, history = (found.state.step, found.state.history) if found else (0, "")
    stream = prefetched(iter(inputs.stream(first)), device)
    with ThreadPoolExecutor(1, "sightline-first-step") as beside:  # the data workers start while this process imports and builds
        begun = beside.submit(lambda: next(stream) if first < inputs.clock.steps else [])
        pretext = _pretext(inputs, found, device)
        import_module("torch._dynamo")  # for a second; optimiser and DDP would import it afterwards
        microbatches = begun.result()
    stepper = _stepper(inputs, pretext, found, microbatches, device)
    _announce(post, post_once, stepper, first)
    if microbatches:
        stepper.warm_up_ddp(microbatches)
        system = SystemMeter(job.folder, device) if collective.rank() == 0 and experiment.log.system_metrics else None
        sets = SetMeter(inputs.plan, device) if isinstance(inputs.plan, MixedPlan) else None
        reporter = StepReporter(
            post_once, first, history, experiment.batch.size, stepper.phases, device, system, inputs.dataset.promises_order, sets
        )
        saver = CheckpointSaver(inputs, stepper, post_once, uploader, retention, publish)
        try:
            validator = Validator(inputs, stepper, post_once, first)
            _Steps(inputs, stepper, reporter, validator, saver, post, stop, wait).run(first, microbatches, stream)
        finally:
            saver.close()
    else:
        post_once(TrainingEnded(first, history, stopped=False))
    if uploader:
        uploader.finish()
        for text in uploader.news():
            say(text)


def _ignore(event: RunEvent) -> None:
    pass


def _pretext(inputs: TrainInputs, found: RestorePoint | None, device: torch.device) -> Pretext:
    """With the weights of the checkpoint `found`, else those that the run begins with."""
    experiment, folder = inputs.job.experiment, inputs.job.folder
    pretext = find_method(experiment.method).build(experiment.method_config, BuildContext(seed=experiment.train.seed))
    if collective.rank() == 0:
        check_encoder(pretext.encoder())  # before the training, not after it
    pretext.to(device).train()
    if found:
        pretext.load_state_dict(found.tensors("model"))
    elif experiment.train.init is not None:
        load_initial(pretext, experiment, folder)
    if experiment.train.checkpoint_activations:
        checkpoint_activations(pretext)
    return pretext


def _stepper(
    inputs: TrainInputs, pretext: Pretext, found: RestorePoint | None, microbatches: list[Microbatch], device: torch.device
) -> Stepper:
    """With optimiser and precision of the checkpoint `found`, else those that the run begins with."""
    experiment, folder = inputs.job.experiment, inputs.job.folder
    weights = {name: float(weight) for name, weight in experiment.method_config.loss.model_dump().items()}
    wanted = found.state.precision if found else experiment.train.precision
    columns = microbatches[0].arrays if microbatches else {}
    what = {"method": experiment.method, **{name: experiment.sections()[name] for name in METHOD_SECTIONS}}
    precision = run_precision(wanted, folder, what, pretext, columns, weights, device)
    allow_tf32(precision == "tf32")
    several = isinstance(inputs.plan, MixedPlan)
    stepper = Stepper(pretext, experiment.optim, inputs.clock, weights, experiment.train.seed, precision, device, Phases(), several)
    if found:
        checkpoint.restore_optimizer(stepper.optimizer, stepper.names, found.tensors("optimizer"))
    if experiment.train.compile:
        compile_blocks(pretext)
    return stepper


def _announce(post: Post, post_once: Post, stepper: Stepper, first: int) -> None:
    post(WorkerStarted(collective.rank(), os.getpid(), socket.gethostname()))
    post_once(
        TrainingStarted(
            device=stepper.device.type,
            precision=stepper.precision,
            parameters=sum(parameter.numel() for parameter in stepper.pretext.parameters()),
            first_step=first,
            steps=stepper.clock.steps,
            workers=collective.world_size(),
        )
    )


@dataclass(frozen=True)
class _Every:
    """In steps, how often something is done."""

    report: int
    validate: int
    save: int
    agree: int
    """All ranks learn what rank 0 knows, such as that the driver asks for an end: at every step where that costs nothing, else at every
    report."""

    @classmethod
    def of(cls, experiment: Experiment, inputs: TrainInputs, device: torch.device) -> _Every:
        train, report = experiment.train, experiment.log.every
        validate, save = (max(1, round(inputs.clock.in_steps(length))) for length in (train.validate_every, train.checkpoint_every))
        return cls(report, validate, save, agree=1 if device.type == "cpu" else report)


@dataclass(frozen=True)
class _Steps:
    """The steps of one attempt on this rank."""

    inputs: TrainInputs
    stepper: Stepper
    reporter: StepReporter
    validator: Validator
    saver: CheckpointSaver
    post: Post
    stop: Stop
    wait: bool
    """For each checkpoint."""

    def run(self, first: int, microbatches: list[Microbatch], stream: Iterator[list[Microbatch]]) -> None:
        """Train from step `first`, whose microbatches are given; those of later steps come from `stream`."""
        every, last = _Every.of(self.inputs.job.experiment, self.inputs, self.stepper.device), self.inputs.clock.steps
        step, stopping = first, False
        if first == 0:
            metrics = self.validator.measure(0, microbatches[0].arrays)
            self.saver.is_best(metrics)  # tells before the first step that train.keep_best names nothing that is measured
        while step < last and not stopping:
            if not self._step(step, microbatches):
                break
            step += 1
            if step % every.agree == 0:
                agreed = self.saver.agree(collective.rank() == 0 and self.stop())
                stopping = agreed.stop
                if agreed.failed:
                    break
            ending = step == last or stopping
            milestone = self.saver.retention.is_milestone(step)
            saving = ending or step % every.save == 0 or milestone
            validating = step % every.validate == 0 or step == last or milestone  # a milestone is ranked by what it measured
            if step % every.report == 0 or saving or (validating and self.saver.retention.best):
                self._report()
            metrics = self.validator.measure(step, microbatches[0].arrays) if validating else {}
            saving |= validating and self.saver.is_best(metrics)
            if saving and not self.saver.save(step, self.reporter.history, metrics, self.reporter.latest, self.wait or ending):
                break
            if not ending:
                with self.stepper.phases("data_wait"):
                    microbatches = next(stream)
        else:
            self.saver.agree(stop=False, ending=True)
            self.post(MemoryPeak(collective.rank(), peak_of_process()))
            if collective.rank() == 0:
                self.post(TrainingEnded(step, self.reporter.history, stopped=step < last))
        stream.close()  # type: ignore[attr-defined]  # a generator: this stops the pipeline behind it

    def _step(self, step: int, microbatches: list[Microbatch]) -> bool:
        """Whether the loss was finite."""
        result = self.stepper.step(step, microbatches)
        if not result.finite:
            self._report()
            report_nonfinite(self.post, step, microbatches, result)
            return False
        self.reporter.add(result, microbatches)
        if broken := [reason for microbatch in microbatches for reason in microbatch.broken]:
            self.post(BrokenSamples(step, broken))
        return True

    def _report(self) -> None:
        if self.saver.uploader:
            for text in self.saver.uploader.news():
                self.post(StorageNote(text))
        self.reporter.report()
