"""Several prepared data sets that a run learns from together, each with its share of the samples."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sightline.methods.errors import CallError
from sightline.platform.config.location import MOST_WEIGHT, Mixture, lowest_terms

from .dataset import Dataset
from .share import Share


@dataclass(frozen=True)
class MixedData:
    """The data sets of a `Mixture`. An epoch of them is as many samples as they have rows together, whatever the weights are."""

    sets: tuple[Dataset, ...]
    names: tuple[str, ...]
    weights: tuple[int, ...]
    """Of the samples, in lowest terms."""

    @classmethod
    def open(cls, mixture: Mixture, kind: str | None = None, share: Share | None = None) -> MixedData:
        """`share`: of each data set. Raises `CallError` where a data set is missing, is not of `kind`, or is there twice."""
        sets = tuple(Dataset.open(place, kind).part(share) for place in mixture.places)
        known: dict[str, str] = {}
        for one in sets:
            if one.fingerprint in known:
                raise CallError(f"{known[one.fingerprint]} and {one.uri} hold the same data", "name them once, with a larger weight")
            known[one.fingerprint] = one.uri
        return cls(sets, mixture.names, mixture.weights or _by_rows([one.rows for one in sets]))

    @property
    def kind(self) -> str:
        return self.sets[0].kind

    @property
    def rows(self) -> int:
        """Of an epoch."""
        return sum(one.rows for one in self.sets)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the sets in their order, each with its weight."""
        told = "".join(f"{one.fingerprint} {weight}\n" for one, weight in zip(self.sets, self.weights, strict=True))
        return hashlib.sha256(f"sightline mixture 1\n{told}".encode()).hexdigest()

    @property
    def promises_order(self) -> bool:
        """Whether a plan orders the rows, so that a resume repeats their history."""
        return True

    @property
    def shares(self) -> dict[str, float]:
        """Of the samples, by name."""
        return {name: weight / sum(self.weights) for name, weight in zip(self.names, self.weights, strict=True)}

    @property
    def described(self) -> str:
        """How many samples, for reports."""
        parts = ", ".join(f"{share:.3g} {name}" for name, share in self.shares.items())
        return f"{self.rows:,} {self.kind} of {len(self.sets)} data sets: {parts}"

    @property
    def provenance(self) -> list[str]:
        """A line for each source: where it came from, and its licence."""
        return [f"{name}: {line}" for name, one in zip(self.names, self.sets, strict=True) for line in one.provenance]


def _by_rows(rows: Sequence[int]) -> tuple[int, ...]:
    while sum(rows) > MOST_WEIGHT:
        rows = [max(1, count // 2) for count in rows]
    return lowest_terms(rows)
