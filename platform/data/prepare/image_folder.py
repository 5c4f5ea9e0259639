"""Every image of a folder, without labels."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.platform.data.images import IMAGE_SUFFIXES

from .files import Tree, below, existing_folder
from .found import Found
from .images import ImageFile
from .source import SceneOptions


@dataclass(frozen=True)
class ImageFolder(SceneOptions):
    reader = "folder"
    help = "every image of a folder and of those below it, without labels"
    examples = ("./photos --size 256 --out ./photos-set",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        """A scene is a sub-folder, or the folder itself."""
        folder = existing_folder(place)
        found = Found[ImageFile](self.provenance(folder))
        tree = Tree.of(folder)
        for path in tree.take(IMAGE_SUFFIXES):
            found.items.append(ImageFile(f"{name}/{path}", f"{folder}/{path}", below(name, path)))
        found.count(tree)
        return found
