"""A text list of images: a path a line, and after a tab, spaces or a comma a label, if it has one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sightline.methods.errors import CallError

from ..files import below, existing_folder, is_file, is_inside, natural
from ..found import ClassList, Found, missing_classes
from ..images import ImageFile
from ..lists import numbered_lines, path_and_label
from ..options import option
from ..source import Places, SceneOptions
from .masks import read_names


@dataclass(frozen=True)
class ListedImages(SceneOptions):
    """A label is a name or a number. Without `classes` the classes are the labels that occur, in natural order; with it a label is one
    of its names or an index."""

    reader = "list"
    help = "a text file with a path a line, and a label after a tab, a space or a comma"
    examples = ("./train.txt --root ./photos --out ./listed",)
    places = Places("FILE", "list(s) of images")

    root: str | None = option(None, "folder that the paths start from (default: the folder of the list)", metavar="DIR")
    classes: str | None = option(
        None, "names of the classes, one a line, the first for index 0 (default: the labels, sorted)", metavar="FILE"
    )

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        """The images that the list at `place` names. Raises `CallError` for a label that is no class, and for a single class."""
        path = Path(place).expanduser().resolve()
        if not path.is_file():
            raise CallError(f"there is no list {place}", "name a text file with a path a line")
        folder = existing_folder(self.root) if self.root is not None else path.parent
        found = Found[ImageFile](self.provenance(path))
        lines = _lines(path, folder, found.skips)
        names = () if self.classes is None else read_names(Path(self.classes).expanduser())
        texts = sorted({label for _, _, label in lines if label is not None}, key=natural)
        if texts and not names:
            names = tuple(texts)
            if len(names) < 2:
                raise CallError(f"{path} has a single class: {names[0]}", "labels need two classes or more; leave the labels out for none")
        index_of = {label: index for index, label in enumerate(names)}
        for number, file, label in lines:
            if texts and label is None:
                found.skips.append((f"{name}/{file}", "no label, where other lines have one"))
                continue
            index = None if label is None else index_of.get(label)
            if label is not None and index is None:
                if not label.isdecimal() or int(label) >= len(names):
                    raise CallError(
                        f"{path} line {number}: label {label!r} is none of the {len(names)} classes of {self.classes}",
                        "correct the line or the list",
                    )
                index = int(label)
            scene = None if texts else below(name, file)
            found.items.append(ImageFile(f"{name}/{file}", f"{folder}/{file}", scene, index))
        if texts:
            found.classes = ClassList(names)
            found.notes = missing_classes(found.parts, names)
        return found


def _lines(path: Path, folder: Path, skips: list[tuple[str, str]]) -> list[tuple[int, str, str | None]]:
    """(line number, path, label) of every usable line."""
    usable: list[tuple[int, str, str | None]] = []
    seen: set[str] = set()
    for number, line in numbered_lines(path):
        file, label = path_and_label(line, lambda name: is_inside(name) and is_file(folder / name))
        if "\\" in file and not is_file(folder / file):  # as Windows writes paths
            file = file.replace("\\", "/")
        if not is_inside(file):
            skips.append((f"{path.name} line {number}", "a path leaves the folder"))
        elif file in seen:
            skips.append((f"{path.name} line {number}", "a file is listed twice"))
        elif not is_file(folder / file):  # perhaps a head line: its label is no class
            skips.append((f"{path.name} line {number} ({file})", "file is missing"))
        else:
            seen.add(file)
            usable.append((number, file, label))
    return usable
