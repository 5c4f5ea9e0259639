"""Data sets as MLflow knows them: inputs of a run, with schema and profile, and a source that `mlflow.data.get_source` opens again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sightline.methods.catalog import find_method
from sightline.platform.config import Experiment
from sightline.platform.core.redaction import redact
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.mixed_data import MixedData
from sightline.platform.data.ray_source import ORDER, RaySource
from sightline.platform.data.training_data import TrainingData, recorded_training_data, sets_of

if TYPE_CHECKING:
    from mlflow.entities import Dataset as LoggedDataset
    from mlflow.entities import DatasetInput

SOURCE_TYPE = "sightline"
CONTEXT = "mlflow.data.context"
DIGEST_LETTERS = 36
"""Of a fingerprint in MLflow, whose databases hold no more."""


@dataclass(frozen=True)
class DatasetRef:
    """A data set as metrics in MLflow name it."""

    name: str
    digest: str

    @classmethod
    def of(cls, dataset: Dataset) -> DatasetRef:
        return cls(Path(dataset.uri).name, dataset.fingerprint[:DIGEST_LETTERS])


def logged_dataset(dataset: Dataset | RaySource) -> LoggedDataset:
    """The data set as MLflow keeps it: digest and source by its fingerprint, the columns as its schema, a summary as its profile.

    Of a source that Ray Data reads nothing is known but its place.
    """
    from mlflow.entities import Dataset as LoggedDataset

    if isinstance(dataset, RaySource):
        profile = {"kind": dataset.kind, **({"num_rows": dataset.rows} if dataset.rows else {}), "order": ORDER}
        source = json.dumps({"uri": dataset.name})
        return LoggedDataset(Path(dataset.location.place).name, "ray:not-known", SOURCE_TYPE, source, profile=json.dumps(profile))
    ref = DatasetRef.of(dataset)
    share = {} if dataset.share is None else {"share": [dataset.share.fraction, dataset.share.seed]}
    source = json.dumps({"uri": redact(dataset.uri), "fingerprint": dataset.fingerprint, **share})
    return LoggedDataset(
        ref.name, ref.digest, SOURCE_TYPE, source, schema=json.dumps(_schema(dataset)), profile=json.dumps(_profile(dataset))
    )


def data_of(experiment: Experiment) -> list[tuple[str, Dataset | RaySource]]:
    """What a run of these settings learns from and is validated on, each with its context; of a mixture every data set."""
    kind, val = find_method(experiment.method).kind, experiment.data.val
    used = {"training": experiment.data, "validation": experiment.data.model_copy(update={"train": val, "fraction": 1.0})}
    opened = [(context, recorded_training_data(data, kind)) for context, data in used.items() if data.train]
    return [(context, one) for context, data in opened for one in (data.sets if isinstance(data, MixedData) else [data])]


def dataset_input(dataset: Dataset | RaySource, context: str) -> DatasetInput:
    """`context`: what the run uses it for, in MLflow's words: `training`, `validation` or `testing`."""
    from mlflow.entities import DatasetInput, InputTag

    return DatasetInput(logged_dataset(dataset), [InputTag(CONTEXT, context)])


def _schema(dataset: Dataset) -> dict[str, Any]:
    """The stored columns in the form of `mlflow.types.Schema`."""
    kind = find_kind(dataset.kind)
    columns = [column for name in dataset.manifest.columns if (column := kind.column(name)) is not None]
    arrays = kind.arrays if dataset.manifest.schema_version > 1 else {}  # bytes before
    return {
        "mlflow_colspec": [
            {
                **({"type": "array", "items": _type(arrays[column.name].numbers)} if column.name in arrays else _type(column.type)),
                "name": column.name,
                "required": column.required,
            }
            for column in columns
        ]
    }


def _type(stored: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(stored) or pa.types.is_large_list(stored) or pa.types.is_fixed_size_list(stored):
        return {"type": "array", "items": _type(stored.value_type)}
    if pa.types.is_string(stored):
        return {"type": "string"}
    if pa.types.is_integer(stored):
        return {"type": "long" if stored.bit_width > 32 else "integer"}
    if pa.types.is_floating(stored):
        return {"type": "double" if stored.bit_width > 32 else "float"}
    return {"type": "boolean" if pa.types.is_boolean(stored) else "binary"}


def _profile(dataset: Dataset) -> dict[str, Any]:
    """What a person wants to know of it: rows, classes, sizes. What the data do not have is left out."""
    manifest = dataset.manifest
    summary = {
        "num_rows": dataset.rows,
        "share_of_rows": dataset.share and f"{dataset.share.fraction:g} of {manifest.rows}, seed {dataset.share.seed}",
        "kind": dataset.kind,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "scenes": len(manifest.scenes),
        "classes": len(manifest.classes),
        "rows_of_class": {manifest.classes[label]: count for label, count in sorted(dataset.labels.items())} if manifest.classes else {},
        "parts": len(manifest.parts),
        "smallest_image": manifest.image_min and "{1} x {0}".format(*manifest.image_min),
        "largest_image": manifest.image_max and "{1} x {0}".format(*manifest.image_max),
        "points_of_a_cloud": manifest.points and "{} to {}".format(*manifest.points),
        "licences": licences([dataset]),
    }
    return {key: value for key, value in summary.items() if value}


def licences(datasets: Iterable[TrainingData]) -> str:
    """Those of their sources; empty where there is none to state."""
    known = [one for dataset in datasets for one in sets_of(dataset).values()]
    return "; ".join(sorted({source.licence for dataset in known for source in dataset.manifest.provenance.sources}))
