"""The linear SVM of the point-cloud papers on frozen features, with C chosen on the training clouds alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset

from .clouds import CloudEvalContext
from .protocol import ShapeSvmProtocol
from .result_table import Measurement
from .shapes import found_shapes, shape_features


def measure(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: ShapeSvmProtocol) -> Measurement:
    """Accuracy by cloud, and beside it that with the papers' C. Raises `ProbeSkippedError`."""
    shapes = shape_features(context, train, test, protocol)
    labels = shapes.train.labels
    folds = deal_folds(labels, protocol.folds)
    hits, penalties = {}, {}
    beside: dict[str, dict[str, np.ndarray]] = {_metric(c): {} for c in protocol.papers}
    for done, (name, features) in enumerate(shapes.train.features.items()):
        context.progress("shape_svm probe: fitting", done / len(shapes.train.features))
        x, asked = features.numpy(), shapes.test.features[name].numpy()
        penalties[name] = choose_c(x, labels, folds, protocol.penalties)
        hits[name] = predict(x, labels, asked, penalties[name]) == shapes.test.labels
        for c in protocol.papers:
            beside[_metric(c)][name] = predict(x, labels, asked, c) == shapes.test.labels
    about = {"unit": "%", "better": "higher", "group": "accuracy with the papers' C"}
    details = {_metric(c): {"label": f"C = {c:g}", "means": f"accuracy with C = {c:g}", **about} for c in protocol.papers}
    return dataclasses.replace(found_shapes(context, shapes, hits, penalties, beside), details=details)


def _metric(c: float) -> str:
    return f"accuracy_c_{c:g}"


def predict(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], asked: Float[np.ndarray, "m d"], c: float) -> Int[np.ndarray, " m"]:
    """Classes by a support vector classifier with a linear kernel, one against one."""
    from sklearn.svm import SVC

    return np.asarray(SVC(kernel="linear", C=c).fit(x, labels).predict(asked))


def deal_folds(labels: Int[np.ndarray, " n"], folds: int) -> Int[np.ndarray, " n"]:
    """The fold of each training cloud: dealt out class by class in a keyed order."""
    order = keyed_rng("shape folds").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold = np.empty(len(labels), int)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def choose_c(x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], folds: Int[np.ndarray, " n"], grid: Sequence[float]) -> float:
    """The C with the most hits when each fold is predicted from the others; the smallest of equals."""
    hits = {
        c: sum(int((predict(x[folds != f], labels[folds != f], x[folds == f], c) == labels[folds == f]).sum()) for f in np.unique(folds))
        for c in grid
    }
    return max(sorted(grid), key=lambda c: hits[c])
