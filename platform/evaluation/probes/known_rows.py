"""Sums of networks with random weights and of raw pixels, kept for the next run of the same settings on the same data.

They depend on nothing that a training changes, and are most of the work of the probes after it. Whatever could change them is part of the
key: data, settings, seeds, protocols, device and threads, code and packages. So what is read is what would be computed, bit by bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sightline.platform.core.files import replacing
from sightline.platform.core.kept_ray import code_digest
from sightline.platform.core.paths import home
from sightline.platform.evaluation.result_table import Measurement
from sightline.platform.evaluation.results import RowKind

from .context import PIXELS
from .dataset_pairs import DatasetPair

FOLDER = "controls"
MOST_FILES = 200
"""In a home; the oldest go."""


@dataclass(frozen=True)
class KnownRows:
    """Of one probe: row -> sums by image, and the penalty of its head."""

    sums: Mapping[str, np.ndarray]
    penalties: Mapping[str, float]
    units: str
    """`Units.digest` of the images."""

    @classmethod
    def of(cls, found: Measurement) -> KnownRows:
        kinds = found.table.kinds
        rows = {name: sums for name, sums in found.sums.items() if kinds.get(name) == RowKind.CONTROL or name.startswith(PIXELS)}
        return cls(rows, {name: found.penalties[name] for name in rows if name in found.penalties}, found.units.digest)

    def join(self, found: Measurement) -> Measurement | None:
        """`found` with these rows; None where they were measured on other images."""
        images = {len(sums) for sums in (*self.sums.values(), *found.sums.values())}
        if len(images) != 1 or self.units != found.units.digest:
            return None
        return replace(found, sums={**self.sums, **found.sums}, penalties={**self.penalties, **found.penalties})


def key_of(names: Sequence[str], protocols: Sequence[str], network: Mapping[str, Any], pairs: Sequence[DatasetPair], device: object) -> str:
    """`protocols`: hashes, one a name. `network`: the method, its settings and the seeds of the weights."""
    parts = {
        "probes": dict(zip(names, protocols, strict=True)),
        "network": network,
        "data": [[pair.train.fingerprint if pair.train else "", pair.test.fingerprint] for pair in pairs],
        "machine": [str(device), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()],
        "code": code_digest(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def load(key: str) -> dict[str, KnownRows]:
    """Probe -> its rows; empty where nothing is known, or the file is damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError), safe_open(_path(key), "np") as file:
        about = json.loads(file.metadata()["about"])
        return {
            probe: KnownRows(
                {row: file.get_tensor(f"{probe}/{row}") for row in one["rows"]},
                {k: float(v) for k, v in one["penalties"].items()},
                one["units"],
            )
            for probe, one in about.items()
        }
    return {}


def save(key: str, found: Mapping[str, KnownRows]) -> None:
    about = {probe: {"rows": list(one.sums), "penalties": dict(one.penalties), "units": one.units} for probe, one in found.items()}
    tensors = {f"{probe}/{row}": np.ascontiguousarray(sums) for probe, one in found.items() for row, sums in one.sums.items()}
    path = _path(key)
    with suppress(OSError):  # a full disk: the next run measures again
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save_file(tensors, part, metadata={"about": json.dumps(about)})
        for old in sorted(path.parent.glob("*.safetensors"), key=lambda one: one.stat().st_mtime)[:-MOST_FILES]:
            old.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return home() / FOLDER / f"{key[:32]}.safetensors"
