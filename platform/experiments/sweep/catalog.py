"""Searchers and schedulers by name: ours and those that packages publish under the entry point groups `sightline.searchers` and
`sightline.schedulers`. Naming them imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import nearest
from sightline.platform.core.plugins import plugins

from .record import SweepPlan, Trial

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

SEARCHERS, SCHEDULERS = "sightline.searchers", "sightline.schedulers"
"""Groups of entry points."""


class Propose(Protocol):
    """Proposes the settings of a trial: a value of its domain for each setting of `plan.domains`."""

    def __call__(self, plan: SweepPlan, number: int, trials: Sequence[Trial], attempt: int) -> dict[str, Any]:
        """A function of its arguments alone, so that a resume needs no other state than the record.

        `trials`: what is recorded of all trials before `number`, also of those that run or failed. `attempt`: how many proposals for this
        trial were discarded, because their settings had been tried.
        """


@dataclass(frozen=True)
class SearcherSpec:
    """A searcher: what an entry point of the group `sightline.searchers` names."""

    propose: Propose
    variants: Sequence[str] = ()
    """Words that may follow its name and a colon; `SweepPlan.variant` has the one that was asked for."""
    several: Sequence[str] | bool = False
    """Whether it takes account of several objectives; or those of its variants that do, "" for none."""
    learns: bool = True
    """Whether a proposal depends on what was measured."""
    redraws: int = 5
    """How often it is asked again in place of settings that were tried."""

    def takes_several(self, variant: str) -> bool:
        return self.several if isinstance(self.several, bool) else variant in self.several


@dataclass(frozen=True)
class SchedulerSpec:
    """A scheduler: what an entry point of the group `sightline.schedulers` names."""

    make: Callable[[SweepPlan], TrialScheduler]
    """One of Ray Tune for `time_attr="step"`, `metric="objective"` and `plan.mode`. It may continue or stop a trial at a result, by the
    results so far; one that pauses trials or changes their settings cannot be made again from the record."""
    sentence: str = "some trials are stopped early"
    """What it does, with `{reduction}` in place of the option."""
    rungs: bool = True
    """Whether trials are measured on the way to their end."""


Spec = TypeVar("Spec", SearcherSpec, SchedulerSpec)


def find_searcher(search: str) -> SearcherSpec:
    """That of `--search NAME` or `NAME:VARIANT`. Raises `CallError` naming the nearest, `SightlineError` for a broken one."""
    name, colon, variant = search.partition(":")
    spec = _find(SearcherSpec, SEARCHERS, "searcher", name)
    if colon and variant not in spec.variants:
        near = nearest(variant, list(spec.variants)) if spec.variants else "it has no variants"
        raise CallError(f"unknown variant {variant!r} of searcher {name}: {near}")
    return spec


def find_scheduler(name: str) -> SchedulerSpec:
    """That of `--scheduler NAME`. Raises as `find_searcher` does."""
    return _find(SchedulerSpec, SCHEDULERS, "scheduler", name)


def _find(kind: type[Spec], group: str, what: str, name: str) -> Spec:
    points = plugins(group)
    if name not in points:
        raise CallError(f"unknown {what} {name!r}: {nearest(name, list(points))}")
    try:
        spec = points[name].load()
    except (ImportError, AttributeError) as error:
        hint = "install the package that it needs"
        raise SightlineError(f"{what} {name} cannot be loaded from {points[name].value}: {error}", hint) from error
    if not isinstance(spec, kind):
        raise SightlineError(f"{points[name].value} is no {kind.__name__}", "see docs/sweeps.md")
    return spec
