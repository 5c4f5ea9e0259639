"""The sources of `sightline prepare` by kind, ours and those of other packages. Names are read without importing a source."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sightline.methods.errors import SightlineError
from sightline.platform.core.plugins import plugins

if TYPE_CHECKING:
    from .source import PrepareSource

GROUP = "sightline.sources"
"""Entry points of other packages: `KIND.NAME = "module:Class"`."""
SHIPPED: dict[str, tuple[str, ...]] = {
    "pairs": (
        "pair_sources.habitat:Habitat",
        "pair_sources.crops:Crops",
        "pair_sources.mine:Mine",
        "pair_sources.rgbd:Rgbd",
        "pair_sources.frames:Frames",
        "pair_sources.rendered:Rendered",
        "pair_sources.scans:Scans",
        "pair_sources.truth:Stereo",
        "pair_sources.truth:Flow",
    ),
    "images": (
        "image_sources.folder:ImageFolder",
        "image_sources.classes:ImageClasses",
        "image_sources.masks:Masks",
        "image_sources.listed:ListedImages",
        "image_sources.frames:ImageFrames",
        "pair_sources.frame_pairs:ImagesOfPairs",
    ),
    "points": (
        "cloud_sources.folder:CloudFolder",
        "cloud_sources.classes:CloudClasses",
        "cloud_sources.arrays:CloudArrays",
        "cloud_sources.depth:CloudDepth",
        "cloud_sources.shapenet55:ShapeNet55",
        "cloud_sources.modelnet40:ModelNet40",
        "cloud_sources.scanobjectnn:ScanObjectNN",
        "cloud_sources.shapenetpart:ShapeNetPart",
    ),
}
"""Kind -> `module:Class` in this package, in the order of the help."""
MEANINGS = {
    "pairs": "pairs of images of one scene",
    "images": "single images, with classes, masks or depth",
    "points": "point clouds, with classes or parts",
}


def source_kinds() -> dict[str, str]:
    """Kind -> what it means, of every kind that has a source."""
    others = {name.partition(".")[0] for name in plugins(GROUP)}
    return {kind: MEANINGS.get(kind, f"{kind}, a kind of another package") for kind in (*SHIPPED, *sorted(others - set(SHIPPED)))}


def sources_of(kind: str) -> dict[str, type[PrepareSource]]:
    """Name -> source, of one kind. Raises `SightlineError` where a package names something else as a source of this kind."""
    found: dict[str, type[PrepareSource]] = {}
    for place in SHIPPED.get(kind, ()):
        module, _, name = place.partition(":")
        source = getattr(import_module(f".{module}", __package__), name)
        found[source.reader] = source
    for point in plugins(GROUP).values():
        if point.name.partition(".")[0] == kind:
            source = point.load()
            if f"{getattr(source, 'kind', '')}.{getattr(source, 'reader', '')}" != point.name:
                raise SightlineError(f"{point.value} is not the source {point.name!r}", f"correct the entry point in the group {GROUP}")
            found[source.reader] = source
    return found
