"""Clouds in folders that are classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import CallError

from ..clouds import CloudFile, CloudItem
from ..files import Tree, existing_folder, folders_in
from ..found import SPLITS, WHOLE, ClassList, Found, split_of
from ..image_sources.classes import own_splits
from ..meshes import clouds_in
from ..packed import Packed
from ..source import CloudSource
from .folder import pickles


@dataclass(frozen=True)
class CloudClasses(CloudSource):
    """`CLASS/...`, `train/CLASS/...` or ModelNet's `CLASS/train/...`."""

    reader = "classes"
    help = "folders that are classes, with train/ and test/ above or, as in ModelNet, inside them"
    examples = ("./ModelNet10 --points 8192 --out ./modelnet10",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        """Raises `CallError` for fewer than two classes."""
        folder = existing_folder(place)
        found = Found[CloudItem](self.provenance(folder), {})
        splits = own_splits(folder)
        classes = sorted({sub.name for top in [folder / s for s in splits.values()] or [folder] for sub in folders_in(top)})
        if len(classes) < 2:
            there = f"a single class folder: {classes[0]}" if classes else "no class folders"
            raise CallError(
                f"{folder} has {there}; labels need two classes or more",
                f"for clouds without labels: sightline prepare points folder {place} ...",
            )
        found.classes = ClassList(tuple(classes))
        tree = Tree.of(folder)
        found.skips += pickles(tree)
        for label, one in enumerate(classes):
            for part, where in _places(folder, one, splits).items():
                items = found.parts.setdefault(part, Packed())
                if where.is_dir():
                    start = where.relative_to(folder).as_posix()
                    for path in clouds_in(tree, start):
                        items.append(CloudFile(f"{name}/{start}/{path}", self.drawn(seed), label=label, file=f"{where}/{path}"))
        found.count(tree)
        if WHOLE in found.parts and len(found.parts) > 1:
            what = f"some classes of {folder} have folders of splits, others have none"
            raise CallError(what, "give all of them train/ and test/, or none")
        return found


def _places(folder: Path, one: str, splits: dict[str, str]) -> dict[str, Path]:
    """Split -> folder of the class `one`: the splits lie above the classes, inside them, or there are none."""
    if splits:
        return {split: folder / sub / one for split, sub in splits.items()}
    inside = {split: sub for sub in folders_in(folder / one) if (split := split_of(sub.name))}
    return {split: inside[split] for split in SPLITS if split in inside} or {WHOLE: folder / one}
