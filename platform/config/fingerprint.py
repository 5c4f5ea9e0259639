"""Which settings a resume must not change, as a hash that outlives renamed and added settings.

A checkpoint states the version of the rule by which its settings were hashed. Settings carry what changed since (`Renamed`, `Added` in
`sightline.methods.settings`), so the hash of an older version can be computed from today's settings.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sightline.methods.settings import Added, Renamed, Settings

from .location import Mixture, parse
from .schema import METHOD_SECTIONS, Experiment

SETTINGS_VERSION = 2
"""Of the rule. Raise it when a setting is renamed, and name the new version in its `Renamed`."""
RUNTIME_ONLY_KEYS = (
    "workers",
    "least_workers",
    "accelerator_type",
    "gpus_per_worker",
    "resources",
    "labels",
    "checkpoint_activations",
    "device",
    "threads",
    "actors",
    "compile",
    "keep",
    "keep_every",
    "keep_best",
    "max_failures",
    "stall_timeout",
    "storage",
    "checkpoint_every",
    "validate_every",
    "validate_samples",
)
"""Settings of `train` that say how a run is carried out, not what is learned."""


def settings_hash(experiment: Experiment, version: int = SETTINGS_VERSION) -> str:
    """SHA-256 of the settings that a resume must not change, by the rule of `version`."""
    return hashlib.sha256(hashed_text(experiment, version).encode()).hexdigest()


def hashed_text(experiment: Experiment, version: int = SETTINGS_VERSION) -> str:
    """What is hashed: JSON of the settings under the names they had in `version`.

    The training data are not part of it, except the weights of a mixture: they have a fingerprint of their own.
    """
    sections: dict[str, Any] = {"method": experiment.method}
    for name in METHOD_SECTIONS:
        sections[name] = _named(getattr(experiment.method_config, name), version)
    for name in ("batch", "optim"):
        sections[name] = _named(getattr(experiment, name), version)
    sections["train"] = {key: value for key, value in _named(experiment.train, version).items() if key not in RUNTIME_ONLY_KEYS}
    sections["data"] = {"block": experiment.data.block}
    if isinstance(data := parse(experiment.data.train) if experiment.data.train else None, Mixture):  # of one data set as ever
        sections["data"]["weights"] = "rows" if data.weights is None else list(data.weights)
    if variants := experiment.teacher_cache.variants:  # without a cache the text is what it was before there was one
        sections["teacher_cache"] = {"variants": variants}
    return json.dumps(sections, sort_keys=True)


def _named(section: Settings, version: int) -> dict[str, Any]:
    """The section's values by the names of `version`, without added settings that keep the old behaviour."""
    values = section.model_dump(mode="json", by_alias=True)
    for name, field in type(section).model_fields.items():
        for note in field.metadata:
            if isinstance(note, Added) and values[name] == note.neutral:
                del values[name]
            elif isinstance(note, Renamed) and version < note.since and name in values:
                values[note.old] = values.pop(name)
    return values
