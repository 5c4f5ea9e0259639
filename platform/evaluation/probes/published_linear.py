"""The linear probe of DINOv2: one linear map by SGD for each learning rate of a grid; our probe `linear` is solved to its minimum."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .context import ImageEvalContext
from .published_features import PublishedProtocol, hits_measured, published_features
from .spec import ProbeSpec, share


class PublishedLinearProtocol(PublishedProtocol):
    """Classification by a linear map of the class token, by SGD over DINOv2's grid of learning rates."""

    name: Literal["linear_dinov2"] = "linear_dinov2"
    features: str = "as the encoder gives them"
    head: str = (
        "for each learning rate a linear map (weights N(0, 0.01), bias 0), SGD with momentum 0.9, no weight decay, rate x batch / 256, "
        "cosine to 0; passes over all training images, at least `least_steps`"
    )
    rates: tuple[float, ...] = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)
    batch: int = 1024
    passes: int = 10
    least_steps: int = 500
    held_out: float = 0.1
    """Share of the training images that choose the rate of `accuracy`; then all are trained on."""
    augmentation: str = "none: each image has one feature (DINOv2 draws random resized crops and flips)"
    metrics: tuple[str, ...] = ("accuracy", "accuracy_best_rate")
    published: str = (
        "the linear column of DINOv2 (arXiv 2304.07193), on the class token of the last block alone, roughly and from below: without its "
        "augmentation; `accuracy_best_rate` chooses the rate on the test images, as that table does"
    )


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: PublishedLinearProtocol) -> Measurement:
    """Accuracy by image; encoders of any size are comparable. Raises `ProbeSkippedError`."""
    found = published_features(context, train, test, protocol)
    labels, truth = torch.from_numpy(found.train.labels), torch.from_numpy(found.test.labels)
    classes = max(int(labels.max()), int(truth.max())) + 1
    order = torch.from_numpy(keyed_rng("linear_dinov2 held out").permutation(len(labels)))
    count = max(1, round(protocol.held_out * len(labels)))
    chooses, learns = order[:count], order[count:]
    sums = {}
    for done, (name, features) in enumerate(found.train.features.items()):
        context.progress("linear_dinov2 probe: fitting", done / len(found.train.features))
        trial = fit(features[learns], labels[learns], classes, protocol)
        chosen = int((trial(features[chooses]) == labels[chooses]).double().mean(dim=1).argmax())
        right = (fit(features, labels, classes, protocol)(found.test.features[name]) == truth).double()
        best = int(right.mean(dim=1).argmax())
        sums[name] = torch.stack([right[chosen], right[best], torch.ones_like(right[0])], dim=1).numpy()
    return hits_measured(context, found, sums, protocol)


probe = ProbeSpec(
    rank=22,
    title="Linear classification by SGD over a grid of learning rates, DINOv2's protocol",
    protocol=PublishedLinearProtocol(),
    columns={"images": ("label",)},
    metrics={
        "accuracy": share("accuracy", "share of test images whose class is found, rate chosen on held-out training images"),
        "accuracy_best_rate": share("best rate", "accuracy of the rate that is best on the test images", group="Learning rate"),
    },
    sentence="A linear map by SGD gives {value} of the test images their class",
    measure=measure,
)


class Heads:
    """A linear map for each learning rate: images -> rates x images predicted classes."""

    def __init__(self, weight: Float[torch.Tensor, "r d c"], bias: Float[torch.Tensor, "r 1 c"]) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Float[torch.Tensor, "n d"]) -> Int[torch.Tensor, "r n"]:
        return torch.stack([(x @ weight + bias).argmax(dim=1) for weight, bias in zip(self.weight, self.bias, strict=True)])


def fit(x: Float[torch.Tensor, "n d"], labels: Int[torch.Tensor, " n"], classes: int, protocol: PublishedLinearProtocol) -> Heads:
    """All heads see the same batches. The gradient of cross-entropy is written down, so one product serves all rates."""
    batch = min(protocol.batch, len(x))
    steps = max(protocol.least_steps, protocol.passes * len(x) // batch)
    rng = keyed_rng("linear_dinov2 heads")
    rates = torch.tensor(protocol.rates, dtype=x.dtype)[:, None, None] * batch / 256
    weight = torch.from_numpy(rng.normal(0, 0.01, (x.shape[1], classes))).to(x.dtype).expand(len(rates), -1, -1).clone()
    bias = torch.zeros(len(rates), 1, classes, dtype=x.dtype)
    moved = torch.zeros_like(weight), torch.zeros_like(bias)
    waiting = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(waiting) < batch:
            waiting = torch.cat([waiting, torch.from_numpy(rng.permutation(len(x)))])
        rows, waiting = waiting[:batch], waiting[batch:]
        seen = x[rows]
        wrong = (torch.matmul(seen, weight) + bias).softmax(dim=2)
        wrong[:, torch.arange(batch), labels[rows]] -= 1
        wrong /= batch
        rate = rates * (1 + np.cos(np.pi * step / steps)) / 2
        for value, momentum, gradient in zip(
            (weight, bias), moved, (torch.matmul(seen.T, wrong), wrong.sum(dim=1, keepdim=True)), strict=True
        ):
            momentum.mul_(0.9).add_(gradient)
            value.sub_(rate * momentum)
    return Heads(weight, bias)
