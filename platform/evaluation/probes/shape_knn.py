"""The k-NN probe of clouds: which clouds the features call alike, without any training."""

from __future__ import annotations

import torch

from sightline.platform.data.dataset import Dataset

from .clouds import CloudEvalContext
from .knn import vote
from .protocol import ShapeKnnProtocol
from .result_table import Measurement
from .shapes import HISTOGRAMS, found_shapes, shape_features


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
