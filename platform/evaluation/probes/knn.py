"""The k-NN probe: what the features call alike, without any training (weighted votes as in Wu et al. 2018, used by DINO)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .context import ImageEvalContext
from .image_features import found_hits, pooled_features
from .protocol import PooledProtocol
from .spec import ProbeSpec, share

CHUNK = 512


class KnnProtocol(PooledProtocol):
    """Classification by the nearest training images: what the features call alike, without any training."""

    name: Literal["knn"] = "knn"
    features: str = "minus the mean of the training images, divided by their length"
    head: str = "the k training images of largest cosine vote with exp(cosine / temperature); ties go to the lower class index"
    k: int = 20
    temperature: float = 0.07


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: KnnProtocol) -> Measurement:
    """Accuracy by image; encoders of any size are comparable. Raises `ProbeSkippedError`."""
    pooled = pooled_features(context, train, test, protocol)
    labels = torch.from_numpy(pooled.train.labels)
    hits = {
        name: vote(features, labels, pooled.test.features[name], protocol.k, protocol.temperature).numpy() == pooled.test.labels
        for name, features in pooled.train.features.items()
    }
    return found_hits(context, pooled, {name: np.asarray(right) for name, right in hits.items()})


probe = ProbeSpec(
    rank=10,
    title="Classification by nearest neighbours of frozen features",
    protocol=KnnProtocol(),
    columns={"images": ("label",)},
    metrics={"accuracy": share("accuracy", "share of test images whose class is found")},
    sentence="The nearest training images give {value} of the test images their class",
    measure=measure,
)


def vote(
    train: Float[torch.Tensor, "n d"], labels: Int[torch.Tensor, " n"], test: Float[torch.Tensor, "m d"], k: int, temperature: float
) -> Int[torch.Tensor, " m"]:
    """The class with the most votes of the `k` training vectors of largest cosine, each weighted by exp(cosine / temperature).

    The training mean is taken off first: what all images share makes every cosine large, raw pixels' above all.
    """
    classes = int(labels.max()) + 1
    keys, queries = (torch.nn.functional.normalize(x - train.mean(dim=0), dim=1) for x in (train, test))
    found = []
    for chunk in torch.split(queries, CHUNK):
        cosine, nearest = (chunk @ keys.T).topk(min(k, len(keys)), dim=1)
        votes = torch.zeros(len(chunk), classes, dtype=cosine.dtype)
        votes.scatter_add_(1, labels[nearest], ((cosine - 1) / temperature).exp())
        found.append(votes.argmax(dim=1))
    return torch.cat(found)
