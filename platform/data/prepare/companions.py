"""Tells photos from what lies beside them: depth maps, masks, and smaller copies of the same photos.

Nothing is left out for its name or its pixels alone: there must be a photo that it belongs to. A folder of nothing but 16-bit or palette
images is a folder of photos.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from sightline.methods.random import key
from sightline.platform.data.images import DAMAGED, IMAGE_SUFFIXES, open_image, readable_formats, to_rgb

from .files import Tree, read_file, suffix_of

MAP_WORDS = frozenset(
    (
        *("depth", "depths", "depthmap", "depthmaps", "depthcrop", "rawdepth", "disp", "disparity", "disparities"),
        *("mask", "masks", "maskcrop", "seg", "segm", "segmentation", "segmentations", "segmentationclass", "segmentationobject"),
        *("semantic", "semantics", "semseg", "instance", "instances", "instanceids", "label", "labels", "labelids", "labeltrainids"),
        *("annot", "annotation", "annotations", "parts", "trainannot", "valannot", "testannot", "gtfine", "gt", "groundtruth"),
        *("normal", "normals", "matte", "mattes", "confidence", "conf"),
    )
)
"""Words in names of depth maps and masks."""
_SURE_WORDS = frozenset(word for word in MAP_WORDS if word.startswith(("depth", "disp", "mask", "seg")) or word == "rawdepth")
PHOTO_WORDS = frozenset(
    (*("rgb", "color", "colour", "image", "images", "img", "imgs", "photo", "photos", "frame", "frames"), "jpegimages", "leftimg")
)
SIZE_WORD = re.compile(
    r"^(.*?)(?:[ _\-@.](?:x?\d{1,5}x?|\d+px|\d+p)|[ _\-@.]?(?:thumbs?|thumbnails?|small|medium|low|lowres|previews?|half))$"
)
SIZE_SUFFIX = re.compile(r"^(.+?)[ _\-@.](?:\d+x\d+|\d+x|t|thumb|thumbnail|small|medium|preview)$")
COMPARED = 6
"""Images of two folders whose sizes are compared; of two of them the pixels are, too."""
ALIKE = 16.0
"""Grey levels by which a smaller copy may differ from its photo on average, at 16 x 16 pixels."""
BY_NAME, BY_DEPTH, BY_MASK, SMALLER = (
    "depth map(s) or mask(s) by name",
    "16-bit grey among colour photos",
    "mask(s) with the names of photos",
    "smaller copies",
)


class Peek(NamedTuple):
    """What the header of an image says."""

    kind: Literal["colour", "grey", "palette", "deep", "unknown"]
    width: int = 0
    height: int = 0


def take_photos(tree: Tree, below: str = "", *, deep: bool = True, all_images: bool = False) -> list[str]:
    """The photos in the folder `below`, as `Tree.take` gives them; the tree tells what was left out. `all_images` leaves nothing out."""
    paths = tree.take(IMAGE_SUFFIXES, below, deep=deep)
    apart = {} if all_images else companions(tree.root / below, paths)
    if apart:
        start = f"{below.strip('/')}/" if below.strip("/") else ""
        counts, first = Counter(apart.values()), {why: path for path, why in reversed(apart.items())}
        for why, count in counts.items():
            tree.set_apart(why, count, start + first[why])
    return [path for path in paths if path not in apart]


def companions(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Relative path -> why it is no photo of its own, for the images `paths` below `root`."""
    peek = _peeks(root)
    same = partial(_same_picture, root)
    apart: dict[str, str] = {}
    for find in (_by_name, _deep_among_colour, _masks_by_pixels, partial(_smaller_copies, same=same)):
        apart |= find([path for path in paths if path not in apart], peek=peek)
    return {path: apart[path] for path in paths if path in apart}


def companion_folders(root: Path, folders: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of the folders below `root` that should be classes: name -> why all of its images belong to photos in the others.

    `folders` has the images of each, relative to it. A class may be called `mask`, so a name tells nothing where images are in colour and
    the others are not called `color`, `rgb` or the like.
    """
    paths = [f"{folder}/{path}" for folder, files in folders.items() for path in files]
    peek = _peeks(root)
    maps = _by_name(paths, peek=peek) if any(map(_is_map, folders)) else {}
    named = [folder for folder in folders if set(_words(folder)) <= PHOTO_WORDS]
    maps |= _masks_by_pixels([path for path in paths if path not in maps], peek=peek) if named else {}
    copies = _smaller_copies([path for path in paths if path not in maps], peek=peek, same=partial(_same_picture, root))
    apart: dict[str, str] = {}
    for folder, files in folders.items():
        whys = {maps.get(f"{folder}/{path}") or copies.get(f"{folder}/{path}") or "" for path in files}
        photos = any(other != folder for other in named)
        plain = all(peek(f"{folder}/{path}").kind not in ("colour", "unknown") for path in files)
        if whys == {SMALLER} or (whys == {BY_NAME} and _is_map(folder) and (photos or plain)) or (whys == {BY_MASK} and photos):
            apart[folder] = whys.pop()
    return apart


def _words(name: str) -> list[str]:
    """`depthMap_000017` -> depth, map, 000017"""
    return [word for word in re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", "_", name).lower()) if word]


def _is_map(name: str) -> bool:
    words = _words(name)
    return any(word in MAP_WORDS for word in words) or "".join(words) in MAP_WORDS


def base_of(stem: str) -> str:
    """A stem without the words that say which of several images of one view it is."""
    words = [word for word in _words(stem) if word not in MAP_WORDS and word not in PHOTO_WORDS]
    return " ".join(words)


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name[: len(name) - len(suffix_of(path))]


def _folders(paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        found[path.rpartition("/")[0]].append(path)
    return found


def _by_name(paths: list[str], peek: Callable[[str], Peek]) -> dict[str, str]:
    """`0001_depth.png` beside `0001.png`; `depth/0001.png` beside `rgb/` or beside any folder with the same names."""
    folders = _folders(paths)
    apart: dict[str, str] = {}
    for files in folders.values():
        photos = [path for path in files if not _is_map(_stem(path))]
        if len(photos) == len(files):
            continue
        bases = {base_of(_stem(path)) for path in photos}
        for path in files:
            if _is_map(_stem(path)) and (_has_photo(base_of(_stem(path)), bases) or any(_is_mask(path, photo, peek) for photo in photos)):
                apart[path] = BY_NAME
    parts = {folder: folder.split("/") for folder in folders}
    beside: dict[tuple[int, str], list[str]] = defaultdict(list)  # folders whose paths differ in one part alone
    for folder, names in parts.items():
        for place in range(len(names)):
            beside[place, _starred(names, place)].append(folder)
    for folder, names in parts.items():
        for place, name in enumerate(names):
            if folder and _is_map(name) and not set(_words(name)) & PHOTO_WORDS:
                others = [one for one in beside[place, _starred(names, place)] if not _is_map(parts[one][place])]
                if _may_be_photos(name, folders[folder], peek):
                    others = [one for one in others if _is_photos(parts[one][place])]
                if any(_belongs(folders[folder], folders[one], parts[one][place]) for one in others):
                    apart |= dict.fromkeys(folders[folder], BY_NAME)
    return apart


def _has_photo(base: str, bases: set[str]) -> bool:
    """Whether a photo has this base, or it without its last word: `x_mask_1.png` and `x_mask_2.png` belong to `x.png`."""
    shorter = base.rpartition(" ")[0]
    return base in bases or bool(shorter and shorter in bases)


def _is_photos(folder: str) -> bool:
    return bool(set(_words(folder)) & PHOTO_WORDS)


def _may_be_photos(folder: str, files: list[str], peek: Callable[[str], Peek]) -> bool:
    """Whether a folder whose name can mean what photos show (`normal`, `parts`) holds colour JPEG, as maps and masks hardly do."""
    plain = not any(word in _SURE_WORDS for word in _words(folder))
    return plain and all(suffix_of(path) in (".jpg", ".jpeg") for path in files) and peek(files[0]).kind == "colour"


def _starred(names: list[str], place: int) -> str:
    return "/".join([*names[:place], "*", *names[place + 1 :]])


def _belongs(maps: list[str], photos: list[str], name: str) -> bool:
    """Whether a folder of maps belongs to one of photos: by its name, or because most of its names are there."""
    if _is_photos(name):
        return True
    bases = {base_of(_stem(path)) for path in photos}
    return sum(base_of(_stem(path)) in bases for path in maps) * 2 > len(maps)


def _deep_among_colour(paths: list[str], peek: Callable[[str], Peek]) -> dict[str, str]:
    """16-bit grey, where there are colour photos enough for it to belong to: depth maps are at most as many as photos."""
    may = [path for path in paths if suffix_of(path) in (".png", ".tif", ".tiff")]
    deep = [path for path in may if peek(path).kind == "deep"]
    colour = len(paths) - len(may) + sum(peek(path).kind == "colour" for path in may) if deep else 0
    return dict.fromkeys(deep, BY_DEPTH) if colour and len(deep) <= 2 * colour else {}


def _may_be_mask(path: str, peek: Callable[[str], Peek]) -> bool:
    return suffix_of(path) in (".png", ".bmp", ".gif", ".tif", ".tiff") and peek(path).kind in ("palette", "grey", "deep")


def _is_mask(path: str, photo: str, peek: Callable[[str], Peek]) -> bool:
    """Whether an image has one channel, and the size of a colour photo."""
    return _may_be_mask(path, peek) and peek(photo) == Peek("colour", *peek(path)[1:])


def _masks_by_pixels(paths: list[str], peek: Callable[[str], Peek]) -> dict[str, str]:
    """Palette, grey or 1-bit images with the name and the size of a colour photo: `1.png` beside `1.jpg`, or a whole folder of them."""
    apart: dict[str, str] = {}
    folders = _folders(paths)
    only_masks = {folder for folder, files in folders.items() if all(_may_be_mask(path, peek) for path in files)}
    photos: dict[str, list[str]] = defaultdict(list)
    for folder, files in folders.items():
        if folder not in only_masks:
            if only_masks:
                for path in files:
                    photos[_stem(path)].append(path)
            twins = [pair for two in _of_one_stem(files) if len(two) == 2 for pair in (two, two[::-1])]
            apart |= {path: BY_MASK for path, photo in twins if _is_mask(path, photo, peek)}
    for folder in only_masks:
        if all(any(_is_mask(path, photo, peek) for photo in photos[_stem(path)]) for path in folders[folder]):
            apart |= dict.fromkeys(folders[folder], BY_MASK)
    return apart


def _of_one_stem(files: list[str]) -> Iterator[list[str]]:
    """Those of one folder that differ in their suffix alone, in their order."""
    stems = np.fromiter((key(_stem(path)) for path in files), np.uint64, len(files))
    order = np.argsort(stems, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(stems[order]) != 0]) if len(files) else np.zeros(0, np.int64)
    for start, count in zip(starts.tolist(), np.diff(np.r_[starts, len(files)]).tolist(), strict=True):
        if count > 1:
            yield [files[place] for place in order[start : start + count].tolist()]


def _smaller_copies(paths: list[str], peek: Callable[[str], Peek], same: Callable[[str, str], bool]) -> dict[str, str]:
    """`images_4/` beside `images/` or `images_2/`, `thumbs/` beside or in a folder, `photo-300x200.jpg` beside `photo.jpg`."""
    apart: dict[str, str] = {}
    folders = _folders(paths)
    families: dict[tuple[str, str], list[str]] = defaultdict(list)
    beside: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        parent, _, name = folder.rpartition("/")
        families[parent, _family(name.lower())].append(folder)
        beside[parent].append(folder)
    for (parent, family), members in families.items():
        others = [parent] if parent in folders else []
        if not family:  # named for their size alone, such as thumbs/
            others += [folder for folder in beside[parent] if folder not in members]
        elif len(members) > 1:
            others.append(max(members, key=lambda folder: peek(folders[folder][0]).width))
        for folder in members:
            if folder and any(one != folder and _is_smaller(folders[folder], folders[one], peek, same) for one in others):
                apart |= dict.fromkeys(folders[folder], SMALLER)
    for files in folders.values():
        sizes = [(path, sized[1]) for path in files if (sized := SIZE_SUFFIX.match(_stem(path).lower()))]
        stems = {_stem(path).lower(): path for path in files} if sizes else {}
        for path, name in sizes:
            whole = stems.get(name)
            if whole and (_shrunk(peek(path), peek(whole)) or _stem(path).endswith("{1}x{2}".format(*peek(path)))):
                apart[path] = SMALLER
    return apart


def _family(name: str) -> str:
    """`images` of `images`, `images_2` and `images_4`; nothing of `thumbs`."""
    found = SIZE_WORD.match(name)
    return found[1] if found else name


def _is_smaller(files: list[str], others: list[str], peek: Callable[[str], Peek], same: Callable[[str, str], bool]) -> bool:
    """Whether the images of `files` show what those of `others` show (same names, or as many), in the same shape and smaller."""
    if peek(files[0]).width >= peek(others[0]).width and peek(files[0]).height >= peek(others[0]).height:
        return False
    whole = {_stem(path): path for path in others}
    copies = [(path, whole[_stem(path)]) for path in files if _stem(path) in whole]
    if len(copies) * 2 <= len(files):
        if len(files) != len(others):
            return False
        copies = list(zip(files, others, strict=True))
    step = -(-len(copies) // COMPARED)
    copies = copies[::step]
    return all(_shrunk(peek(small), peek(large)) for small, large in copies) and all(same(*copy) for copy in copies[-2:])


def _shrunk(small: Peek, large: Peek) -> bool:
    if not 0 < small.width < large.width or not small.height:
        return False
    scale = large.width / small.width
    return abs(large.height - small.height * scale) <= 2 * scale


def _same_picture(root: Path, one: str, other: str) -> bool:
    """Whether two images show the same, compared at 16 x 16 grey pixels."""
    small = [grey_thumbnail(root / path) for path in (one, other)]
    return small[0] is not None and small[1] is not None and float(np.abs(small[0] - small[1]).mean()) < ALIKE


def grey_thumbnail(path: Path) -> np.ndarray | None:
    """float64 16 x 16 grey levels of an image; None for one that cannot be read."""
    try:
        image = open_image(read_file(str(path)))
        image.draft("RGB", (128, 128))  # a large JPEG is decoded at an eighth
        return np.asarray(to_rgb(image).convert("L").resize((16, 16), Image.Resampling.BOX), np.float64)
    except DAMAGED:
        return None


def _peeks(root: Path) -> Callable[[str], Peek]:
    """What the headers of files below a folder say, each read once. Equal answers are one object: there may be a million."""
    seen: dict[str, Peek] = {}
    same: dict[Peek, Peek] = {}

    def peek(path: str) -> Peek:
        if (found := seen.get(path)) is None:
            found = _peek(root / path)
            seen[path] = found = same.setdefault(found, found)
        return found

    return peek


def _peek(path: Path) -> Peek:
    """What the header of a file says; of a PNG without Pillow, because there may be a million."""
    try:
        with path.open("rb") as file:
            head = file.read(33)
            file.seek(0)
            if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR":
                width, height, bits, colour = int.from_bytes(head[16:20]), int.from_bytes(head[20:24]), head[24], head[25]
                kind = "colour" if colour in (2, 6) else "palette" if colour == 3 else "deep" if bits == 16 else "grey"
                return Peek(kind, width, height)  # type: ignore[arg-type]
            with Image.open(file, formats=readable_formats()) as image:
                mode, size = image.mode, image.size
    except DAMAGED:
        return Peek("unknown")
    kinds: dict[str, Literal["grey", "palette"]] = {"1": "grey", "L": "grey", "LA": "grey", "P": "palette", "PA": "palette"}
    return Peek("deep" if mode.startswith("I") or mode == "F" else kinds.get(mode, "colour"), *size)
