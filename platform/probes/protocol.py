"""Probe protocols: frozen, versioned data. A changed number is a new version, never an edit, or old results lose their meaning."""

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


class DepthProtocol(Settings):
    """Monocular depth from frozen patch features: one linear map, shared by all patches, from a patch's feature to its log depth."""

    name: Literal["depth"] = "depth"
    version: int = 1
    images: str = "both images of each pair, each image once; largest centre crop of the encoder's shape, then resized to its size"
    max_rows: tuple[int, int] = (1000, 500)
    """At most so many rows of the training and of the test data, evenly spaced, so that the cost does not grow with the data set."""
    layer: str = "last block, after the final norm"
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
    gap: float = 2.0
    """Seconds between training and test frames of one scene; training frames that are nearer are left out."""
    resampling: Resampling = Resampling()


DEPTH_V1 = DepthProtocol()


def as_dict(protocol: Settings) -> dict[str, Any]:
    """The protocol as plain JSON values, to store beside results."""
    return protocol.model_dump(mode="json")


def protocol_hash(protocol: Settings) -> str:
    """12 hexadecimal digits that change with any word or number of the protocol."""
    text = json.dumps(as_dict(protocol), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
