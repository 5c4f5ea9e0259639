"""Few-shot classification by fine-tuning: folds of a labelled data set, N classes with K samples each, every fold an ordinary run.

A fold is a list of ids to learn from and one to test on, so folds can be read, kept and shared as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sightline.methods.errors import CallError
from sightline.methods.random import keyed_rng
from sightline.platform.core.budget import parse_json
from sightline.platform.core.files import make_folder, write_text
from sightline.platform.core.paths import home, runs_folder
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.kinds import find_kind
from sightline.platform.data.loader.fixed import read_rows
from sightline.platform.data.manifest import MANIFEST_NAME, Source
from sightline.platform.data.writer import ShardWriter
from sightline.platform.runs.events import ValidationDone
from sightline.platform.runs.record import Run, RunStatus

FOLDER = "few-shot"
"""In a home: a folder for each study, with `folds.json`, the data of each fold and `few_shot.json`."""
MOST_FOLDS = 100
QUERIES, FEWEST_QUERIES = 20, 5
"""Test samples of a class that are not learned from, as in the papers; fewer where a class has fewer."""
FORM = 'it holds {"folds": [{"train": [ids], "test": [ids]}, ...]}'


@dataclass(frozen=True)
class Fold:
    """Ids of rows."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """Of one fold: accuracy on its test samples with the last weights, and the best of all validations, as papers report it."""

    run: str
    last: float
    best: float


def parse_task(text: str) -> tuple[int, int]:
    """(ways, shots) of `5x10`. Raises `CallError`."""
    found = re.fullmatch(r"(\d+)\s*x\s*(\d+)", text.strip())
    if not found or int(found[1]) < 2 or int(found[2]) < 1:
        raise CallError(f"--few-shot {text}: write ways x shots, such as 5x10", "at least 2 classes with 1 sample each")
    return int(found[1]), int(found[2])


class Pool:
    """The labelled rows of data sets with the same classes, by id."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.datasets, self.places, self.labels = tuple(datasets), dict[str, tuple[int, int]](), dict[str, int]()
        first = datasets[0]
        for which, dataset in enumerate(datasets):
            if dataset.kind != first.kind or dataset.manifest.classes != first.manifest.classes:
                raise CallError(f"{dataset.uri} and {first.uri} hold other kinds of data or other classes", "prepare both from one source")
            if "label" not in dataset.manifest.columns:
                raise CallError(f"{dataset.uri} has no labels", "make some with `sightline prepare ... classes`")
            row = 0
            for table in dataset.scan(["id", "label"]):
                for name, label in zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True):
                    if name in self.places:
                        raise CallError(f"row {name!r} is there twice", "prepare one of the data sets again with another --name")
                    if label is not None:
                        self.places[name], self.labels[name] = (which, row), label
                    row += 1

    @property
    def class_names(self) -> tuple[str, ...]:
        classes = self.datasets[0].manifest.classes
        return classes or tuple(str(label) for label in range(max(self.labels.values()) + 1))


def make_folds(labels: Mapping[str, int], ways: int, shots: int, count: int, seed: int) -> list[Fold]:
    """Folds that follow from ids, labels and seed alone, so that every model gets the same.

    Raises `CallError` where too few classes have enough rows.
    """
    members: dict[int, list[str]] = {}
    for name in sorted(labels):
        members.setdefault(labels[name], []).append(name)
    usable = sorted(label for label, names in members.items() if len(names) >= shots + FEWEST_QUERIES)
    if len(usable) < ways:
        needed = f"{ways} classes with {shots + FEWEST_QUERIES} labelled rows or more"
        raise CallError(
            f"{ways} ways of {shots} shots take {needed}; there are {len(usable)}",
            "use fewer ways or shots, or name data.val too: both are drawn from",
        )
    folds = []
    for index in range(count):
        rng = keyed_rng("few-shot fold", seed, ways, shots, index)
        train, test = list[str](), list[str]()
        for label in sorted(rng.choice(usable, ways, replace=False).tolist()):
            drawn = [members[label][place] for place in rng.permutation(len(members[label]))]
            train += drawn[:shots]
            test += drawn[shots : shots + QUERIES]
        folds.append(Fold(tuple(train), tuple(test)))
    return folds


def read_folds(path: Path, pool: Pool, ways: int, shots: int) -> list[Fold]:
    """Raises `CallError` naming what does not fit the data or the task."""
    try:
        folds = [Fold(tuple(one["train"]), tuple(one["test"])) for one in parse_json(path.read_bytes())["folds"]]
    except OSError as error:
        raise CallError(f"cannot read {path}: {error}", FORM) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CallError(f"{path} is no list of folds ({error})", FORM) from None
    if not folds:
        raise CallError(f"{path} has no fold", FORM)
    for number, fold in enumerate(folds):
        where = f"fold {number} of {path}"
        for name in (*fold.train, *fold.test):
            if name not in pool.labels:
                raise CallError(f"{where}: the data have no labelled row {name!r}", "ids are those of the prepared data")
        if both := set(fold.train) & set(fold.test):
            raise CallError(f"{where}: {min(both)!r} is both learned from and tested on")
        counts = np.unique([pool.labels[name] for name in fold.train], return_counts=True)
        if len(counts[0]) != ways or set(counts[1].tolist()) != {shots}:
            raise CallError(f"{where} has {dict(zip(*map(list, counts), strict=True))} rows by class, not {ways} classes with {shots} each")
        if strange := {pool.labels[name] for name in fold.test} - set(counts[0].tolist()):
            raise CallError(f"{where} tests class {min(strange)}, which it does not learn")
    return folds


def write_fold(pool: Pool, fold: Fold, folder: Path) -> tuple[Path, Path]:
    """(data to learn from, data to test on): prepared data sets with the classes of the fold alone. Made once."""
    labels = sorted({pool.labels[name] for name in fold.train})
    names = [pool.class_names[label] for label in labels]
    kind = find_kind(pool.datasets[0].kind)
    columns = ["id", *kind.samples]
    parts = {"train": fold.train, "test": fold.test}
    for part, ids in parts.items():
        if (folder / part / MANIFEST_NAME).is_file():
            continue
        wanted = [sorted(row for name in ids for of, row in [pool.places[name]] if of == which) for which in range(len(pool.datasets))]
        made = [Source(where=dataset.uri, licence="as there", reader="few-shot fold") for dataset in pool.datasets]
        with ShardWriter(folder / part, kind.name, classes=names, sources=made) as writer:
            for dataset, rows in zip(pool.datasets, wanted, strict=True):
                for _, row in read_rows(dataset, rows, columns):
                    writer.write({**row, "label": labels.index(pool.labels[row["id"]])})
    return folder / "train", folder / "test"


def write_folds(folds: Sequence[Fold], folder: Path) -> Path:
    """`folds.json`, which `--folds` reads again."""
    make_folder(folder)
    told = {"folds": [{"train": list(fold.train), "test": list(fold.test)} for fold in folds]}
    return write_text(folder / "folds.json", json.dumps(told, indent=1))


def scores_of(run: Run) -> Scores:
    """Of a finished run."""
    claims = json.loads((run.folder / "claims.json").read_text())
    last = float(claims["figures"]["accuracy"]["value"])
    done = (event for event in run.events() if isinstance(event, ValidationDone) and event.step)
    seen = [event.losses["accuracy"] for event in done if "accuracy" in event.losses]
    return Scores(run.name, last, max([last, *seen]))


def summary(scores: Sequence[Scores]) -> dict[str, Any]:
    """Mean and standard deviation (of a sample: n - 1) over the folds."""

    def spread(values: Sequence[float]) -> dict[str, float]:
        return {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}

    return {
        "folds": [{"run": one.run, "accuracy": one.last, "best": one.best} for one in scores],
        "accuracy": spread([one.last for one in scores]),
        "best": spread([one.best for one in scores]),
    }


def run_folds(
    name: str,
    datasets: Sequence[Dataset],
    task: str,
    folds: str,
    run_fold: Callable[[str, Path, Path], Mapping[str, Any]],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The study `name`, of `folds` folds or those of a file: a run for each, what is finished is not run again.

    `run_fold(name, train, test)` trains one fold, or goes on with it. Returns the summary, or `status: stopped` where a person stopped it.
    Raises `CallError`.
    """
    ways, shots = parse_task(task)
    pool, folder = Pool(datasets), home() / FOLDER / name
    about = {"task": f"{ways}x{shots}", "data": [dataset.fingerprint for dataset in datasets], "folds": folds}
    kept = folder / "study.json"
    if kept.is_file():
        if parse_json(kept.read_bytes()) != about:
            raise CallError(f"{name} was begun with another task, other folds or other data", "choose another --name")
        chosen = read_folds(folder / "folds.json", pool, ways, shots)
    else:
        count = int(folds) if folds.isdigit() else 0
        if folds.isdigit() and not 1 <= count <= MOST_FOLDS:
            raise CallError(f"--folds {folds}: 1 to {MOST_FOLDS} are allowed")
        chosen = make_folds(pool.labels, ways, shots, count, seed=0) if count else read_folds(Path(folds), pool, ways, shots)
        write_folds(chosen, folder)
        write_text(kept, json.dumps(about))
    scores: list[Scores] = []
    for number, fold in enumerate(chosen):
        own = f"{name}-{number}"
        train, test = write_fold(pool, fold, folder / str(number))
        if not _finished(own):
            say(f"fold {number + 1} of {len(chosen)}: {len(fold.train)} rows to learn from, {len(fold.test)} to test on")
            if run_fold(own, train, test).get("status") == "stopped":
                say(f"stopped; the same command with --name {name} goes on")
                return {"name": name, "status": "stopped", "folds": [asdict(one) for one in scores]}
        scores.append(scores_of(Run.open(own)))
        say(f"{own}: accuracy {scores[-1].last:.1%}, best of its validations {scores[-1].best:.1%}")
    found = {"name": name, "status": "finished", "ways": ways, "shots": shots, **summary(scores)}
    write_text(folder / "few_shot.json", json.dumps(found, indent=1))
    for key, told in (("accuracy", "at the end"), ("best", "best validation, chosen on the test samples as papers do")):
        say(f"{ways}-way {shots}-shot over {len(scores)} folds, {told}: {found[key]['mean']:.1%} ± {found[key]['deviation']:.1%}")
    say(f"folds and figures: {folder}")
    return found


def _finished(name: str) -> bool:
    return (runs_folder() / name).exists() and Run.open(name).status == RunStatus.FINISHED
