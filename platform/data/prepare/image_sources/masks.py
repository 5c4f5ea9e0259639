"""Images with label masks: files of class indices or colours beside the images, under the same stem, and data sets that have a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sightline.methods.errors import CallError
from sightline.platform.data.images import IMAGE_SUFFIXES

from ..companions import base_of
from ..files import Tree, existing_folder, is_inside, read_text, text_lines
from ..found import OTHER_NAMES, SPLITS, WHOLE, ClassList, Found
from ..images import ImageFile
from ..label_tables import known_colours
from ..labels.mask_layouts import NAMED
from ..labels.palettes import FILES, KNOWN, NO_CLASS, read_palette
from ..mask_codes import MaskCode
from ..options import option
from ..packed import Packed
from ..source import SceneOptions

CLASSES = "classes.txt"
LAYOUTS = (
    ("images/{split}", "masks/{split}"),
    ("images/{split}", "labels/{split}"),
    ("images/{split}", "annotations/{split}"),
    ("{split}/images", "{split}/masks"),
    ("{split}/images", "{split}/labels"),
    ("{split}", "{split}annot"),
    ("{split}", "{split}_labels"),
    ("images", "masks"),
    ("images", "labels"),
    ("images", "annotations"),
    ("JPEGImages", "SegmentationClass"),
    ("701_StillsRaw_full", "LabeledApproved_full"),
)
"""Where images and masks lie in their folder, tried in this order."""


@dataclass(frozen=True)
class Masks(SceneOptions):
    """The mask of an image has its relative path and stem."""

    reader = "masks"
    archives = True
    help = "images and label masks under the same names, VOC, ADE20K, Cityscapes, COCO"
    examples = ("./camvid --ignore 11 --out ./camvid-set", "./VOCdevkit/VOC2012 --layout voc --out ./voc")

    layout: str | None = option(
        None,
        "a data set that has a name (default: recognised where there is no list of classes): " + ", ".join(NAMED),
        choices=tuple(NAMED),
    )
    palette: str | None = option(
        None,
        f"what the colours of the masks mean: {', '.join(KNOWN)}, or a file with a name and three numbers a line "
        f"(default: DIR/{', DIR/'.join(FILES)})",
        metavar="FILE",
    )

    images: str | None = option(None, "folder of the images below DIR, for example 'rgb/{split}' (default: guessed)", metavar="SUB")
    masks: str | None = option(None, "folder of the masks below DIR, for example 'gt/{split}' (default: guessed)", metavar="SUB")
    ignore: int | None = option(None, "value of pixels without a class (default: there are none)", metavar="INDEX")
    classes: str | None = option(None, "names of the classes, one a line, the first for index 0 (default: DIR/classes.txt)", metavar="FILE")

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        """Raises `CallError` where no layout fits, where there is no list of classes, and for a pattern that makes no sense."""
        folder = existing_folder(place)
        named = self._named(folder, name)
        if named is not None:
            return named
        layouts = LAYOUTS if self.images is None and self.masks is None else (_asked(self.images, self.masks),)
        folders = next((there for layout in layouts if (there := _folders(folder, *layout))), None)
        if folders is None:
            tried = ", ".join(f"{one} + {two}" for one, two in layouts)
            raise CallError(
                f"{folder} has no folders of images and masks; looked for: {tried}",
                "name them: --images 'rgb/{split}' --masks 'gt/{split}'",
            )
        listed = folder / CLASSES if self.classes is None else Path(self.classes).expanduser()
        palette = self.palette or (
            None if listed.is_file() else next((str(folder / one) for one in FILES if (folder / one).is_file()), None)
        )
        code: MaskCode | None = None
        if palette is None and not listed.is_file():
            what = f"{folder} has no {CLASSES}" if self.classes is None else f"there is no file {self.classes}"
            raise CallError(
                f"{what}: masks hold numbers, and the list says what they mean",
                "give the names of the classes, one a line, the first for index 0: --classes FILE",
            )
        if palette is None:
            classes = mask_classes(read_names(listed), self.ignore, str(listed))
        else:
            classes, code = read_palette(palette, self.ignore)
        found = Found[ImageFile](self.provenance(folder), {}, classes)
        tree = Tree.of(folder)
        tree.use(CLASSES, *FILES)
        for part, (of_images, of_masks) in folders.items():
            where = f"{name}/{part}" if part else name
            known = {Path(path).with_suffix("").as_posix(): path for path in tree.take(IMAGE_SUFFIXES, _inside(folder, of_masks))}
            # `x_mask.png` is the mask of `x.jpg`, where no other mask could be meant.
            views = Counter(map(_view, known))
            stems = {_view(stem): stem for stem in known if views[_view(stem)] == 1}
            found.parts[part] = Packed()
            for path in tree.take(IMAGE_SUFFIXES, _inside(folder, of_images)):
                stem = Path(path).with_suffix("").as_posix()
                stem = next((one for one in (stem, f"{stem}_L", stems.get(_view(stem), stem)) if one in known), stem)
                item = f"{where}/{path}"
                if stem not in known:
                    found.skips.append((item, "an image has no mask"))
                    continue
                scene = f"{name}/{Path(path).parent.as_posix()}" if "/" in path else name
                found.parts[part].append(
                    ImageFile(item, f"{of_images}/{path}", scene, mask=f"{of_masks}/{known.pop(stem)}", classes=classes, code=code)
                )
            found.skips += [(f"{_inside(folder, of_masks)}/{path}", "a mask has no image") for path in known.values()]
        found.count(tree)
        if palette is None and self.ignore is None and (void := void_class(classes.names)) is not None:
            found.notes.append(f"class {void} is called {classes.names[void]!r} and counts as any other; --ignore {void} leaves it out")
        return found

    def _named(self, folder: Path, name: str) -> Found[ImageFile] | None:
        """What lies in a data set that has a name; None for any other folder. Raises `CallError` where it is not the one that was said."""
        own = self.images, self.masks, self.palette
        if self.layout is None and (any(own) or self.classes is not None or (folder / CLASSES).is_file()):
            return None
        if self.layout is not None and (any(own) or self.ignore is not None):
            raise CallError(
                f"--layout {self.layout} says where masks lie and what is ignored", "leave --images, --masks, --palette and --ignore out"
            )
        names = () if self.classes is None else read_names(Path(self.classes).expanduser())
        walked = Tree.of(folder)
        for layout in (NAMED[self.layout],) if self.layout else NAMED.values():
            tree = replace(walked, apart={}, taken=set(), readable=set())
            if (masked := layout.find(folder, name, tree, names)) is not None:
                found = Found[ImageFile](
                    self.provenance(folder, f"layout {layout.name}"),
                    masked.parts,
                    replace(masked.classes, palette=known_colours(masked.classes.names)),
                    masked.skips,
                    masked.notes,
                )
                found.count(tree)
                return found
        if self.layout is not None:
            raise CallError(f"{folder} is not laid out as {self.layout}: {NAMED[self.layout].help}", "name the folder that holds these")
        return None


def _view(stem: str) -> str:
    """Folder and name without such words as `mask` and `image`."""
    folder, _, name = stem.rpartition("/")
    return f"{folder}/{base_of(name)}"


def read_names(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line, or `<index> <name>` in order of the index. Raises `CallError` for none, one, or one twice."""
    lines = [line.strip() for line in text_lines(read_text(path, "list of classes")) if line.strip()]
    halves = [line.split(None, 1) for line in lines]
    if all(len(half) == 2 and half[0].rstrip(":") == str(index) for index, half in enumerate(halves)):
        lines = [half[1] for half in halves]
    twice = [name for index, name in enumerate(lines) if name in lines[:index]]
    if len(lines) < 2 or twice:
        what = f"names {twice[0]!r} twice" if twice else f"names {len(lines)} class(es); there must be two or more"
        raise CallError(f"{path} {what}", "give a text file with one name a line")
    return tuple(lines)


def void_class(names: Sequence[str]) -> int | None:
    """The index of the last class, where its name says that it is none."""
    return len(names) - 1 if names and names[-1].lower().startswith(NO_CLASS) else None


def mask_classes(names: tuple[str, ...], ignore: int | None, where: str) -> ClassList:
    """The classes of masks. A name that the list has for `ignore` at its end is left out: it is no class."""
    if ignore is not None and not 0 <= ignore <= 65535:
        raise CallError(f"--ignore {ignore} is no value of a mask", "give the index of the pixels without a class, for example 255")
    if ignore == len(names) - 1:
        names = names[:-1]
    if len(names) < 2:
        raise CallError(f"{where} leaves a single class beside the ignored one", "segmentation needs two classes or more")
    return ClassList(names, ignore, known_colours(names))


def _asked(images: str | None, masks: str | None) -> tuple[str, str]:
    if images is None or masks is None:
        raise CallError("--images and --masks belong together", "for example --images 'rgb/{split}' --masks 'gt/{split}'")
    if not is_inside(images) or not is_inside(masks) or ("{split}" in images) != ("{split}" in masks):
        raise CallError(
            f"--images {images!r} --masks {masks!r}: two folders below DIR, {{split}} in both or in none",
            "for example --images 'rgb/{split}' --masks 'gt/{split}'",
        )
    return images, masks


def _inside(folder: Path, one: Path) -> str:
    return one.relative_to(folder).as_posix()


def _folders(folder: Path, images: str, masks: str) -> dict[str, tuple[Path, Path]]:
    names = SPLITS if "{split}" in images else (WHOLE,)
    there: dict[str, tuple[Path, Path]] = {}
    for part in names:
        for name in (part, *(spelling for spelling, split in OTHER_NAMES.items() if split == part)):
            pair = folder / images.replace("{split}", name), folder / masks.replace("{split}", name)
            if part not in there and all(one.is_dir() for one in pair):
                there[part] = pair
    return there if "train" in there or WHOLE in there else {}
