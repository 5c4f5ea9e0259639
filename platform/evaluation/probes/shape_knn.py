"""The k-NN probe of clouds: which clouds the features call alike, without any training."""

from __future__ import annotations

from typing import Literal

import torch

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .cloud_context import CloudEvalContext
from .cloud_features import HISTOGRAMS, found_shapes, shape_features
from .knn import vote
from .protocol import ShapeProtocol
from .spec import ProbeSpec, share


class ShapeKnnProtocol(ShapeProtocol):
    """Classification by the nearest training clouds."""

    name: Literal["shape_knn"] = "shape_knn"
    features: str = "minus the mean of the training clouds, divided by their length"
    head: str = "the k training clouds of largest cosine vote with exp(cosine / temperature); ties go to the lower class index"
    k: int = 5
    temperature: float = 0.07
    handmade_head: str = "the handmade histograms have the rule that suits them better: majority of the 3 of smallest L1 distance"
    handmade_k: int = 3


def measure(context: CloudEvalContext, train: Dataset, test: Dataset, protocol: ShapeKnnProtocol) -> Measurement:
    """Accuracy by cloud. Raises `ProbeSkippedError`."""
    shapes = shape_features(context, train, test, protocol)
    labels = torch.from_numpy(shapes.train.labels)
    hits = {
        name: vote(features, labels, shapes.test.features[name], protocol.k, protocol.temperature).numpy() == shapes.test.labels
        for name, features in shapes.train.features.items()
        if name != HISTOGRAMS
    }
    from sklearn.neighbors import KNeighborsClassifier

    known, asked = (side.features[HISTOGRAMS].numpy() for side in (shapes.train, shapes.test))
    by_hand = KNeighborsClassifier(protocol.handmade_k, metric="manhattan", algorithm="brute").fit(known, shapes.train.labels)
    return found_shapes(context, shapes, {**hits, HISTOGRAMS: by_hand.predict(asked) == shapes.test.labels})


probe = ProbeSpec(
    rank=70,
    title="Shape classification by nearest neighbours of frozen features",
    protocol=ShapeKnnProtocol(),
    columns={"points": ("label",)},
    metrics={"accuracy": share("accuracy", "share of test clouds whose class is found")},
    sentence="The nearest training clouds give {value} of the test clouds their class",
    measure=measure,
    modality="points",
)
