"""The settings of an experiment, as typed and validated values. One key scheme from YAML to code to MLflow.

A method owns the sections `model, pretext, loss, augment`; the platform owns `data, teacher_cache, batch, optim, train, probe, log`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from sightline.methods.catalog import find_method
from sightline.methods.contract import MethodConfig
from sightline.methods.optim import Clock, OptimConfig
from sightline.methods.settings import Duration, Length, Renamed, Settings, nearest
from sightline.platform.core.plugins import PROBES, plugins, probe_points
from sightline.platform.core.redaction import redact, redacted

from .location import Mixture, as_text, mixture_as_text, parse

METHOD_SECTIONS = tuple(MethodConfig.model_fields)
LABEL = re.compile(r"([a-zA-Z0-9.-]+/)?[a-zA-Z0-9]([\w.-]{0,61}[a-zA-Z0-9])?")
LABEL_VALUE = re.compile(r"!?(in\([\w.-]+(, ?[\w.-]+)*\)|[\w.-]+)")
"""What Ray takes in a label selector."""


class DataConfig(Settings):
    train: Annotated[str | None, BeforeValidator(mixture_as_text)] = Field(
        default=None,
        description="data to learn from: a folder made by `sightline prepare` or its URI, several with weights, '[FOLDER: 3, OTHER: 1]', "
        "or what Ray Data reads: ray:MODULE:FUNCTION, parquet:PLACE, images:PLACE, webdataset:PLACE",
    )
    val: Annotated[str | None, BeforeValidator(as_text)] = Field(
        default=None,
        description="data for the validation curve, pictures and probes: a prepared data set, or what Ray Data reads, kept as one",
    )
    fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of data.train that is learned from, of each class the same; a larger one holds a smaller",
    )
    fraction_seed: int = Field(default=0, ge=0, description="which rows those are; train.seed changes nothing of it")
    block: int = Field(default=256, ge=1, description="rows that are read, shuffled and decoded together")
    max_broken: float = Field(default=0.05, ge=0, le=1, description="share of broken samples at which a run stops")


class TeacherCacheConfig(Settings):
    variants: int = Field(
        default=0, ge=0, le=1000, description="fixed draws of each sample, made once and kept; 0: new draws at every visit"
    )
    folder: str | None = Field(default=None, description="where caches lie, each under its key; default: $SIGHTLINE_HOME/teacher-cache")


class BatchConfig(Settings):
    size: int = Field(default=256, ge=1, description="samples in one optimiser step, over all workers")
    microbatch: Annotated[int, Renamed("group", since=2)] = Field(
        default=64, ge=1, description="samples in one forward; the papers' batch per GPU. Fixed for a run"
    )

    @model_validator(mode="after")
    def _divides(self) -> BatchConfig:
        if self.size % self.microbatch:
            raise ValueError(f"batch.size = {self.size} is no multiple of batch.microbatch = {self.microbatch}")
        return self

    @property
    def microbatches(self) -> int:
        """Microbatches in one optimiser step."""
        return self.size // self.microbatch


class BestBy(BaseModel):
    """A metric by which checkpoints compare, written `val/loss`, or with what is better: `health/effective_rank higher`."""

    model_config = ConfigDict(frozen=True)
    metric: str
    """As MLflow has it."""
    better: Literal["lower", "higher"] | None = None

    @classmethod
    def parse(cls, value: object) -> BestBy:
        if isinstance(value, BestBy):
            return value
        match = re.fullmatch(r"\s*((?:val|health|probe)/[^\s]+)(?:\s+(lower|higher))?\s*", str(value))
        if not match:
            raise ValueError(f"{value!r} is no metric of a run; write for example 'val/loss', or 'val/accuracy higher'")
        return cls(metric=match[1], better=match[2])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.metric} {self.better}" if self.better else self.metric


class TrainConfig(Settings):
    init: str | None = Field(default=None, description="weights to begin from: a run, a file, or models:/NAME@alias; short form init=")
    length: Length = Field(default=Duration(amount=100, unit="epochs"), description="end of training: steps, epochs or samples")
    workers: int = Field(default=1, ge=1, description="data-parallel workers; must divide batch.size / batch.microbatch")
    accelerator_type: str | None = Field(
        default=None, pattern=r"^[\w.-]+$", description="GPU model that each worker needs, in Ray's words: A100, H100, L4, ..."
    )
    gpus_per_worker: float = Field(
        default=1.0, gt=0, le=1, description="share of a GPU that a worker takes, where it has one: 0.5 lets two trials of a sweep share it"
    )
    resources: dict[str, float] = Field(default={}, description="custom resources of Ray that each worker takes: '{fast_disk: 1}'")
    labels: dict[str, str] = Field(
        default={}, description='labels of the nodes for workers, as Ray selects them: \'{market-type: "!spot", zone: "in(a, b)"}\''
    )
    least_workers: int | None = Field(default=None, ge=1, description="elastic: with how few to go on while nodes are missing")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16"] = Field(
        default="auto", description="auto measures at the start what pays on the machine; tf32: fp32 with TF32 products on GPUs"
    )
    threads: int | None = Field(default=None, ge=1, description="torch threads a worker; default: the machine's cores over its workers")
    actors: int | None = Field(default=None, ge=1, description="actors of a frozen teacher for each worker; default: as `--dry-run` says")
    compile: bool = Field(default=False, description="torch.compile of the transformer blocks: pays on GPUs")
    checkpoint_activations: bool = Field(
        default=False, description="compute each block's activations again in the backward pass: less memory, a third more time"
    )
    seed: int = Field(default=0, ge=0)
    validate_every: Length = Field(default=Duration(amount=5, unit="epochs"))
    validate_samples: int = Field(default=256, ge=1)
    checkpoint_every: Length = Field(default=Duration(amount=1, unit="epochs"))
    keep: int = Field(default=2, ge=1, description="newest checkpoints that are kept")
    keep_every: Length | None = Field(default=None, description="between two milestones: checkpoints that stay, besides the newest")
    keep_best: Annotated[BestBy, BeforeValidator(BestBy.parse), PlainSerializer(str)] | None = Field(
        default=None, description="metric by which the best checkpoint stays, besides the newest: val/loss, or 'val/NAME higher'"
    )
    max_failures: int = Field(default=3, ge=0, description="restarts after the death of a worker")
    stall_timeout: float = Field(default=1800, gt=0, description="seconds in which no worker moves, after which those that hang are ended")
    storage: str | None = Field(default=None, description="folder or URI where checkpoints are also put, for nodes that share no folder")

    @field_validator("resources")
    @classmethod
    def _custom(cls, value: dict[str, float]) -> dict[str, float]:
        for name, amount in value.items():
            if name.upper() in ("CPU", "GPU", "MEMORY", "OBJECT_STORE_MEMORY") or ":" in name or not name.strip():
                raise ValueError(f"{name!r} is no custom resource; CPUs and GPUs are planned, and GPU models are train.accelerator_type")
            if not amount >= 0.0001 or (amount > 1 and amount % 1):
                raise ValueError(f"{name}: {amount:g} is no amount of a resource; give a whole number, or a share between 0.0001 and 1")
        return value

    @field_validator("labels")
    @classmethod
    def _selectable(cls, value: dict[str, str]) -> dict[str, str]:
        for label, wanted in value.items():
            if not LABEL.fullmatch(label) or not LABEL_VALUE.fullmatch(wanted):
                raise ValueError(f"{label}: {wanted!r} selects no label; write a value, !value, in(one, other) or !in(one, other)")
        return value

    @model_validator(mode="after")
    def _workers_of_a_run_share_no_gpu(self) -> TrainConfig:
        if self.workers > 1 and self.gpus_per_worker <= 0.5:
            raise ValueError(
                f"train.gpus_per_worker = {self.gpus_per_worker:g} would put two of the {self.workers} workers on one GPU, "
                "between which NCCL does not work: use more than 0.5, or train.workers=1"
            )
        return self

    @model_validator(mode="after")
    def _gpu_model_needs_gpus(self) -> TrainConfig:
        if self.accelerator_type and self.device == "cpu":
            raise ValueError("train.accelerator_type names a GPU, and train.device is cpu: leave one of them out")
        return self

    @field_validator("length", "checkpoint_every", "validate_every", "keep_every")
    @classmethod
    def _positive(cls, value: Length | None) -> Length | None:
        if value and value.amount <= 0:
            raise ValueError("must be more than 0")
        return value


class ProbeConfig(Settings):
    names: tuple[str, ...] = Field(
        default_factory=lambda: tuple(plugins(PROBES)), description="probes at the end of training, where the data allow them"
    )
    train: tuple[str, ...] = Field(default=(), description="data sets that train probe heads; default: data.train")
    test: tuple[str, ...] = Field(default=(), description="those that test them, in the same order; default: data.val")
    samples: int = Field(default=1000, ge=1, description="most samples for control metrics")
    every: Length | None = Field(default=None, description="how often checkpoints are probed during training; null or 0: never")
    during: tuple[str, ...] = Field(
        default=("knn", "linear", "shape_knn", "shape_svm"), description="probes during training, where the data allow them"
    )

    @field_validator("every")
    @classmethod
    def _never(cls, value: Length | None) -> Length | None:
        return value if value and value.amount else None

    @field_validator("names", "during")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in probe_points():
                raise ValueError(f"there is no probe {name!r}: {nearest(name, list(probe_points()))}")
        return value

    @field_validator("train", "test", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        several = () if value is None else (value,) if isinstance(value, str | Mapping) else value
        return [as_text(one) for one in several] if isinstance(several, list | tuple) else several

    @model_validator(mode="after")
    def _in_pairs(self) -> ProbeConfig:
        if len(self.train or ("",)) != len(self.test or ("",)):
            raise ValueError(f"{len(self.train)} data sets in probe.train and {len(self.test)} in probe.test: they go in pairs")
        return self


class LogConfig(Settings):
    every: int = Field(default=10, ge=1, description="steps between reports")
    experiment: str = "sightline"
    tracking_uri: str | None = Field(default=None, description="MLflow server; default: SQLite under $SIGHTLINE_HOME")
    tags: dict[str, str] = Field(default={}, description="tags of the MLflow run, besides Sightline's own")
    on_tracking_error: Literal["stop", "continue"] = Field(
        default="stop", description="where MLflow refuses the record for good: stop before training, or train and tell it at the end"
    )
    system_metrics: bool = Field(default=False, description="CPU, memory, disk, network and GPU at each report")
    register_as: str | None = Field(default=None, description="name in the model registry; default: <method>-encoder", alias="register")

    model_config = ConfigDict(populate_by_name=True)


PLATFORM_SECTIONS: dict[str, type[Settings]] = {
    "data": DataConfig,
    "teacher_cache": TeacherCacheConfig,
    "batch": BatchConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "probe": ProbeConfig,
    "log": LogConfig,
}


class Experiment(Settings):
    """A whole, valid set of settings."""

    recipe: str
    method: str
    method_config: MethodConfig = Field(description="the method's own sections: model, pretext, loss, augment")
    data: DataConfig
    teacher_cache: TeacherCacheConfig
    batch: BatchConfig
    optim: OptimConfig
    train: TrainConfig
    probe: ProbeConfig
    log: LogConfig

    def with_workers(self, count: int) -> Experiment:
        """The same on another number of workers."""
        return self.model_copy(update={"train": self.train.model_copy(update={"workers": count})})

    @property
    def has_teachers(self) -> bool:
        """Whether the run needs encoders besides its own."""
        return bool(find_method(self.method).teachers(self.method_config))

    @property
    def has_stage(self) -> bool:
        """Whether teachers run between views and training."""
        return find_method(self.method).stage is not None and self.has_teachers

    def lengthened(self, factor: int) -> dict[str, str]:
        """The overrides that make the run `factor` times as long, its schedules in proportion."""
        lengths = {"train.length": self.train.length, "optim.warmup": self.optim.warmup, "optim.decay": self.optim.decay}
        return {
            key: str(Duration(amount=length.amount * factor, unit=length.unit))
            for key, length in lengths.items()
            if length and length.amount
        }

    @property
    def in_epochs(self) -> list[str]:
        """The settings that count epochs, with their values."""
        lengths = {"train": self.train, "optim": self.optim, "probe": self.probe}
        return [
            f"{section}.{key}='{length}'"
            for section, settings in lengths.items()
            for key, length in settings
            if isinstance(length, Duration) and length.unit == "epochs" and length.amount
        ]

    def clock(self, samples: int) -> Clock:
        """The run's clock for a data set of `samples` rows."""
        clock = Clock(steps=0, batch_size=self.batch.size, samples=samples)
        return Clock(steps=max(1, round(clock.in_steps(self.train.length))), batch_size=self.batch.size, samples=samples)

    @property
    def probe_data(self) -> list[tuple[str, str]]:
        """(training, test) data sets of the probes, of which each takes the first that has what it needs."""
        learned = parse(self.data.train) if self.data.train else None
        if isinstance(learned, Mixture) and not self.probe.train:
            one = self.probe.test[0] if self.probe.test else self.data.val
            return [(place, one) for place in learned.places if one]
        train, test = self.probe.train or (self.data.train,), self.probe.test or (self.data.val,)
        return [(one, other) for one, other in zip(train, test, strict=True) if one and other and parse(one).prepared]

    def sections(self) -> dict[str, Any]:
        """Plain values as a recipe holds them; `load` of this gives an equal experiment."""
        platform = {name: getattr(self, name).model_dump(mode="json", by_alias=True) for name in PLATFORM_SECTIONS}
        return {"method": self.method, **self.method_config.model_dump(mode="json"), **platform}

    def flat(self) -> dict[str, Any]:
        """`section.key` -> value, for MLflow and reports: without passwords."""
        out: dict[str, Any] = {"recipe": self.recipe, "method": self.method}
        for section, values in self.sections().items():
            if isinstance(values, dict):
                out.update({f"{section}.{key}": value for key, value in values.items()})
        return dict(redacted(out))

    def to_yaml(self) -> str:
        """The settings as they are shown: without passwords."""
        return str(yaml.safe_dump(redacted(self.sections()), sort_keys=False))


def without_password(experiment: Experiment) -> Experiment:
    """The experiment as it is recorded: the tracking address is kept beside it. That of data may hold a password, which workers need."""
    uri = experiment.log.tracking_uri
    return experiment.model_copy(update={"log": experiment.log.model_copy(update={"tracking_uri": uri and redact(uri)})})
