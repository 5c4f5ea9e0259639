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
        "habitat:Habitat",
        "crops:Crops",
        "mine:Mine",
        "rgbd:Rgbd",
        "frames:Frames",
        "rendered:Rendered",
        "scans:Scans",
        "truth:Stereo",
        "truth:Flow",
    ),
    "images": (
        "image_folder:ImageFolder",
        "image_classes:ImageClasses",
        "masks:Masks",
        "listed:ListedImages",
        "image_frames:ImageFrames",
        "pair_frames:ImagesOfPairs",
    ),
    "points": (
        "cloud_folder:CloudFolder",
        "cloud_classes:CloudClasses",
        "cloud_arrays:CloudArrays",
        "cloud_depth:CloudDepth",
        "shapenet55:ShapeNet55",
        "modelnet40:ModelNet40",
        "scanobjectnn:ScanObjectNN",
        "shapenetpart:ShapeNetPart",
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
