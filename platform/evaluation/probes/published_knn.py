"""The weighted k-NN of DINO and DINOv2, by their own rules; our probe `knn` has others."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .context import ImageEvalContext
from .published_features import PublishedProtocol, hits_measured, published_features
from .spec import ProbeSpec, share

VALUES = 2**26
"""Cosines held at one time."""


class PublishedKnnProtocol(PublishedProtocol):
    """Classification by the nearest training images, as DINO's `eval_knn.py`."""

    name: Literal["knn_dino"] = "knn_dino"
    features: str = "divided by their length (no mean is subtracted)"
    head: str = "the k training images of largest cosine vote with exp(cosine / temperature); ties go to the lower class index"
    ks: tuple[int, ...] = (20, 10, 100, 200)
    """The first is the one that papers report."""
    temperature: float = 0.07
    metrics: tuple[str, ...] = ("accuracy", "accuracy_k10", "accuracy_k100", "accuracy_k200")
    published: str = (
        "the k-NN columns of DINO (arXiv 2104.14294) and DINOv2 (arXiv 2304.07193), for the whole training and validation sets of the same "
        "data, ImageNet-1k as a rule, and images of 224 pixels"
    )


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: PublishedKnnProtocol) -> Measurement:
    """Accuracy by image; encoders of any size are comparable. Raises `ProbeSkippedError`."""
    found = published_features(context, train, test, protocol)
    labels, truth = torch.from_numpy(found.train.labels), found.test.labels
    sums = {}
    for name, features in found.train.features.items():
        votes = vote(features, labels, found.test.features[name], protocol.ks, protocol.temperature)
        sums[name] = np.stack([*(one.numpy() == truth for one in votes), np.ones(len(truth))], axis=1).astype(np.float64)
    return hits_measured(context, found, sums, protocol)


probe = ProbeSpec(
    rank=12,
    title="Classification by weighted nearest neighbours, DINO's protocol",
    protocol=PublishedKnnProtocol(),
    columns={"images": ("label",)},
    metrics={
        "accuracy": share("accuracy", "share of test images whose class is found, k = 20"),
        **{f"accuracy_k{k}": share(f"k = {k}", f"accuracy with k = {k}", group="Neighbours") for k in (10, 100, 200)},
    },
    sentence="Under DINO's k-NN the nearest training images give {value} of the test images their class",
    measure=measure,
)


def vote(
    train: Float[torch.Tensor, "n d"],
    labels: Int[torch.Tensor, " n"],
    test: Float[torch.Tensor, "m d"],
    ks: tuple[int, ...],
    temperature: float,
) -> list[Int[torch.Tensor, " m"]]:
    """For each of `ks` the class with the most votes of the k training vectors of largest cosine, each weighted by
    exp(cosine / temperature). Exact; in memory a block of test vectors against all training vectors."""
    classes = int(labels.max()) + 1
    keys, queries = (torch.nn.functional.normalize(x, dim=1) for x in (train, test))
    found: list[list[torch.Tensor]] = [[] for _ in ks]
    for chunk in torch.split(queries, max(1, VALUES // len(keys))):
        cosine, nearest = (chunk @ keys.T).topk(min(max(ks), len(keys)), dim=1)
        weights = ((cosine.double() - 1) / temperature).exp()
        for some, k in zip(found, ks, strict=True):
            votes = torch.zeros(len(chunk), classes, dtype=torch.float64)
            votes.scatter_add_(1, labels[nearest[:, :k]], weights[:, :k])
            some.append(votes.argmax(dim=1))
    return [torch.cat(some) for some in found]
