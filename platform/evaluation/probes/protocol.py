"""What protocols have in common; each probe's own stands beside its `measure`.

A protocol is frozen, versioned data. A changed number or word is a new version, never an edit, or old results lose their meaning.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sightline.methods.settings import Settings
from sightline.platform.evaluation.intervals import Resampling


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


class PooledProtocol(HeadProtocol):
    """Classification by the mean feature of an image."""

    images: str = EVERY_IMAGE
    max_rows: tuple[int, int] = (5000, 2000)
    pooling: str = "mean over all patch tokens; no class token"
    metrics: tuple[str, ...] = ("accuracy",)
    pixels: str = PIXELS_OF_AN_IMAGE


class PatchProtocol(HeadProtocol):
    """One linear map for all patches, fitted by ridge regression."""

    max_rows: tuple[int, int] = (1000, 500)
    pooling: str = "none: one prediction a patch"
    features: str = "standardised with mean and deviation of the training patches"
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    """Ridge penalties tried, as a share of the number of patches (features have unit variance)."""
    folds: int = 5
    """The penalty has the least squared error when each fold of whole units is predicted from the others; then all are fitted."""
    min_valid: float = 0.5
    """A patch counts if at least this share of its pixels has a known target."""
    pixels: str = PIXELS_OF_A_PATCH


class CloudProtocol(Protocol):
    """Of encoders of point clouds. Version 2 adds the partly calibrated networks; the other values stayed the same."""

    version: int = 2
    clouds: str = (
        "each cloud once; as many points as the encoder takes, the same draw without replacement for clouds of one size, every time; "
        "centred on their mean, the farthest at distance 1"
    )
    calibration: str = (
        "networks with random weights stand three times: as initialised, with the BatchNorm statistics of the training clouds (averages "
        "over batches of 32), and part of the way to these (momentum 0.1, the first 12 batches), as the beginning of a training leaves "
        "them; trained encoders keep their own statistics"
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


class StoredShapeProtocol(ShapeProtocol):
    """The same on clouds as they are stored."""

    clouds: str = "every row, copies too; the first `points` points in stored order, coordinates as stored: neither centred nor scaled"
    points: int
    """Of a cloud, whatever number the encoder was trained on; a cloud with fewer is left out and counted."""
    max_rows: tuple[int, int] = (1_000_000, 1_000_000)
    handmade: str = "as in `shape_svm`, of the first 512 of these points"


def as_dict(protocol: Settings) -> dict[str, Any]:
    """The protocol as plain JSON values, to store beside results."""
    return protocol.model_dump(mode="json")


def protocol_hash(protocol: Settings) -> str:
    """12 hexadecimal digits that change with any word or number of the protocol."""
    text = json.dumps(as_dict(protocol), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
