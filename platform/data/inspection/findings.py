"""What is wrong or suspicious, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sightline.platform.data.manifest import Manifest

from .cameras import CameraMap
from .duplicates import Across, Duplicates, Within
from .looks import BLURRED, CLIPPED, PLAIN
from .pair_check import PairCheck
from .rows import Rows
from .scan import Scan

TRAINED_ON = ("train", "training")
"""Names of sets that are trained on: two of these may share images."""
FEW = 0.5
"""Share of distinct points below which a cloud is named."""
OFTEN = 0.05
"""Share of images that are mostly black or white from which that is suspicious: a few things stand before a white wall."""
CHAIN_OFF = (2.0, 0.02)
"""Degrees and share of the map's size from which pairs that should agree do not."""


@dataclass(frozen=True)
class Finding:
    """`error`: results would be wrong. `warning`: suspicious. `note`: good to know."""

    severity: Literal["error", "warning", "note"]
    text: str
    leak: bool = False


@dataclass(frozen=True)
class LookedAt:
    """One of the sets, and what was seen of it."""

    name: str
    rows: Rows
    scan: Scan
    check: PairCheck
    maps: Sequence[CameraMap]

    @property
    def manifest(self) -> Manifest:
        return self.rows.dataset.manifest


def find(sets: Sequence[LookedAt], duplicates: Duplicates, leaks: Sequence[Across]) -> list[Finding]:
    """Errors first."""
    found = [Finding("error", _leak(sets, one), leak=True) for one in leaks]
    found += [Finding("warning", _leak(sets, one)) for one in duplicates.across if one.any and one not in leaks]
    found += _between(sets, duplicates)
    for one, within in zip(sets, duplicates.within, strict=True):
        before = f"{one.name}: " if len(sets) > 1 else ""
        found += [Finding(item.severity, f"{before}{item.text}") for item in _of_one(one, within)]
    order = ("error", "warning", "note")
    return sorted(found, key=lambda item: order.index(item.severity))


def leaks(names: Sequence[str], across: Sequence[Across]) -> list[Across]:
    """Sets that share images and are not both trained on."""
    trained = [name.rsplit("/", 1)[-1].lower() in TRAINED_ON for name in names]
    return [one for one in across if one.any and not (trained[one.one] and trained[one.two])]


def _leak(sets: Sequence[LookedAt], one: Across) -> str:
    first, second = sets[one.one], sets[one.two]
    what = "cloud" if not len(second.scan.images) else "image"
    parts = [f"{_counted(one.same, what)} byte for byte"] if one.same else []
    parts += [f"{_counted(one.alike, what)} that look{'s' * (one.alike == 1)} the same"] if one.alike else []
    return f"{second.name} and {first.name} share {' and '.join(parts)}: {one.rows:,} of {second.scan.rows:,} rows of {second.name}"


def _between(sets: Sequence[LookedAt], duplicates: Duplicates) -> Iterator[Finding]:
    named = [one for one in sets if one.manifest.classes]
    if len({one.manifest.classes for one in named}) > 1:
        yield Finding(
            "warning", f"{' and '.join(one.name for one in named)} have different lists of classes: equal labels mean different things"
        )
    elif duplicates.conflicts:
        yield Finding("warning", f"{_counted(duplicates.conflicts, 'time')} the same content has two labels")
    scenes = [set(one.manifest.scenes) for one in sets if one.manifest.scenes]
    if len(scenes) > 1 and (both := set.intersection(*scenes)):
        yield Finding("note", f"{_counted(len(both), 'scene')} in all sets, such as {min(both)}: split by time, or by chance")


def _of_one(one: LookedAt, within: Within) -> Iterator[Finding]:
    manifest, seen = one.manifest, one.scan
    for text in seen.unreadable[:3]:
        yield Finding("error", text)
    if len(seen.unreadable) > 3:
        yield Finding("error", f"{len(seen.unreadable) - 3:,} more row groups cannot be read")
    if seen.broken_rows and len(seen.unreadable) == 0:
        faults = "; ".join(f"{count:,} x {fault}" for fault, count in seen.faults.most_common(3))
        more = f" and {len(seen.faults) - 3} other faults" if len(seen.faults) > 3 else ""
        yield Finding(
            "warning", f"{_share(seen.broken_rows, seen.rows, 'row')} cannot be used: {faults}{more}, the first {seen.broken[0].id}"
        )
    if seen.rows < manifest.rows:
        yield Finding("note", f"{seen.rows:,} of {manifest.rows:,} rows were looked at, random row groups: the others are unknown")
    if within.same_rows:
        yield Finding("warning", f"{_share(within.same_rows, seen.rows, 'row')} repeat another byte for byte")
    if within.twin_rows:
        yield Finding("warning", f"{_share(within.twin_rows, seen.rows, 'pair')} consist of the same image twice")
    if one.check.fault:
        yield Finding("warning", one.check.fault)
    for each in one.maps:
        if each.off and (each.off[0] > CHAIN_OFF[0] or each.off[1] > CHAIN_OFF[1]):
            scene = f" of {each.scene}" if each.scene else ""
            yield Finding(
                "warning", f"poses{scene} disagree: pairs lie {each.off[0]:.1f} degrees and {each.off[1]:.1%} of the map off their chains"
            )
    yield from _of_images(seen)
    yield from _of_clouds(seen)
    yield from _of_classes(manifest)
    if within.alike_images:
        alike = f"{within.alike_images:,} images look like another one, in {_counted(within.alike_groups, 'group')}"
        frames = bool(manifest.scenes) or manifest.kind == "pairs"
        yield Finding("note" if frames else "warning", f"{alike}: {'frames of a scene do' if frames else 'near-duplicates'}")
    if manifest.provenance.skipped:
        yield Finding("note", f"{sum(item.count for item in manifest.provenance.skipped):,} were skipped when it was prepared")
    unstated = [source.where for source in manifest.provenance.sources if source.licence in ("", "unstated")]
    if unstated:
        yield Finding("note", f"the licence of {_counted(len(unstated), 'source')} is unstated")


def _of_images(seen: Scan) -> Iterator[Finding]:
    images = _once(seen.images)
    if not len(images):
        return
    plain = images["contrast"] < PLAIN
    for text, those, from_share in (
        ("are one colour", plain, 0.0),
        ("are blurred", (images["sharpness"] < BLURRED) & ~plain, 0.0),
        ("are mostly black", (images["dark"] >= CLIPPED) & ~plain, OFTEN),
        ("are mostly white", (images["bright"] >= CLIPPED) & ~plain, OFTEN),
    ):
        if count := int(those.sum()):
            told = f"{_share(count, len(images), 'image')} {text if count != 1 else text.replace('are', 'is', 1)}"
            yield Finding("warning" if count >= from_share * len(images) else "note", told)


def _of_clouds(seen: Scan) -> Iterator[Finding]:
    if not len(seen.clouds):
        return
    few = int((seen.clouds["distinct"] < FEW * seen.clouds["points"]).sum())
    if few:
        yield Finding("warning", f"{_share(few, len(seen.clouds), 'cloud')} have most of their points in the same places")
    unit = seen.clouds["unit_normals"]
    bad = int((unit < 0.95).sum())  # NaN, without normals, is not
    if bad:
        yield Finding("warning", f"{_share(bad, len(seen.clouds), 'cloud')} have normals that are not of length 1")
    extent = seen.clouds["extent"][seen.clouds["extent"] > 0]
    middle = float(np.median(extent)) if len(extent) else 0.0
    odd = int(((extent > 20 * middle) | (extent < middle / 20)).sum())
    if odd:
        yield Finding("warning", f"{_share(odd, len(seen.clouds), 'cloud')} are 20 times larger or smaller than most: another unit?")


def _of_classes(manifest: Manifest) -> Iterator[Finding]:
    if manifest.classes and manifest.labels:
        absent = [name for index, name in enumerate(manifest.classes) if not manifest.labels.get(index)]
        if absent:
            yield Finding("warning", f"{_counted(len(absent), 'class', 'classes')} without a row: {', '.join(absent[:5])}")
        without = manifest.rows - sum(manifest.labels.values())
        if without:
            yield Finding("warning", f"{_share(without, manifest.rows, 'row')} have no label")
    if manifest.classes and manifest.pixels:
        absent = [name for index, name in enumerate(manifest.classes) if not manifest.pixels.get(index)]
        if absent:
            yield Finding("warning", f"{_counted(len(absent), 'class', 'classes')} without a pixel: {', '.join(absent[:5])}")


def _once(images: np.ndarray) -> np.ndarray:
    """Each image once, though it may be in many pairs."""
    once: np.ndarray = images[np.sort(np.unique(images["digest"], return_index=True)[1])]
    return once


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _share(count: int, total: int, one: str) -> str:
    return f"{count:,} of {_counted(total, one)} ({count / total:.1%})" if total else _counted(count, one)
