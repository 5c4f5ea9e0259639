"""The one training loop, for every method. A plain function: a Ray Train worker calls it on each rank, a test or a sweep trial in-process.

It finds its own place: the newest checkpoint that verifies, else the beginning. What it does from there on is a function of the
settings, the data set and the step, so an attempt that follows a kill repeats exactly what the lost one did.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sightline.methods import collective
from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import MachineError, SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.checkpoints import remote
from sightline.platform.checkpoints.restore import RestorePoint, check_same, find
from sightline.platform.checkpoints.uploader import Uploader
from sightline.platform.core.locks import TRAINING, alone
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.cache import Cache
from sightline.platform.data.loader.plan import PLAN_VERSION, Plan
from sightline.platform.data.loader.stream import Microbatch, Stream, StreamResources
from sightline.platform.runs.events import Post, Stop
from sightline.platform.runs.pinned import load_initial

from .meters import SystemMeter
from .precision import choose_precision
from .stage import stage_maker
from .step import Phases, Stepper, StepResult, tensors
from .validation import Validation, alarms, measure_health

PATIENCE = 120.0
"""Seconds that another process has to end its training of the run: the workers of a killed driver write for some seconds more, and NFS 4
frees the locks of a dead machine after 90."""


@dataclass(frozen=True)
class Job:
    """One run as a worker sees it: values only, so that it travels as it is."""

    recipe: str
    settings: dict[str, Any]
    folder: str
    """The run's folder, as this process has it."""
    fingerprint: str
    """Of the training data that the run began with."""
    stream: StreamResources | None = None
    """Logical CPUs of each rank's pipeline; None: no Ray, one worker in this process."""
    threads: int = 1
    teacher_cache: str | None = None
    """The finished cache of the experiment's `teacher_cache.variants`; None: views and stage are made as they are needed."""
    token: str = ""
    """By which a worker knows whether it sees the driver's folder (`nodes.py`)."""

    @property
    def experiment(self) -> config.Experiment:
        return config.load(self.recipe, settings=self.settings)

    @property
    def checkpoints(self) -> Path:
        return Path(self.folder) / "checkpoints"


def train(job: Job, post: Post, stop: Stop) -> None:
    """Train from the newest checkpoint to the end, or to an early end that `stop` asks for, or to the first loss that is not finite.

    `post` is called with the events of `events.py`, by rank 0 alone unless an event says otherwise. Raises `SightlineError` where another
    process trains the run for longer than `PATIENCE`.
    """
    torch.set_num_threads(job.threads)
    with _alone(job) if collective.rank() == 0 else contextlib.nullcontext():
        _Loop(job, post, stop).run()


def _alone(job: Job) -> contextlib.AbstractContextManager[None]:
    """By the process that writes checkpoints and record."""
    folder = Path(job.folder)
    hint = "wait for it, or stop it (Ctrl-C, or `kill` with its process id), and then go on with `sightline resume`"
    return alone(folder / TRAINING, f"run {folder.name} is being trained", hint, PATIENCE)


@dataclass
class _Log:
    """What has happened since the last report; gathered from all ranks together, so that most steps talk to nobody."""

    first: int
    results: list[StepResult] = field(default_factory=list)
    digests: list[list[int]] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)


class _Loop:
    def __init__(self, job: Job, post: Post, stop: Stop) -> None:
        self.job, self.experiment = job, job.experiment
        self.lead = collective.rank() == 0
        self.post = post if self.lead else lambda event: None
        self.post_from_any_rank, self.stop = post, stop
        settings = self.experiment
        self.device = _device(settings.train.device)
        self.method = find_method(settings.method)
        self.dataset = Dataset.open(_given(settings.data.train, "data.train"))
        self.plan = Plan(
            tuple(self.dataset.row_groups), settings.train.seed, settings.batch.size, settings.batch.microbatch, settings.data.block
        )
        self.clock = settings.clock(self.dataset.rows)
        self.views = self.method.views(settings.method_config)
        self.make_stage = stage_maker(settings, Path(job.folder))
        share = settings.batch.microbatches // collective.world_size()
        self.slots = range(collective.rank() * share, (collective.rank() + 1) * share)
        self.cache = self._cache()
        self.weights = {name: float(weight) for name, weight in settings.method_config.loss.model_dump().items()}
        self.phases = Phases()
        self.validation: Validation | None = None
        self.storage = remote.Storage.of(settings, Path(job.folder))
        self.uploads = Uploader(self.storage, settings.train.keep) if self.storage and self.lead else None
        self.system = SystemMeter(job.folder, self.device) if self.lead and settings.log.system_metrics else None

    def run(self) -> None:
        experiment, found = self.experiment, self._found()
        pretext = self.method.build(experiment.method_config, BuildContext(seed=experiment.train.seed)).to(self.device).train()
        if found:
            pretext.load_state_dict(found.tensors("model"))
        elif experiment.train.init is not None:
            load_initial(pretext, experiment, Path(self.job.folder))
        first = found.state.step if found else 0
        self.history = found.state.history if found else ""
        stream = iter(self._stream(first))
        microbatches = next(stream) if first < self.clock.steps else []
        self.precision = self._precision(pretext, microbatches, found)
        self.stepper = Stepper(
            pretext, experiment.optim, self.clock, self.weights, experiment.train.seed, self.precision, self.device, self.phases
        )
        if found:
            checkpoint.restore_optimizer(self.stepper.optimizer, self.stepper.names, found.tensors("optimizer"))
        if experiment.train.compile:
            pretext.compile()
        parameters = sum(p.numel() for p in pretext.parameters())
        self.post_from_any_rank({"kind": "worker", "rank": collective.rank(), "pid": os.getpid(), "host": socket.gethostname()})
        self.post(
            {
                "kind": "start",
                "device": self.device.type,
                "precision": self.precision,
                "parameters": parameters,
                "first_step": first,
                "steps": self.clock.steps,
                "workers": collective.world_size(),
            }
        )
        if microbatches:
            self.stepper.warm_up_ddp(microbatches)
            self._steps(pretext, first, microbatches, stream)
        else:
            self.post({"kind": "end", "step": first, "history": self.history, "stopped": False})
        if self.uploads:
            self.uploads.finish()
            self._tell_uploads()

    def _steps(self, pretext: Any, first: int, microbatches: list[Microbatch], stream: Iterator[list[Microbatch]]) -> None:
        train, every, last = self.experiment.train, self.experiment.log.every, self.clock.steps
        validate = max(1, round(self.clock.in_steps(train.validate_every)))
        save = max(1, round(self.clock.in_steps(train.checkpoint_every)))
        # A stop is agreed on by all ranks together: at every step where that costs nothing, else at every report.
        agree = 1 if self.device.type == "cpu" else every
        log, stopping, step = _Log(first), False, first
        if first == 0:
            self._validate(pretext, 0, microbatches)
        while step < last and not stopping:
            result = self.stepper.step(step, microbatches)
            if not result.finite:
                self._report(log)
                self._report_nonfinite(step, microbatches, result)
                break
            log.results.append(result)
            log.digests.append([microbatch.digest for microbatch in microbatches])
            if broken := [reason for microbatch in microbatches for reason in microbatch.broken]:
                self.post_from_any_rank({"kind": "broken", "step": step, "reasons": broken})
            step += 1
            if step % agree == 0:
                stopping = self._agree(self.lead and self.stop())
            if step % every == 0 or step == last or step % save == 0 or stopping:
                log = self._report(log)
            if step % validate == 0 or step == last:
                self._validate(pretext, step, microbatches)
            if (step % save == 0 or step == last or stopping) and not self._save(pretext, step):
                break
            if step < last and not stopping:
                with self.phases("data_wait"):
                    microbatches = next(stream)
        else:
            self.post({"kind": "end", "step": step, "history": self.history, "stopped": step < last})
        stream.close()  # type: ignore[attr-defined]  # a generator: stops the pipeline behind it

    def _stream(self, first: int) -> Stream:
        settings = self.experiment
        return Stream(
            self.dataset,
            self.views,
            self.plan,
            self.slots,
            first,
            self.clock.steps,
            settings.train.seed,
            self.job.stream,
            settings.data.max_broken,
            self.make_stage,
            settings.teacher_cache.variants,
            self.cache,
        )

    def _cache(self) -> Cache | None:
        if self.job.teacher_cache is None:
            return None
        cache = Cache.find(self.job.teacher_cache, tuple(self.dataset.row_groups))
        if cache is None:
            raise SightlineError(f"there is no finished cache in {self.job.teacher_cache}", "`sightline resume` makes it anew")
        return cache

    def _found(self) -> RestorePoint | None:
        """A resume goes on with the same data, plan and settings, or not at all."""
        if self.dataset.fingerprint != self.job.fingerprint:
            raise SightlineError(
                f"the data set {self.experiment.data.train} is not the one this run began with "
                f"(fingerprint {self.dataset.fingerprint[:12]}, not {self.job.fingerprint[:12]})",
                "point the run at the original data, or start a new run",
            )
        found = find(self.job.checkpoints, self.storage, self.uploads, self._tell, self.device)
        if found:
            check_same(found.state, self.experiment, self.dataset.fingerprint)
        return found

    def _tell(self, text: str) -> None:
        self.post_from_any_rank({"kind": "storage", "text": text})

    def _tell_uploads(self) -> None:
        for text in self.uploads.news() if self.uploads else ():
            self._tell(text)

    def _precision(self, pretext: Any, microbatches: list[Microbatch], found: RestorePoint | None) -> str:
        """Decided once for a run: what the checkpoint says, else the settings, else a measurement that rank 0 makes and notes."""
        wanted = found.state.precision if found else self.experiment.train.precision
        if wanted != "auto":
            return wanted
        note = Path(self.job.folder) / "precision.json"
        names = ("fp32", "bf16")
        choice = torch.zeros(1, dtype=torch.int64, device=self.device)
        if self.lead:
            if note.exists():
                chosen = json.loads(note.read_text())["precision"]
            else:
                chosen, seconds = choose_precision(pretext, tensors(microbatches[0].arrays, self.device), self.weights, self.device)
                part = note.with_suffix(".part")
                part.write_text(json.dumps({"precision": chosen, "seconds": seconds}))
                part.replace(note)
            choice += names.index(chosen)
        return names[int(collective.broadcast(choice))]

    def _agree(self, flag: bool) -> bool:
        return bool(collective.broadcast(torch.tensor([int(flag)], device=self.device)))

    def _report(self, log: _Log) -> _Log:
        """Gather what the ranks saw, chain the history, tell the driver."""
        self._tell_uploads()
        steps = len(log.results)
        if steps:
            names = list(log.results[0].losses)
            mine = torch.stack([torch.stack([r.losses[name] for r in log.results]) for name in names])  # terms x steps x microbatches
            losses = torch.cat(collective.gather(mine), dim=2).double().mean(dim=2).cpu()
            digests = torch.cat(collective.gather(torch.tensor(log.digests, dtype=torch.int64, device=self.device)), dim=1).cpu()
            for row in digests.tolist():
                self.history = hashlib.sha256(self.history.encode() + struct.pack(f"<{len(row)}q", *row)).hexdigest()
            self.post(
                {
                    "kind": "steps",
                    "first": log.first,
                    "losses": {name: losses[i].tolist() for i, name in enumerate(names)},
                    "lr": [r.lr for r in log.results],
                    "grad_norm": [r.grad_norm for r in log.results],
                    "seconds": time.perf_counter() - log.start,
                    "phases": self.phases.take(),
                    "samples": steps * self.plan.batch,
                    **({"system": self.system.read()} if self.system else {}),
                }
            )
        return _Log(log.first + steps)

    def _report_nonfinite(self, step: int, microbatches: list[Microbatch], result: StepResult) -> None:
        """Every rank names the samples of its own microbatches whose loss is not finite; the update was not applied."""
        bad = (~torch.isfinite(result.losses["loss"])).tolist()
        ids = [name for microbatch, wrong in zip(microbatches, bad, strict=True) if wrong for name in microbatch.ids]
        if ids or self.lead:
            self.post_from_any_rank({"kind": "nonfinite", "step": step, "ids": ids})

    def _validate(self, pretext: Any, step: int, microbatches: list[Microbatch]) -> None:
        """The validation curve, and on rank 0 the health of the representation: on validation data, else on the step's own."""
        losses: dict[str, float] = {}
        columns = microbatches[0].arrays
        with self.phases("validation"):
            if self.experiment.data.val is not None:
                if self.validation is None:
                    self.validation = Validation.load(
                        self.experiment, self.views, self.device, self.make_stage() if self.make_stage else None
                    )
                losses = self.validation.measure(pretext, self.weights, self.stepper.autocast())
                columns = self.validation.microbatches[0][1] if self.validation.microbatches else columns
        if losses:
            self.post({"kind": "validation", "step": step, "losses": losses})
        if not self.lead:
            return
        with self.phases("health"):
            health = measure_health(pretext, columns, self.experiment.train.seed, self.device)
        if health:
            # Random weights look collapsed by nature: only what training made is judged.
            warnings = alarms(health, self.method.alarms, step / self.clock.steps) if step else []
            self.post({"kind": "health", "step": step, "figures": health, "warnings": warnings})

    def _save(self, pretext: Any, step: int) -> bool:
        """Rank 0 writes, all learn whether it went well."""
        failed = 0
        with self.phases("checkpoint"):
            if self.lead:
                start = time.perf_counter()
                train = self.experiment.train
                state = checkpoint.TrainState(
                    step=step,
                    samples=step * self.plan.batch,
                    seed=train.seed,
                    plan_version=PLAN_VERSION,
                    fingerprint=self.dataset.fingerprint,
                    settings=config.settings_hash(self.experiment),
                    precision=self.precision,
                    history=self.history,
                    settings_version=config.SETTINGS_VERSION,
                )
                optimizer = checkpoint.optimizer_tensors(self.stepper.optimizer, self.stepper.names)
                try:
                    path = checkpoint.write(
                        self.job.checkpoints, state, {"model": pretext.state_dict(), "optimizer": optimizer}, train.keep
                    )
                    self.post({"kind": "checkpoint", "step": step, "path": str(path), "seconds": time.perf_counter() - start})
                    if self.uploads:
                        self.uploads.begin()
                except SightlineError as error:
                    failed = 1
                    self.post({"kind": "failed", "what": str(error), "hint": error.hint, "machine": isinstance(error, MachineError)})
            return not self._agree(bool(failed))


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SightlineError("train.device = cuda, but this worker sees no GPU", "use train.device=auto, or start workers with a GPU")
    return torch.device("cuda", torch.cuda.current_device()) if wanted != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def _given(value: str | None, name: str) -> str:
    if value is None:
        raise SightlineError(f"{name} is not set", f"give a data set: {name}=FOLDER")
    return value
