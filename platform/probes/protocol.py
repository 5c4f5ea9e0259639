"""Probe protocols: frozen, versioned data. A changed number or word is a new version, never an edit, or old results lose their meaning."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from sightline.methods.settings import Settings


class Resampling(Settings):
    """How uncertainty is measured: percentile bootstrap over units that are independent of each other, or nearly so."""

    draws: int = 2000
    level: float = 0.95
    seed: int = 0
    min_scenes: int = 5
    """With fewer scenes than this, resampling scenes says nothing; time blocks are resampled instead."""
    blocks: int = 10
    """Blocks in all, of equal counts, where there are too few scenes."""


class Protocol(Settings):
    """What every protocol states. `max_rows` bounds the cost: at most so many rows of the training and of the test data, evenly spaced."""

    name: str
    version: int = 1
    images: str
    max_rows: tuple[int, int]
    layer: str = "last block, after the final norm"
    pooling: str
    features: str
    head: str
    pixels: str
    """The raw-pixels baseline: features that no network has touched, in place of the encoder's."""
    pixel_cells: int = 8
    """Mean colours of 8 x 8 cells (192 values): of the image for probes of images, of each patch for probes of patches."""
    resampling: Resampling = Resampling()


class HeadProtocol(Protocol):
    """A protocol that fits a head on training data."""

    gap: float = 2.0
    """Seconds between training and test frames of one scene; training frames that are nearer are left out."""


EVERY_IMAGE = "each image once; largest centre crop of the encoder's shape, then resized to its size (bicubic, antialiased)"
PIXELS_OF_A_PATCH = "8 x 8 mean colours of each patch of the same grid"
PIXELS_OF_AN_IMAGE = "8 x 8 mean colours of the largest centre square"


class DepthProtocol(HeadProtocol):
    """Monocular depth from frozen patch features: one linear map, shared by all patches, from a patch's feature to its log depth."""

    name: Literal["depth"] = "depth"
    version: int = 2
    images: str = f"both images of each pair, or single images; {EVERY_IMAGE}"
    max_rows: tuple[int, int] = (1000, 500)
    pooling: str = "none: one prediction a patch"
    features: str = "standardised with mean and deviation of the training patches"
    head: str = "ridge regression of log depth, closed form (no head seed); predictions clipped to the range of the training targets"
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Ridge penalties tried, as a share of the number of patches (features have unit variance)."""
    folds: int = 5
    """The penalty has the least squared error when each fold of whole units is predicted from the others; then all are fitted."""
    target: str = "median of the valid depths inside the patch, metres"
    min_valid: float = 0.5
    """A patch counts if at least this share of its pixels has a depth."""
    delta: float = 1.25
    """delta1 is the share of patches with max(predicted / true, true / predicted) below this."""
    metrics: tuple[str, ...] = ("delta1", "absrel", "rmse")
    pooled: str = "all valid test patches weigh the same"
    position: str = "mean training log depth at each place of the grid"
    pixels: str = PIXELS_OF_A_PATCH


class KnnProtocol(HeadProtocol):
    """Classification by the nearest training images: what the features call alike, without any training."""

    name: Literal["knn"] = "knn"
    images: str = EVERY_IMAGE
    max_rows: tuple[int, int] = (5000, 2000)
    pooling: str = "mean over all patch tokens; no class token"
    features: str = "minus the mean of the training images, divided by their length"
    head: str = "the k training images of largest cosine vote with exp(cosine / temperature); ties go to the lower class index"
    k: int = 20
    temperature: float = 0.07
    metrics: tuple[str, ...] = ("accuracy",)
    pixels: str = PIXELS_OF_AN_IMAGE


class LinearProtocol(HeadProtocol):
    """Classification by one linear map from the image's mean feature."""

    name: Literal["linear"] = "linear"
    images: str = EVERY_IMAGE
    max_rows: tuple[int, int] = (5000, 2000)
    pooling: str = "mean over all patch tokens; no class token"
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
    metrics: tuple[str, ...] = ("accuracy",)
    pixels: str = PIXELS_OF_AN_IMAGE


class SegmentationProtocol(HeadProtocol):
    """Semantic segmentation from frozen patch features: one linear map, shared by all patches, from a patch's feature to its classes."""

    name: Literal["segmentation"] = "segmentation"
    images: str = EVERY_IMAGE
    max_rows: tuple[int, int] = (1000, 500)
    pooling: str = "none: one prediction a patch"
    features: str = "standardised with mean and deviation of the training patches"
    head: str = "ridge regression of the share of each class among the labelled pixels of a patch, closed form (no head seed)"
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    folds: int = 5
    min_valid: float = 0.5
    """A training patch counts if at least this share of its pixels has a label."""
    prediction: str = "shares upsampled to pixels (bilinear, corners not aligned), then the largest"
    short_side: int = 224
    """Pixels of the evaluated crop's short side, whatever the encoder's size; labels are sampled to the nearest pixel."""
    metrics: tuple[str, ...] = ("miou", "pixel_accuracy")
    pooled: str = (
        "IoU from the pixels of all test images together; mean over the classes with a labelled test pixel; ignored pixels left out"
    )
    position: str = "mean training shares at each place of the grid"
    pixels: str = PIXELS_OF_A_PATCH


class CorrespondenceProtocol(Protocol):
    """Zero-shot matching of two views: is the nearest feature in the other view that of the same surface point?"""

    name: Literal["correspondence"] = "correspondence"
    images: str = "both images of a pair; largest centre crop of the encoder's shape, then resized to its size (bicubic, antialiased)"
    max_rows: tuple[int, int] = (0, 400)
    pooling: str = "none: one match a patch"
    features: str = "minus the mean over the patches of their image, divided by their length"
    head: str = "none: the patch of image 2 with the largest cosine, among all patches of image 2"
    truth: str = (
        "the depth at the centre of a patch of image 1 is projected into image 2; the patch counts if the point falls in the crop, where "
        "the depths agree"
    )
    relative: float = 0.05
    absolute: float = 0.05
    """Depths agree within 5 % or 5 cm, whichever is more."""
    within: int = 1
    """A match is right if it lies at most one cell of the encoder's own grid from the true one, diagonals included."""
    angles: tuple[float, ...] = (15.0, 30.0, 60.0)
    """Borders of the bins, degrees of the rotation between the two cameras."""
    metrics: tuple[str, ...] = ("recall", "recall_0_15", "recall_15_30", "recall_30_60", "recall_60_180")
    pooled: str = "all visible patches of all pairs weigh the same"
    position: str = "the same cell of the grid in image 2"
    pixels: str = PIXELS_OF_A_PATCH


DEPTH = DepthProtocol()
KNN = KnnProtocol()
LINEAR = LinearProtocol()
SEGMENTATION = SegmentationProtocol()
CORRESPONDENCE = CorrespondenceProtocol()


def as_dict(protocol: Settings) -> dict[str, Any]:
    """The protocol as plain JSON values, to store beside results."""
    return protocol.model_dump(mode="json")


def protocol_hash(protocol: Settings) -> str:
    """12 hexadecimal digits that change with any word or number of the protocol."""
    text = json.dumps(as_dict(protocol), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
