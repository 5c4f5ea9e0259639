"""The linear probe: multinomial logistic regression on the mean patch token, solved to its minimum, so that no training recipe blurs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int

from sightline.methods.errors import SightlineError
from sightline.methods.random import keyed_rng
from sightline.platform.data.dataset import Dataset
from sightline.platform.evaluation.result_table import Measurement

from .context import ImageEvalContext
from .image_features import Pooled, found_hits, pooled_features
from .protocol import PooledProtocol
from .spec import ProbeSpec, share
from .train_test_split import scene_is_class

MAX_STEPS = 2000


class LinearProtocol(PooledProtocol):
    """Classification by one linear map from the image's mean feature."""

    name: Literal["linear"] = "linear"
    features: str = "standardised with mean and deviation of the training images"
    head: str = (
        "multinomial logistic regression: mean cross-entropy + penalty / 2 x the squared weights (not the biases), "
        "to its minimum by L-BFGS from zero (float64, no head seed)"
    )
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    folds: int = 3
    """The penalty has the least cross-entropy when each fold is predicted from the others; then all are fitted."""
    tolerance: float = 1e-6
    """The largest component of the gradient at the minimum, in preconditioned coordinates."""


def measure(context: ImageEvalContext, train: Dataset, test: Dataset, protocol: LinearProtocol) -> Measurement:
    """Accuracy by image; encoders of any size are comparable. Raises `ProbeSkippedError`."""
    pooled = pooled_features(context, train, test, protocol)
    labels = torch.from_numpy(pooled.train.labels)
    classes = int(labels.max()) + 1
    folds = _folds(pooled, protocol.folds)
    hits, penalties = {}, {}
    for done, (name, features) in enumerate(pooled.train.features.items()):
        context.progress("linear probe: fitting", done / len(pooled.train.features))
        penalties[name] = choose_penalty(features, labels, classes, folds, protocol)
        head = logistic(features, labels, classes, penalties[name], protocol.tolerance)
        hits[name] = head(pooled.test.features[name]).argmax(dim=1).numpy() == pooled.test.labels
    return found_hits(context, pooled, hits, penalties)


probe = ProbeSpec(
    rank=20,
    title="Linear classification from frozen features",
    protocol=LinearProtocol(),
    columns={"images": ("label",)},
    metrics={"accuracy": share("accuracy", "share of test images whose class is found")},
    sentence="A linear map of the mean feature gives {value} of the test images their class",
    measure=measure,
)


def _folds(pooled: Pooled, folds: int) -> Int[torch.Tensor, " n"]:
    """The fold of each training image: dealt out class by class in a keyed order, images of a scene together."""
    frames, labels = pooled.train.frames, pooled.train.labels
    alone = scene_is_class(frames)
    names = [frame.id if alone else f"{frame.scene}" for frame in frames]
    by_name = {name: int(label) for name, label in zip(names, labels, strict=True)}
    order = keyed_rng("linear probe folds").permutation(len(by_name))
    listed = sorted(by_name)
    dealt = sorted((listed[i] for i in order), key=lambda name: by_name[name])  # stable: the keyed order within a class
    fold = {name: rank % folds for rank, name in enumerate(dealt)}
    return torch.tensor([fold[name] for name in names])


@dataclass(frozen=True)
class Classifier:
    """Scores = x @ weight + bias."""

    weight: Float[torch.Tensor, "d c"]
    bias: Float[torch.Tensor, " c"]

    def __call__(self, x: Float[torch.Tensor, "n d"]) -> Float[torch.Tensor, "n c"]:
        return x @ self.weight + self.bias


def choose_penalty(
    x: Float[torch.Tensor, "n d"], labels: Int[torch.Tensor, " n"], classes: int, folds: Int[torch.Tensor, " n"], protocol: LinearProtocol
) -> float:
    """The penalty with the least cross-entropy when each fold is predicted from the others."""
    errors = dict.fromkeys(protocol.penalties, 0.0)
    for held_out in sorted(set(folds.tolist())):
        inside, outside = folds != held_out, folds == held_out
        for penalty in protocol.penalties:
            head = logistic(x[inside], labels[inside], classes, penalty, 100 * protocol.tolerance)
            errors[penalty] += float(torch.nn.functional.cross_entropy(head(x[outside]), labels[outside], reduction="sum"))
    return min(errors, key=lambda penalty: errors[penalty])


def logistic(x: Float[torch.Tensor, "n d"], labels: Int[torch.Tensor, " n"], classes: int, penalty: float, tolerance: float) -> Classifier:
    """Minimises mean cross-entropy(z @ w + b) + penalty / 2 |w|^2, z the standardised x. Raises `SightlineError` if that fails.

    It is solved in coordinates in which Boehning's bound on the Hessian, (z'z / n) / 2 + penalty, is the identity: correlated
    features, which those of a network are, would otherwise take L-BFGS thousands of steps. The minimum is the same.
    """
    mean = x.mean(dim=0)
    variance = (x - mean).square().mean(dim=0)
    scale = torch.where(variance > 1e-10 * variance.max().clamp_min(1e-30), variance.sqrt(), torch.inf)
    z = (x - mean) / scale
    values, vectors = torch.linalg.eigh(z.T @ z / len(z))
    stretch = (values.clamp_min(0) / 2 + penalty).rsqrt()
    turned = z @ (vectors * stretch)
    weight = torch.zeros(x.shape[1], classes, dtype=x.dtype, requires_grad=True)
    bias = torch.zeros(classes, dtype=x.dtype, requires_grad=True)
    shrink = penalty / 2 * stretch.square()[:, None]
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=MAX_STEPS, tolerance_grad=tolerance, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss: torch.Tensor = torch.nn.functional.cross_entropy(turned @ weight + bias, labels) + (shrink * weight.square()).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        solver.step(closure)  # type: ignore[no-untyped-call]
        closure()
    left = max(float(parameter.grad.abs().max()) for parameter in (weight, bias) if parameter.grad is not None)
    if not left <= 10 * tolerance:
        raise SightlineError(f"the linear probe did not converge: a gradient of {left:.1e} is left", "please report it, with the data set")
    with torch.no_grad():
        solved = (vectors * stretch) @ weight / scale[:, None]
        return Classifier(solved, bias - mean @ solved)
