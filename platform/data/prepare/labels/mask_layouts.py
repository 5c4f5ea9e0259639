"""Data sets with masks that people know by name: where their files lie, which splits and classes they have, and how a mask is read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import msgspec

from sightline.methods.errors import CallError, first_line
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..files import Tree, is_inside, read_text, text_lines
from ..found import SPLITS, WHOLE, ClassList, split_of
from ..images import ImageFile
from ..label_tables import CITYSCAPES, VOC, VOID, WIDE_VOID, void_of
from ..mask_codes import AdeObjects, MaskCode, Numbers, Outline, Outlines, Segments
from ..packed import Packed
from .coco import CocoFile, read_coco
from .palettes import cityscapes_colours

_VOC_NAME = re.compile(r"\d{4}_\d{6}|\d{6}")


@dataclass
class Masked:
    """What a layout found: images by split, their classes, and what was left out."""

    parts: dict[str, Packed[ImageFile]]
    classes: ClassList
    skips: list[tuple[str, str]]
    notes: list[str]


@dataclass(frozen=True)
class NamedLayout:
    name: str
    help: str
    find: Callable[[Path, str, Tree, tuple[str, ...]], Masked | None]
    """(folder, name of the source, its files, names that the person gives) -> what is there; None where it is another layout."""


def _voc(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """`JPEGImages`, `SegmentationClass`, and lists in `ImageSets/Segmentation`, in the folder or in `VOC2012` and the like below it."""
    root = _below(folder, ("", "VOCdevkit/", "VOC2012/", "VOC2007/", "VOCdevkit/VOC2012/", "VOCdevkit/VOC2007/"), "SegmentationClass")
    if root is None or not (folder / root / "JPEGImages").is_dir():
        return None
    masks, photos = (_stems(tree, f"{root}{sub}") for sub in ("SegmentationClass", "JPEGImages"))
    if not names and not all(_VOC_NAME.fullmatch(stem) for stem in [*masks][:20]):
        return None  # a data set of somebody's own in this layout, whose names are not known
    classes, found = ClassList(names or VOC, VOID), Masked({}, ClassList(), [], [])
    lists = {part: folder / root / "ImageSets/Segmentation" / f"{part}.txt" for part in SPLITS}
    listed = {part: _words(path) for part, path in lists.items() if path.is_file()}
    tree.take((".txt", ".xml"), f"{root}ImageSets"), tree.take((".xml",), f"{root}Annotations")
    tree.take(IMAGE_SUFFIXES, f"{root}SegmentationObject")
    if "train" not in listed:
        listed = {WHOLE: [stem for stem in masks if stem in photos]}
    for part, stems in listed.items():
        if part == "test" and not any(stem in masks for stem in stems):
            found.notes.append(f"test: {len(stems):,} images whose masks are not published are left out")
            continue
        found.parts[part] = Packed()
        for stem in stems:
            if stem not in photos or stem not in masks:
                found.skips.append((stem, "an image of the list is missing" if stem not in photos else "an image has no mask"))
                continue
            photo, mask = f"{folder}/{root}JPEGImages/{photos[stem]}", f"{folder}/{root}SegmentationClass/{masks[stem]}"
            found.parts[part].append(ImageFile(f"{name}/{stem}", photo, name, mask=mask, classes=classes))
    unused = len(photos) - sum(len(items) for items in found.parts.values())
    found.notes += [f"{unused:,} images without a published mask are left out"] if unused > 0 else []
    found.classes = classes
    return found


def _cityscapes(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """`leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine` (or `gtCoarse`), also as they come out of their archives."""
    photos = _below(folder, ("", "leftImg8bit_trainvaltest/", "leftImg8bit_trainextra/"), "leftImg8bit")
    kinds = (("gtFine", ("", "gtFine_trainvaltest/")), ("gtCoarse", ("", "gtCoarse/")))
    truth = next(((kind, at) for kind, places in kinds if (at := _below(folder, places, kind)) is not None), None)
    if photos is None or truth is None:
        return None
    kind, at = truth
    ids = Numbers.of({one.id: one.train_id for one in CITYSCAPES if one.id >= 0}, rest=VOID)
    train_ids = Numbers.of({one.train_id: one.train_id for one in CITYSCAPES} | {254: VOID})
    codes: tuple[tuple[str, MaskCode], ...] = (("labelIds", ids), ("labelTrainIds", train_ids), ("color", cityscapes_colours()))
    classes = ClassList(tuple(one.name for one in sorted(CITYSCAPES, key=lambda one: one.train_id) if one.train_id != VOID), VOID)
    found = Masked({}, classes, [], [])
    masks = {path: path for path in tree.take(IMAGE_SUFFIXES, f"{at}{kind}")}
    used: dict[str, int] = {}
    for path in tree.take(IMAGE_SUFFIXES, f"{photos}leftImg8bit"):
        part, _, rest = path.partition("/")
        stem, city = rest.removesuffix("_leftImg8bit.png"), Path(rest).parent.as_posix()
        if part == "test":
            used["test"] = used.get("test", 0) + 1
            continue
        choice = next(((mask, code) for end, code in codes if (mask := f"{part}/{stem}_{kind}_{end}.png") in masks), None)
        if choice is None:
            found.skips.append((path, "an image has no mask"))
            continue
        item = f"{name}/{part}/{stem}"
        photo, mask = f"{folder}/{photos}leftImg8bit/{path}", f"{folder}/{at}{kind}/{choice[0]}"
        found.parts.setdefault(part, Packed()).append(ImageFile(item, photo, f"{name}/{city}", mask=mask, classes=classes, code=choice[1]))
    if used:
        found.notes.append(f"test: {used['test']:,} images whose masks are not published are left out")
    found.notes.append(f"19 classes by trainId from {kind}; all others are ignored ({VOID})")
    return found


def _ade(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """The challenge: `images/training`, `annotations/training` and `objectInfo150.txt`; a mask has 0 for none, and 1 to 150."""
    root = _below(folder, ("", "ADEChallengeData2016/"), "annotations/training")
    if root is None or not (folder / root / "images/training").is_dir():
        return None
    info = folder / root / "objectInfo150.txt"
    if not names and not info.is_file():
        raise CallError(
            f"{folder / root} has no objectInfo150.txt, which names the classes", "put it there, or give the names: --classes FILE"
        )
    tree.use(f"{root}objectInfo150.txt", f"{root}sceneCategories.txt")
    names = names or _object_info(info)
    classes = ClassList(names, VOID)
    code = Numbers.of({0: VOID, **{index + 1: index for index in range(len(names))}})
    found = Masked({}, classes, [], ["a mask's 0 is no class (255 here), 1 is index 0"])
    for sub, part in (("training", "train"), ("validation", "val")):
        photos, masks = (_stems(tree, f"{root}{top}/{sub}") for top in ("images", "annotations"))
        items = found.parts.setdefault(part, Packed())
        for stem, photo in photos.items():
            if (mask := masks.pop(stem, None)) is None:
                found.skips.append((f"images/{sub}/{photo}", "an image has no mask"))
                continue
            where = f"{folder}/{root}images/{sub}/{photo}", f"{folder}/{root}annotations/{sub}/{mask}"
            items.append(ImageFile(f"{name}/{part}/{stem}", where[0], name, mask=where[1], classes=classes, code=code))
        found.skips += [(f"annotations/{sub}/{mask}", "a mask has no image") for mask in masks.values()]
    return found


def _object_info(path: Path) -> tuple[str, ...]:
    """The column `Name` of `objectInfo150.txt`, in the order of `Idx`."""
    rows = [line.split("\t") for line in text_lines(read_text(path)) if line.strip()]
    head = [word.strip() for word in rows[0]] if rows else []
    if "Idx" not in head or "Name" not in head:
        raise CallError(f"{path} has no columns Idx and Name between tabs", "take the file of ADEChallengeData2016, or give --classes FILE")
    index, column = head.index("Idx"), head.index("Name")
    names = {row[index].strip(): row[column].strip() for row in rows[1:] if len(row) > max(index, column)}
    if set(names) != {str(number + 1) for number in range(len(names))} or len(set(names.values())) != len(names):
        raise CallError(f"{path} does not name classes 1 to {len(names)}, each once", "take the file of ADEChallengeData2016")
    return tuple(names[str(number + 1)] for number in range(len(names)))


class _AdeObject(msgspec.Struct):
    name_ndx: int
    name: str


class _AdeAnnotation(msgspec.Struct):
    object: list[_AdeObject]


class _AdeFile(msgspec.Struct):
    annotation: _AdeAnnotation


def _ade_full(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """The full release: `x.jpg`, `x_seg.png` and `x.json` side by side; classes are the names of objects that occur, by their number."""
    paths = tree.take(IMAGE_SUFFIXES)
    masks = {path.removesuffix("_seg.png"): path for path in paths if path.endswith("_seg.png")}
    if not masks or not all(f"{stem}.jpg" in paths for stem in [*masks][:3]):
        return None
    told = tree.take((".json",))
    tree.take((".txt", ".pkl", ".mat"))
    tree.set_apart("masks of parts and instances", sum(1 for path in paths if "_parts_" in path or "/instance_" in path), "")
    found = Masked({}, ClassList(), [], ["red / 10 x 256 + green is the number of an object's name; parts and instances are not read"])
    of_number = {index + 1: one for index, one in enumerate(names)}
    if not names:
        for path in told:
            of_number |= _ade_names(folder / path, found.skips)
    if not of_number:
        raise CallError(
            f"{folder} has masks of ADE20K (_seg.png) and no .json files that name their objects, as the release of 2021 has them",
            "give the names in the order of its index, one a line: --classes FILE (index_ade20k.pkl is a pickle, which is never opened)",
        )
    numbers = sorted(of_number)
    classes = ClassList(_distinct([of_number[number] for number in numbers], numbers), WIDE_VOID)
    code = AdeObjects(Numbers.of({0: WIDE_VOID, **{number: index for index, number in enumerate(numbers)}}))
    for stem, mask in masks.items():
        part = next((split for word in stem.split("/") if (split := split_of(word))), WHOLE)
        scene = f"{name}/{Path(stem).parent.as_posix()}"
        found.parts.setdefault(part, Packed()).append(
            ImageFile(f"{name}/{stem}", f"{folder}/{stem}.jpg", scene, mask=f"{folder}/{mask}", classes=classes, code=code)
        )
    found.classes = classes
    return found


def _ade_names(path: Path, skips: list[tuple[str, str]]) -> dict[int, str]:
    try:
        return {one.name_ndx: one.name for one in msgspec.json.decode(path.read_bytes(), type=_AdeFile).annotation.object}
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        skips.append((path.name, f"a list of objects cannot be read: {first_line(error)}"))
        return {}


def _distinct(names: Sequence[str], numbers: Sequence[int]) -> tuple[str, ...]:
    return tuple(name if names.count(name) == 1 else f"{name} ({number})" for name, number in zip(names, numbers, strict=True))


def coco_files(folder: Path, tree: Tree, kinds: Sequence[str]) -> list[Path]:
    """The files of annotations in a folder: `annotations/KIND_*.json`, or `_annotations.coco.json` beside the images."""
    found = [path for path in tree.take((".json",)) if _is_coco(path, kinds)]
    return [folder / path for path in found]


def _is_coco(path: str, kinds: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(tuple(f"{kind}_" for kind in kinds)) or ("instances" in kinds and name == "_annotations.coco.json")


def split_of_coco(path: Path) -> str:
    """`instances_val2017.json` -> val; `valid/_annotations.coco.json` -> val."""
    words = [*re.findall(r"[a-z]+", path.stem.lower()), path.parent.name]
    return next((split for word in words if (split := split_of(word))), WHOLE)


class CocoImages:
    """Finds the images that a file of annotations names: beside it, or in the folder of its split."""

    def __init__(self, folder: Path, file: CocoFile, tree: Tree) -> None:
        year = file.path.stem.rpartition("_")[2]
        beside = file.path.parent.relative_to(folder).as_posix()
        self.places = ["" if beside == "." else f"{beside}/", f"{year}/", f"images/{year}/", "images/", ""]
        self.known = set(tree.take(IMAGE_SUFFIXES))

    def find(self, name: str) -> str | None:
        return next((at + name for at in self.places if at + name in self.known), None)


def _coco_panoptic(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """`annotations/panoptic_train2017.json` with PNGs of segments in `panoptic_train2017/`, things and stuff."""
    files = coco_files(folder, tree, ("panoptic",))
    if not files:
        return None
    found = Masked({}, ClassList(), [], ["segments of COCO: things and stuff; what is in no segment is ignored (255)"])
    for path in files:
        file = read_coco(path)
        classes = ClassList(tuple(category.name for category in file.categories), void_of(len(file.categories)))
        index_of = {category.id: index for index, category in enumerate(file.categories)}
        images = CocoImages(folder, file, tree)
        at = next((place for place in (path.parent / path.stem, folder / path.stem) if place.is_dir()), None)
        if at is None:
            raise CallError(f"there is no folder {path.stem} of masks beside {path}", f"unpack {path.stem}.zip there")
        items = found.parts.setdefault(split_of_coco(path), Packed())
        for image in file.images:
            photo, segments = images.find(image.file_name), file.segments_of(image)
            if photo is None or segments is None or not is_inside(segments[0]):
                found.skips.append((image.file_name, "an image of the list is missing" if photo is None else "an image has no mask"))
                continue
            code = Segments(tuple((one.id, index_of[one.category_id]) for one in segments[1]), void_of(len(file.categories)))
            items.append(ImageFile(f"{name}/{photo}", f"{folder}/{photo}", name, mask=f"{at}/{segments[0]}", classes=classes, code=code))
        found.classes = _same(found.classes, classes, path)
    return found


def _coco_instances(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """`annotations/instances_*.json` or `_annotations.coco.json`: polygons and run lengths. Background is index 0."""
    files = coco_files(folder, tree, ("instances",))
    if not files:
        return None
    if find_spec("pycocotools") is None:
        raise CallError("outlines of COCO are drawn by pycocotools, which is not installed", "pip install 'sightline-pretext[coco]'")
    found = Masked({}, ClassList(), [], ["outlines of COCO: index 0 is background; where two classes overlap, pixels are ignored"])
    for path in files:
        file = read_coco(path)
        used = [category for category in file.categories if category.name != "background"]
        classes = ClassList(("background", *(category.name for category in used)), void_of(len(used) + 1))
        index_of = {category.id: index + 1 for index, category in enumerate(used)} | {
            category.id: 0 for category in file.categories if category.name == "background"
        }
        images, items = CocoImages(folder, file, tree), found.parts.setdefault(split_of_coco(path), Packed())
        boxes = 0
        for image in file.images:
            photo, outlines = images.find(image.file_name), tuple(file.of_image.get(image.id, ()))
            if photo is None:
                found.skips.append((image.file_name, "an image of the list is missing"))
            elif any(not msgspec.json.decode(one, type=Outline).segmentation for one in outlines):
                boxes += 1
            elif image.width < 1 or image.height < 1:
                found.skips.append((image.file_name, "the list does not say the size of an image"))
            else:
                code = Outlines(
                    (image.height, image.width), tuple(index_of.items()), outlines, hashlib.sha256(b"\0".join(outlines)).hexdigest()[:16]
                )
                items.append(ImageFile(f"{name}/{photo}", f"{folder}/{photo}", name, classes=classes, code=code))
        if boxes:
            found.notes.append(f"{boxes:,} images of {path.name} have boxes without outlines and are left out: boxes are no masks")
        found.classes = _same(found.classes, classes, path)
    return found


def _coco_stuff(folder: Path, name: str, tree: Tree, names: tuple[str, ...]) -> Masked | None:
    """COCO-Stuff's `stuffthingmaps` (or `annotations`): PNGs of category - 1, 255 for none, with the names in `labels.txt`."""
    root = _below(folder, ("", "stuffthingmaps_trainval2017/", "stuffthingmaps/", "annotations/"), "train2017")
    photos = _below(folder, ("images/", ""), "train2017")
    if (
        root is None
        or photos is None
        or root == photos
        or not any(path.endswith(".png") for path in tree.folders.get(f"{root}train2017/", []))
    ):
        return None
    if not names:
        listed = folder / "labels.txt"
        if not listed.is_file():
            raise CallError(
                f"{folder} has masks of COCO-Stuff and no labels.txt, which names its 182 classes", "put it there, or give --classes FILE"
            )
        tree.use("labels.txt")
        lines = [re.fullmatch(r"(\d+)\s*[:\t ]\s*(.+)", line.strip()) for line in text_lines(read_text(listed)) if line.strip()]
        names = tuple(line[2].strip() for line in lines if line and int(line[1]) > 0)
    classes = ClassList(names, VOID)
    found = Masked({}, classes, [], ["things and stuff of COCO-Stuff by category - 1; 255 is no class"])
    for sub, part in (("train2017", "train"), ("val2017", "val")):
        of_images, of_masks = _stems(tree, f"{photos}{sub}"), _stems(tree, f"{root}{sub}")
        items = found.parts.setdefault(part, Packed())
        for stem, mask in of_masks.items():
            if stem not in of_images:
                found.skips.append((f"{sub}/{mask}", "a mask has no image"))
                continue
            where = f"{folder}/{photos}{sub}/{of_images[stem]}", f"{folder}/{root}{sub}/{mask}"
            items.append(ImageFile(f"{name}/{sub}/{stem}", where[0], name, mask=where[1], classes=classes))
    return found


NAMED = {
    one.name: one
    for one in (
        NamedLayout("cityscapes", "leftImg8bit/ and gtFine/ (labelIds, labelTrainIds or color)", _cityscapes),
        NamedLayout("ade20k", "ADEChallengeData2016: images/, annotations/, objectInfo150.txt", _ade),
        NamedLayout("ade20k-full", "the full release: x.jpg, x_seg.png, x.json", _ade_full),
        NamedLayout("coco-panoptic", "annotations/panoptic_*.json and its PNGs", _coco_panoptic),
        NamedLayout("coco-stuff", "stuffthingmaps/ and labels.txt", _coco_stuff),
        NamedLayout("coco-instances", "annotations/instances_*.json or _annotations.coco.json: polygons, run lengths", _coco_instances),
        NamedLayout("voc", "JPEGImages/, SegmentationClass/, ImageSets/Segmentation/", _voc),
    )
}
"""Tried in this order."""


def _below(folder: Path, places: Sequence[str], sub: str) -> str | None:
    return next((at for at in places if (folder / at / sub).is_dir()), None)


def _stems(tree: Tree, below: str) -> dict[str, str]:
    """Relative path without suffix -> the file."""
    return {Path(path).with_suffix("").as_posix(): path for path in tree.take(IMAGE_SUFFIXES, below)}


def _words(path: Path) -> list[str]:
    """The first word of each line."""
    return [line.split()[0] for line in text_lines(read_text(path)) if line.strip()]


def _same(known: ClassList, classes: ClassList, path: Path) -> ClassList:
    if known.names and known != classes:
        raise CallError(f"{path} names other categories than the file before it", "prepare them one by one")
    return classes
