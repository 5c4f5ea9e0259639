"""The linear SVM of the point-cloud papers on frozen features, with C chosen on the training clouds alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .cloud_context import CloudEvalContext
from .cloud_features import found_shapes, shape_features
from .protocol import ShapeProtocol
from .spec import ProbeSpec, share


class ShapeSvmProtocol(ShapeProtocol):
    """Linear SVM, one against one, as in the papers, but with C chosen without the test data."""

    name: Literal["shape_svm"] = "shape_svm"
    features: str = "as they are: neither centred nor scaled"
    head: str = (
        "support vector classifier with a linear kernel (LIBSVM), one against one; C by accuracy over the folds, the smallest of equals"
    )
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 1e2, 1e3, 1e4)
    folds: int = 4
    papers: tuple[float, ...] = (0.0093, 0.018)
    """C of I2P-MAE for ModelNet40 and ScanObjectNN: chosen on their test sets, and for features of their size. Stated beside."""


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
    details = {_metric(c): share(f"C = {c:g}", f"accuracy with C = {c:g}", group="accuracy with the papers' C") for c in protocol.papers}
    return dataclasses.replace(found_shapes(context, shapes, hits, penalties, beside), details=details)


probe = ProbeSpec(
    rank=60,
    title="Shape classification by a linear SVM on frozen features",
    protocol=ShapeSvmProtocol(),
    columns={"points": ("label",)},
    metrics={"accuracy": share("accuracy", "share of test clouds whose class is found")},
    sentence="A linear SVM gives {value} of the test clouds their class",
    measure=measure,
    modality="points",
)


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
