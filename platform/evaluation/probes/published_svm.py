"""The linear SVM of I2P-MAE's authors, one protocol for each of their data sets: for values that stand beside the published ones.

C was chosen on the test data by the authors, so these are measured only where a person names them. `shape_svm` chooses C on training data.
"""

from __future__ import annotations

import dataclasses

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .cloud_context import CloudEvalContext
from .cloud_features import found_shapes, shape_features
from .protocol import StoredShapeProtocol
from .shape_svm import predict
from .spec import ProbeSpec, share


class PublishedSvmProtocol(StoredShapeProtocol):
    """Features as they are, C as published, accuracy on the test split."""

    pooling: str = "the largest of each channel over the coarsest tokens after their norm (`pooled` of I2P-MAE), nothing hidden"
    features: str = "as they are: neither centred nor scaled"
    head: str = "scikit-learn's SVC with a linear kernel (LIBSVM), one against one, fitted on the whole training split"
    penalty: float
    """C: chosen by the authors on the test data."""
    classes: int
    data: str
    published: str


def measure(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: PublishedSvmProtocol) -> Measurement:
    """Accuracy by cloud. Raises `ProbeSkippedError`."""
    shapes = shape_features(context, train, test, protocol)
    hits = {}
    for done, (name, features) in enumerate(shapes.train.features.items()):
        context.progress(f"{protocol.name} probe: fitting", done / len(shapes.train.features))
        found = predict(features.numpy(), shapes.train.labels, shapes.test.features[name].numpy(), protocol.penalty)
        hits[name] = found == shapes.test.labels
    measured = found_shapes(context, shapes, hits, dict.fromkeys(hits, protocol.penalty))
    return dataclasses.replace(measured, caution=caution(protocol, len(train.manifest.classes)))


def caution(protocol: PublishedSvmProtocol, classes: int) -> str:
    """Which published figure the value stands beside."""
    if classes != protocol.classes:
        return f"These data have {classes} classes, and {protocol.data} has {protocol.classes}: no published figure compares."
    return f"On {protocol.data} it compares with {protocol.published}; C was chosen on the test data there."


def _spec(protocol: PublishedSvmProtocol, rank: int) -> ProbeSpec:
    return ProbeSpec(
        rank=rank,
        title=f"Linear SVM as I2P-MAE's authors measure it on {protocol.data}",
        protocol=protocol,
        columns={"points": ("label",)},
        metrics={"accuracy": share("accuracy", f"share of test clouds whose class is found, with C = {protocol.penalty:g}")},
        sentence="The authors' linear SVM gives {value} of the test clouds their class",
        measure=measure,
        modality="points",
    )


modelnet40 = _spec(
    PublishedSvmProtocol(
        name="svm_modelnet40",
        points=1024,
        penalty=0.0093,
        classes=40,
        data="ModelNet40 (modelnet40_ply_hdf5_2048)",
        published="I2P-MAE's 93.35 % (its README)",
    ),
    62,
)
scanobjectnn = _spec(
    PublishedSvmProtocol(
        name="svm_scanobjectnn",
        points=2048,
        penalty=0.018,
        classes=15,
        data="ScanObjectNN (OBJ-BG)",
        published="I2P-MAE's 87.09 % (its README)",
    ),
    64,
)
