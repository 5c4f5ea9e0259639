"""Images in folders that are classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..companions import companion_folders, take_photos
from ..files import Tree, existing_folder, folders_in
from ..found import SPLITS, WHOLE, ClassList, Found, missing_classes, split_of
from ..images import ImageFile
from ..labels.object_labels import LABELLED, Labelled
from ..options import option
from ..packed import Packed
from ..source import PhotoOptions, SceneOptions


@dataclass(frozen=True)
class ImageClasses(PhotoOptions, SceneOptions):
    """The classes of all splits are the sorted names of the folders; an image has no scene."""

    reader = "classes"
    archives = True
    help = "folders that are classes; train/, val/ and test/ with such folders stay splits; labels of VOC and COCO"
    examples = ("./cifar10 --out ./cifar", "./flowers --split train=0.8,val=0.2 --out ./flowers-set")

    layout: str | None = option(
        None, "labels from annotations of objects, of images that show one class alone: " + ", ".join(LABELLED), choices=tuple(LABELLED)
    )

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        """Raises `CallError` for fewer than two classes and for a class that `train` lacks."""
        folder = existing_folder(place)
        if self.layout is not None:
            return self._annotated(LABELLED[self.layout](folder, name), folder)
        found = Found[ImageFile](self.provenance(folder), {})
        folders = own_splits(folder) or {WHOLE: ""}
        tree = Tree.of(folder)
        below = {part: self._classes(tree, sub) for part, sub in folders.items()}
        names = tuple(sorted({sub.name for subs in below.values() for sub in subs}))
        label_of = {one: label for label, one in enumerate(names)}
        if len(names) < 2:
            told = "".join(f"; {note}" for note in tree.notes) if tree.apart else ""
            there = f"a single class folder: {names[0]}" if names else "no class folders"
            raise CallError(
                f"{folder} has {there}; labels need two classes or more{told}",
                f"for images without labels: sightline prepare images folder {place} ...",
            )
        for part, sub_folder in folders.items():
            start = f"{sub_folder}/" if sub_folder else ""
            beside = tree.take(IMAGE_SUFFIXES, sub_folder, deep=False)
            found.skips += [(f"{start}{path}", "an image lies beside the class folders") for path in beside]
            found.parts[part] = Packed(
                ImageFile(f"{name}/{start}{sub.name}/{path}", f"{folder}/{start}{sub.name}/{path}", label=label_of[sub.name])
                for sub in below[part]
                for path in take_photos(tree, f"{start}{sub.name}", all_images=self.all_images)
            )
        found.count(tree)
        _check_trained(found, names, folders)
        found.classes = ClassList(names)
        found.notes += missing_classes(found.parts, names)
        return found

    def _annotated(self, labelled: Labelled, folder: Path) -> Found[ImageFile]:
        """Images of one class each, with the classes that occur."""
        found = Found[ImageFile](self.provenance(folder, f"layout {self.layout}: images that show objects of one class"), {})
        found.parts, found.classes, found.skips, found.notes = labelled.parts, labelled.classes, labelled.skips, labelled.notes
        found.notes += missing_classes(found.parts, found.classes.names)
        return found

    def _classes(self, tree: Tree, sub: str) -> list[Path]:
        """The folders in `sub` that are classes. Depth maps, masks or smaller copies of what the others hold are none, and are told."""
        start = f"{sub}/" if sub else ""
        folders = folders_in(tree.root / sub)
        files = {one.name: tree.take(IMAGE_SUFFIXES, start + one.name) for one in folders}
        apart = {} if self.all_images else companion_folders(tree.root / sub, files)
        for name, why in apart.items():
            tree.set_apart(why, len(files[name]), f"{start}{name}/{files[name][0]}")
        return [one for one in folders if one.name not in apart]


def _check_trained(found: Found[ImageFile], names: Sequence[str], folders: Mapping[str, str]) -> None:
    """Raise `CallError` for a class that only a split other than `train` has."""
    if "train" not in folders:
        return
    trained = {image.label for image in found.parts["train"]}
    unknown = [label for part, images in found.parts.items() for label in sorted({i.label for i in images} - trained, key=str)]
    if unknown and unknown[0] is not None:
        raise CallError(
            f"class {names[unknown[0]]!r} has images in another split, but none in {found.source.where}/{folders['train']}",
            "correct the name of the folder, or move the class away",
        )


def own_splits(folder: Path) -> dict[str, str]:
    """Split -> its folder, where a folder holds splits itself: `train/` alone or with its like, under any name that `split_of` knows.

    A folder `train` of images among others is a class like them (there are such). Raises `CallError` for splits among other folders, for
    one that is there twice, and where `train` is missing.
    """
    subs = [sub.name for sub in folders_in(folder)]
    named = [(split, sub) for sub in subs if (split := split_of(sub)) and (sub in SPLITS or folders_in(folder / sub))]
    splits = {split: sub for wanted in SPLITS for split, sub in named if split == wanted}
    others = sorted(set(subs) - {sub for _, sub in named})
    holding = [sub for sub in splits.values() if folders_in(folder / sub)]  # of folders, as a class of images does not
    twice = [sub for split, sub in named if splits[split] != sub]
    if twice and len(holding) == len(splits):
        raise CallError(f"{folder} has two folders of one split: {twice[0]}, {splits[split_of(twice[0]) or '']}", "move one of them away")
    if others and "train" in splits and (len(splits) > 1 or holding):
        raise CallError(f"{folder} has folders of splits ({', '.join(splits.values())}) and others ({others[0]})", "move the others away")
    if "train" not in splits and not others and holding:
        raise CallError(f"{folder} has {', '.join(splits.values())} and no train", f"name one of them, for example {folder}/{holding[0]}")
    return splits if "train" in splits and not others else {}
