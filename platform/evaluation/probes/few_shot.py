"""Few-shot classification from frozen features: n classes, m shapes of each, ten draws."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.contract import MetricInfo
from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement
from sightline.platform.evaluation.results import MOST_FREQUENT
from sightline.platform.evaluation.units import Units

from .cloud_context import CloudEvalContext
from .cloud_features import HISTOGRAMS, shape_features
from .context import ProbeSkippedError
from .protocol import ShapeProtocol
from .shape_svm import predict
from .spec import ProbeSpec, share


class Task(NamedTuple):
    """Rows of the support, and of the queries."""

    support: Int[np.ndarray, " s"]
    queries: Int[np.ndarray, " q"]


class FewShotProtocol(ShapeProtocol):
    """n ways, m shots: classes, support and test shapes drawn ten times (Sharma and Kaul 2020, with frozen features)."""

    name: Literal["few_shot"] = "few_shot"
    features: str = "standardised with mean and deviation of the support shapes"
    head: str = "support vector classifier with a linear kernel, one against one, C as it stands"
    penalty: float = 1.0
    tasks: tuple[tuple[int, int], ...] = ((5, 10), (5, 20), (10, 10), (10, 20))
    """(ways, shots)."""
    queries: int = 20
    """Test shapes of a class that are not in the support; fewer where a class has fewer, at least `min_queries`."""
    min_queries: int = 5
    draws: int = 10
    metrics: tuple[str, ...] = ("accuracy_5w10s", "accuracy_5w20s", "accuracy_10w10s", "accuracy_10w20s")


def measure(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: FewShotProtocol) -> Measurement:
    """Mean accuracy over the draws and its deviation; the draws come from training and test clouds together. Raises `ProbeSkippedError`."""
    shapes = shape_features(context, train, test, protocol)
    labels = np.concatenate([shapes.train.labels, shapes.test.labels])
    features = {name: torch.cat([some, shapes.test.features[name]]).numpy() for name, some in shapes.train.features.items()}
    tasks = {(w, s): [draw(labels, w, s, protocol, index) for index in range(protocol.draws)] for w, s in protocol.tasks}
    possible = {task: drawn for task, drawn in tasks.items() if all(drawn)}
    if not possible:
        ways, shots = protocol.tasks[0]
        raise ProbeSkippedError(
            f"{ways} ways of {shots} shots take {ways} classes with at least {shots + protocol.min_queries} labelled clouds each"
        )
    sums: dict[str, list[np.ndarray]] = {name: [] for name in features}
    for done, drawn in enumerate(zip(*possible.values(), strict=True)):
        for name, x in features.items():
            hits = np.array([accuracy(x, labels, task, protocol.penalty) for task in drawn if task])
            sums[name].append(np.concatenate([hits, hits**2, [1.0]]))
        context.progress("few_shot probe", (done + 1) / protocol.draws)
    names = [f"{ways}w{shots}s" for ways, shots in possible]

    def metrics_of(sums: Float[np.ndarray, "*shape k"]) -> dict[str, Float[np.ndarray, "*shape"]]:
        count = sums[..., -1]
        means = {n: sums[..., i] / count for i, n in enumerate(names)}
        spread = {
            n: np.sqrt((sums[..., len(names) + i] / count - means[n] ** 2).clip(0) * count / (count - 1)) for i, n in enumerate(names)
        }
        absent = {f"accuracy_{w}w{s}s": np.full(np.shape(count), np.nan) for w, s in protocol.tasks if (w, s) not in possible}
        return {f"accuracy_{n}": means[n] for n in names} | absent | {f"deviation_{n}": spread[n] for n in names}

    details = {
        f"deviation_{n}": MetricInfo(
            means=f"standard deviation of the accuracy over the draws, {n}",
            label=n,
            unit="%",
            better="lower",
            group="deviation over the draws",
        )
        for n in names
    }
    units = Units([f"draw {index}" for index in range(protocol.draws)], "draw")
    least = min(len(task.queries) // ways for (ways, _), drawn in possible.items() for task in drawn if task)
    counts = {
        **{name: count for name, count in shapes.counts.items() if not name.endswith(MOST_FREQUENT)},  # each draw has classes of its own
        "draws": protocol.draws,
        "tasks_without_enough_clouds": len(tasks) - len(possible),
        "least_queries_a_class": least,
    }
    table = context.rows(lambda name: {HISTOGRAMS: "handmade"})
    return Measurement(table, {name: np.stack(rows) for name, rows in sums.items()}, units, metrics_of, counts, details=details)


PROTOCOL = FewShotProtocol()
probe = ProbeSpec(
    rank=80,
    title="Few-shot shape classification from frozen features",
    protocol=PROTOCOL,
    columns={"points": ("label",)},
    metrics={
        f"accuracy_{ways}w{shots}s": share(f"{ways}-way {shots}-shot", f"accuracy with {shots} shapes of each of {ways} classes")
        for ways, shots in PROTOCOL.tasks
    },
    sentence="With ten shapes of each of five classes a linear SVM finds the class of {value} of the others",
    measure=measure,
    modality="points",
)


def draw(labels: Int[np.ndarray, " n"], ways: int, shots: int, protocol: FewShotProtocol, index: int) -> Task | None:
    """The same for every network; None where too few classes have enough clouds."""
    rng = keyed_rng("few shot", ways, shots, index)
    values, counts = np.unique(labels, return_counts=True)
    usable = values[counts >= shots + protocol.min_queries]
    if len(usable) < ways:
        return None
    support, queries = [], []
    for label in rng.choice(usable, ways, replace=False):
        rows = rng.permutation(np.flatnonzero(labels == label))
        support.append(rows[:shots])
        queries.append(rows[shots : shots + protocol.queries])
    return Task(np.concatenate(support), np.concatenate(queries))


def accuracy(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], task: Task, c: float) -> float:
    known, asked = x[task.support], x[task.queries]
    deviation = known.std(axis=0)
    scale = np.where(deviation > 1e-5 * deviation.max().clip(1e-30), deviation, np.inf)
    known, asked = ((some - known.mean(axis=0)) / scale for some in (known, asked))
    return float((predict(known, labels[task.support], asked, c) == labels[task.queries]).mean())
