"""What a probe states of itself beside its `measure`: the data it needs, its metrics and its protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from sightline.methods.contract import MetricInfo
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .protocol import Protocol

MAKES = {
    "label": "images classes",
    "segmentation": "images masks",
    "depth": "images frames",
    "depth1": "pairs rgbd",
    "part": "points arrays",
}
"""Column -> the source of `sightline prepare` that makes it."""


@dataclass(frozen=True)
class ProbeSpec:
    """A probe: what an entry point of the group `sightline.probes` names. The entry point has the name that the protocol states."""

    title: str
    protocol: Protocol
    columns: Mapping[str, tuple[str, ...]]
    """The columns it needs of each kind of data that it can use."""
    metrics: Mapping[str, MetricInfo]
    """The main ones; the first is told first."""
    sentence: str
    """Subject and verb of the finding, with `{value}` in place of the first metric."""
    measure: Callable[..., Measurement]
    """`measure(context, train, test, protocol)`: an `ImageEvalContext` or a `CloudEvalContext`, the data, and the protocol. Raises
    `ProbeSkippedError` where the data do not allow the probe."""
    rank: int = 1000
    """Reports and sweeps take probes by rank, the lowest first, then by name."""
    fits_head: bool = True
    """Whether it takes training data."""
    modality: Literal["images", "points"] = "images"
    """What the encoders that it measures take."""

    @property
    def name(self) -> str:
        return self.protocol.name

    def lacks(self, dataset: Dataset) -> str:
        """What the data set lacks for this probe, in words; empty where it will do."""
        needed = self.columns.get(dataset.kind)
        if needed is None:
            return f"{' or '.join(self.columns)} are needed, and {dataset.uri} holds {dataset.kind}"
        missing = [name for name in needed if name not in dataset.manifest.columns]
        told = (
            f"; `sightline prepare {_source(dataset.kind, missing[0])} ...` makes data with it" if missing and missing[0] in MAKES else ""
        )
        return f"no {', '.join(missing)} column in {dataset.uri}{told}" if missing else ""


def _source(kind: str, column: str) -> str:
    return "points classes" if (kind, column) == ("points", "label") else MAKES[column]


def share(label: str, means: str, group: str = "") -> MetricInfo:
    """A metric in [0, 1] that is shown in per cent; more is better."""
    return MetricInfo(means=means, label=label, unit="%", group=group)
