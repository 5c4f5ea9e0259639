"""The first look at one or several data sets: everything that the page tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sightline.methods.errors import CallError
from sightline.platform.data.dataset import Dataset

from .cameras import camera_maps
from .duplicates import Across, Duplicates, find_duplicates
from .findings import Finding, LookedAt, find, leaks
from .pair_check import check_pairs
from .rows import Rows
from .scan import scan

Progress = Callable[[str, int, int], None]
"""(what is done, rows done, rows in all)"""


@dataclass(frozen=True)
class Inspection:
    sets: Sequence[LookedAt]
    duplicates: Duplicates
    leaks: Sequence[Across]
    """Sets that share images and are not both trained on."""
    findings: Sequence[Finding]

    @property
    def verdict(self) -> str:
        """One sentence: how much is wrong, and how much suspicious."""
        rows = sum(one.scan.rows for one in self.sets)
        errors, warnings = (sum(item.severity == severity for item in self.findings) for severity in ("error", "warning"))
        told = [f"{errors} error{'s' * (errors > 1)}"] if errors else []
        told += [f"{warnings} thing{'s' * (warnings > 1)} to look at"] if warnings else []
        return f"{' and '.join(told) or 'Nothing wrong was found'} in {rows:,} rows."

    @property
    def headline(self) -> str:
        """The verdict with the first error."""
        first = self.findings[0] if self.findings else None
        return f"{self.verdict} {first.text}." if first and first.severity == "error" else self.verdict


def inspect(
    datasets: Sequence[Dataset], at_most: int | None = None, progress: Progress | None = None, *, leaks_are_errors: bool = True
) -> Inspection:
    """Looks at all rows of the sets, or at about `at_most` of each. Raises `CallError` where a set is named twice."""
    names = _names([dataset.uri for dataset in datasets])
    total = sum(min(dataset.rows, at_most or dataset.rows) for dataset in datasets)
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        if progress:
            progress("looking at rows", min(done, total), total)

    looked = []
    for name, dataset in zip(names, datasets, strict=True):
        rows = Rows(dataset)
        seen = scan(dataset, at_most, count)
        looked.append(LookedAt(name, rows, seen, check_pairs(rows, seen), camera_maps(rows, seen)))
    if progress:
        progress("comparing images", total, total)
    same_classes = len({one.manifest.classes for one in looked if one.manifest.labels}) < 2
    duplicates = find_duplicates([one.scan for one in looked], same_classes)
    shared = leaks(names, duplicates.across) if leaks_are_errors else []
    return Inspection(looked, duplicates, shared, find(looked, duplicates, shared))


def _names(uris: Sequence[str]) -> list[str]:
    """The ends of the addresses that tell them apart, of two parts at least."""
    if len(set(uris)) < len(uris):
        raise CallError("the same data set is named twice", "name each set once")
    parts = [uri.rstrip("/").split("/") for uri in uris]
    for count in range(2, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(uris)
