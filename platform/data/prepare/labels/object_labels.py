"""Labels of whole images from annotations of objects, as VOC and COCO have them: of images that show one class alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from sightline.methods.errors import CallError
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..files import Tree, read_text, text_lines
from ..found import SPLITS, WHOLE, ClassList
from ..images import ImageFile
from ..packed import Packed
from .coco import read_coco
from .mask_layouts import CocoImages, coco_files, split_of_coco

XML_BYTES = 2**20
"""Of one file of annotations."""


@dataclass
class Labelled:
    """Images by split, each with one label."""

    parts: dict[str, Packed[ImageFile]] = field(default_factory=dict)
    classes: ClassList = field(default_factory=ClassList)
    skips: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _one_class(
    shown: dict[str, list[tuple[str, str, set[str]]]], names: tuple[str, ...], skips: list[tuple[str, str]], where: Path
) -> Labelled:
    """`shown`: split -> (id, file, classes that the image shows)."""
    if len(names) < 2:
        raise CallError(
            f"{where} has annotations of {len(names)} class(es); labels need two or more", "name the folder that holds the annotations"
        )
    index_of = {name: index for index, name in enumerate(names)}
    found = Labelled({}, ClassList(names), skips)
    for part, images in shown.items():
        one = [(item, file, classes) for item, file, classes in images if len(classes) == 1]
        found.parts[part] = Packed(ImageFile(item, file, label=index_of[next(iter(classes))]) for item, file, classes in one)
        several, none = sum(len(classes) > 1 for *_, classes in images), sum(not classes for *_, classes in images)
        if several or none:
            found.notes.append(
                f"{part or 'the data set'}: {several:,} images show several classes and {none:,} none; they have no single label"
            )
    return found


def _voc(folder: Path, name: str) -> Labelled:
    """`ImageSets/Main/CLASS_SPLIT.txt` (1 shown, 0 difficult, -1 not), else the objects of `Annotations/*.xml`."""
    root = next(
        (one for one in (folder, folder / "VOC2012", folder / "VOC2007", folder / "VOCdevkit/VOC2012") if (one / "JPEGImages").is_dir()),
        None,
    )
    if root is None:
        raise CallError(f"{folder} has no JPEGImages, as VOC has", "name the folder that holds JPEGImages and Annotations")
    tree, skips = Tree.of(root), list[tuple[str, str]]()
    photos = {Path(path).stem: path for path in tree.take(IMAGE_SUFFIXES, "JPEGImages")}
    main = root / "ImageSets/Main"
    shown: dict[str, dict[str, set[str]]] = {}
    names: set[str] = set()
    for path in sorted(main.glob("*_*.txt")):
        label, _, part = path.stem.rpartition("_")
        if part not in SPLITS:
            continue
        names.add(label)
        for words in (line.split() for line in text_lines(read_text(path)) if line.strip()):
            of_image = shown.setdefault(part, {}).setdefault(words[0], set())
            if len(words) > 1 and words[1] == "1":
                of_image.add(label)
    if not shown:
        listed = {part: main / f"{part}.txt" for part in SPLITS if (main / f"{part}.txt").is_file()}
        stems = {part: [line.split()[0] for line in text_lines(read_text(path)) if line.strip()] for part, path in listed.items()}
        for part, of_part in (stems or {WHOLE: list(photos)}).items():
            shown[part] = {stem: _objects(root / "Annotations" / f"{stem}.xml", skips) for stem in of_part}
        names = {label for of_part in shown.values() for labels in of_part.values() for label in labels}
    images = {
        part: [(f"{name}/{stem}", f"{root}/JPEGImages/{photos[stem]}", labels) for stem, labels in of_part.items() if stem in photos]
        for part, of_part in shown.items()
    }
    skips += [(stem, "an image of the list is missing") for of_part in shown.values() for stem in of_part if stem not in photos]
    return _one_class(images, tuple(sorted(names)), skips, root)


def _objects(path: Path, skips: list[tuple[str, str]]) -> set[str]:
    """The names of the objects in a file of annotations; none where it cannot be read, which is told."""
    try:
        if path.stat().st_size > XML_BYTES:
            raise ValueError(f"larger than {XML_BYTES:,} bytes")
        tree = ElementTree.parse(path)  # expat limits what entities grow to, and opens no other file
        return {text.strip() for one in tree.iterfind("object/name") if (text := one.text) and text.strip()}
    except (OSError, ValueError, ElementTree.ParseError) as error:
        skips.append((path.name, f"annotations cannot be read: {error}"))
        return set()


def _coco(folder: Path, name: str) -> Labelled:
    """`annotations/instances_*.json` or `_annotations.coco.json`: boxes suffice."""
    tree, skips = Tree.of(folder), list[tuple[str, str]]()
    shown: dict[str, list[tuple[str, str, set[str]]]] = {}
    names: dict[int, str] = {}
    for path in coco_files(folder, tree, ("instances",)):
        file = read_coco(path)
        of_file = {category.id: category.name for category in file.categories}
        if names and of_file != names:
            raise CallError(f"{path} names other categories than the file before it", "prepare them one by one")
        names, images = of_file, CocoImages(folder, file, tree)
        for image in file.images:
            if (photo := images.find(image.file_name)) is None:
                skips.append((image.file_name, "an image of the list is missing"))
            else:
                labels = {names[category] for category in file.classes_of(image)}
                shown.setdefault(split_of_coco(path), []).append((f"{name}/{photo}", f"{folder}/{photo}", labels))
    if not names:
        raise CallError(
            f"{folder} has no annotations/instances_*.json or _annotations.coco.json", "name the folder that holds `annotations`"
        )
    occurring = {label for images in shown.values() for *_, labels in images for label in labels}
    return _one_class(shown, tuple(name for name in names.values() if name in occurring), skips, folder)


LABELLED: dict[str, Callable[[Path, str], Labelled]] = {"voc": _voc, "coco": _coco}
