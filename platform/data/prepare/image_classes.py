"""Images in folders that are classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.images import IMAGE_SUFFIXES

from .companions import take_photos
from .files import Tree, existing_folder, folders_in
from .found import SPLITS, WHOLE, ClassList, Found, missing_classes
from .images import ImageFile
from .source import PhotoOptions, SceneOptions


@dataclass(frozen=True)
class ImageClasses(PhotoOptions, SceneOptions):
    """The classes of all splits are the sorted names of the folders; an image has no scene."""

    reader = "classes"
    help = "folders that are classes; train/, val/ and test/ with such folders stay splits"
    examples = ("./cifar10 --out ./cifar", "./flowers --split train=0.8,val=0.2 --out ./flowers-set")

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        """Raises `CallError` for fewer than two classes and for a class that `train` lacks."""
        folder = existing_folder(place)
        found = Found[ImageFile](self.provenance(folder), {})
        folders = {split: folder / split for split in own_splits(folder)} or {WHOLE: folder}
        below = {part: folders_in(where) for part, where in folders.items()}
        names = tuple(sorted({sub.name for subs in below.values() for sub in subs}))
        label_of = {one: label for label, one in enumerate(names)}
        if len(names) < 2:
            raise CallError(
                f"{folder} has {'a single class folder: ' + names[0] if names else 'no class folders'}; labels need two classes or more",
                f"for images without labels: sightline prepare images folder {place} ...",
            )
        tree = Tree.of(folder)
        for part in folders:
            start = f"{part}/" if part else ""
            beside = tree.take(IMAGE_SUFFIXES, part, deep=False)
            found.skips += [(f"{start}{path}", "an image lies beside the class folders") for path in beside]
            found.parts[part] = [
                ImageFile(f"{name}/{start}{sub.name}/{path}", f"{folder}/{start}{sub.name}/{path}", label=label_of[sub.name])
                for sub in below[part]
                for path in take_photos(tree, f"{start}{sub.name}", all_images=self.all_images)
            ]
        found.count(tree)
        if "train" in folders:
            trained = {image.label for image in found.parts["train"]}
            unknown = [label for part, images in found.parts.items() for label in sorted({i.label for i in images} - trained, key=str)]
            if unknown and unknown[0] is not None:
                raise CallError(
                    f"class {names[unknown[0]]!r} has images in another split, but none in {folder}/train",
                    "correct the name of the folder, or move the class away",
                )
        found.classes = ClassList(names)
        found.notes += missing_classes(found.parts, names)
        return found


def own_splits(folder: Path) -> tuple[str, ...]:
    """The splits that a folder makes itself: `train/` alone or with its like.

    `train` among other folders is a class like them (there are such); with `val` or `test` beside them it is a `CallError`.
    """
    subs = {sub.name for sub in folders_in(folder)}
    splits = tuple(split for split in SPLITS if split in subs)
    others = sorted(subs - set(SPLITS))
    if others and "train" in splits and len(splits) > 1:
        raise CallError(f"{folder} has folders of splits ({', '.join(splits)}) and others ({others[0]})", "move the others away")
    return splits if "train" in splits and not others else ()
