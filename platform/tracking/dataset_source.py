"""What MLflow finds under its entry point group `mlflow.dataset_source`: opens the data sets that runs of Sightline logged.

MLflow imports this module with its own `mlflow.data`, also for programs that have nothing to do with Sightline, so it imports little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlflow.data.dataset_source import DatasetSource

if TYPE_CHECKING:
    from sightline.platform.data.dataset import Dataset


class SightlineDatasetSource(DatasetSource):
    """`mlflow.data.get_source(run.inputs.dataset_inputs[0]).load()` gives the data set itself."""

    def __init__(self, uri: str, fingerprint: str = "", share: tuple[float, int] | None = None) -> None:
        self.uri = uri
        self.share = share
        """Of its rows, where not all were used: (fraction, seed)."""
        self.fingerprint = fingerprint
        """Of the data set as it was logged. Records of older versions do not have it."""

    def load(self) -> Dataset:
        """Raises `CallError` where there is no data set, and `SightlineError` where it is another one than was logged."""
        from sightline.methods.errors import SightlineError
        from sightline.platform.data.dataset import Dataset
        from sightline.platform.data.share import Share

        dataset = Dataset.open(self.uri).part(Share(*self.share) if self.share else None)
        if self.fingerprint and dataset.fingerprint != self.fingerprint:
            raise SightlineError(
                f"{self.uri} is not the data set that was logged: its fingerprint is {dataset.fingerprint[:16]}, "
                f"that of the logged one {self.fingerprint[:16]}",
                "it was made anew or replaced; put the old one back, or open this one with Dataset.open",
            )
        return dataset

    @staticmethod
    def _get_source_type() -> str:
        return "sightline"

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False  # a path is MLflow's own to read

    @classmethod
    def _resolve(cls, raw_source: Any) -> SightlineDatasetSource:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"uri": self.uri, "fingerprint": self.fingerprint, **({"share": list(self.share)} if self.share else {})}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> SightlineDatasetSource:
        share = source_dict.get("share")
        return cls(source_dict["uri"], source_dict.get("fingerprint", ""), (float(share[0]), int(share[1])) if share else None)
