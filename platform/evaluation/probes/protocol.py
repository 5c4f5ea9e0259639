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
    max_rows: tuple[int, int]
    layer: str = "last block, after the final norm"
    pooling: str
    features: str
    head: str
    resampling: Resampling = Resampling()


class ImageProtocol(Protocol):
    """Of encoders of images."""

    images: str
    pixels: str
    """The raw-pixels baseline: features that no network has touched, in place of the encoder's."""
    pixel_cells: int = 8
    """Mean colours of 8 x 8 cells (192 values): of the image for probes of images, of each patch for probes of patches."""


class HeadProtocol(ImageProtocol):
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


class CorrespondenceProtocol(ImageProtocol):
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


class CloudProtocol(Protocol):
    """Of encoders of point clouds."""

    clouds: str = (
        "each cloud once; as many points as the encoder takes, the same draw without replacement for clouds of one size, every time; "
        "centred on their mean, the farthest at distance 1"
    )
    calibration: str = (
        "networks with random weights stand twice: as initialised, and with the BatchNorm statistics of the training clouds (averages over "
        "batches of 32); trained encoders keep their own statistics"
    )
    calibrated_on: int = 512
    """At most so many training clouds, evenly spaced."""


class ShapeProtocol(CloudProtocol):
    """Classification of whole clouds."""

    max_rows: tuple[int, int] = (10_000, 5000)
    pooling: str = "as the encoder's `pooled` says: the largest of each channel over the coarsest tokens for I2P-MAE"
    handmade: str = (
        "histograms of 32 bins of the distances between points, and of those to the mean, of 512 points; square roots of the shares"
    )
    metrics: tuple[str, ...] = ("accuracy",)


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


class ShapeKnnProtocol(ShapeProtocol):
    """Classification by the nearest training clouds."""

    name: Literal["shape_knn"] = "shape_knn"
    features: str = "minus the mean of the training clouds, divided by their length"
    head: str = "the k training clouds of largest cosine vote with exp(cosine / temperature); ties go to the lower class index"
    k: int = 5
    temperature: float = 0.07
    handmade_head: str = "the handmade histograms have the rule that suits them better: majority of the 3 of smallest L1 distance"
    handmade_k: int = 3


class FewShotProtocol(ShapeProtocol):
    """n ways, m shots: classes, support and test shapes drawn ten times (Sharma and Kaul 2020, with frozen features)."""

    name: Literal["few_shot"] = "few_shot"
    features: str = "standardised with mean and deviation of the support shapes"
    head: str = "support vector classifier with a linear kernel, one against one, C as it stands"
    penalty: float = 1.0
    tasks: tuple[tuple[int, int], ...] = ((5, 10), (5, 20), (10, 10), (10, 20))
    """(ways, shots)."""
    queries: int = 20
    """Test shapes of a class that are not in the support; fewer where a class has fewer, at least `min_queries`."""
    min_queries: int = 5
    draws: int = 10
    metrics: tuple[str, ...] = ("accuracy_5w10s", "accuracy_5w20s", "accuracy_10w10s", "accuracy_10w20s")


class PartProtocol(CloudProtocol):
    """Part segmentation by a linear map of each point's frozen features."""

    name: Literal["part_segmentation"] = "part_segmentation"
    max_rows: tuple[int, int] = (2000, 1000)
    layer: str = "every scale of the encoder with nothing left out, after its norm"
    pooling: str = "tokens spread over the points as the encoder's `at_points` says: by inverse squared distance of the three nearest"
    features: str = "standardised with mean and deviation of the training points of the category"
    head: str = (
        "ridge regression of the part's indicator, one linear map for each category (its label is given), closed form; the largest of the "
        "category's parts wins"
    )
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    folds: int = 4
    position: str = "the coordinates of the point and their squares and products in place of features"
    majority: str = "the most frequent part of the category everywhere"
    metrics: tuple[str, ...] = ("instance_miou", "class_miou")
    pooled: str = "IoU of each part of the category in each shape, 1 where it is in neither; mean over parts, then shapes (then categories)"


DEPTH = DepthProtocol()
KNN = KnnProtocol()
LINEAR = LinearProtocol()
SEGMENTATION = SegmentationProtocol()
CORRESPONDENCE = CorrespondenceProtocol()
SHAPE_SVM = ShapeSvmProtocol()
SHAPE_KNN = ShapeKnnProtocol()
FEW_SHOT = FewShotProtocol()
PART_SEGMENTATION = PartProtocol()


def as_dict(protocol: Settings) -> dict[str, Any]:
    """The protocol as plain JSON values, to store beside results."""
    return protocol.model_dump(mode="json")


def protocol_hash(protocol: Settings) -> str:
    """12 hexadecimal digits that change with any word or number of the protocol."""
    text = json.dumps(as_dict(protocol), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
