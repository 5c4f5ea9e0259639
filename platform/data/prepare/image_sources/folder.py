"""Every image of a folder, without labels."""

from __future__ import annotations

from dataclasses import dataclass

from ..companions import take_photos
from ..files import Tree, below, existing_folder
from ..found import Found
from ..images import ImageFile
from ..source import PhotoOptions, SceneOptions


@dataclass(frozen=True)
class ImageFolder(PhotoOptions, SceneOptions):
    reader = "folder"
    archives = True
    help = "every image of a folder and of those below it, without labels"
    examples = ("./photos --size 256 --out ./photos-set",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[ImageFile]:
        """A scene is a sub-folder, or the folder itself."""
        folder = existing_folder(place)
        found = Found[ImageFile](self.provenance(folder))
        tree = Tree.of(folder)
        for path in take_photos(tree, all_images=self.all_images):
            found.items.append(ImageFile(f"{name}/{path}", f"{folder}/{path}", below(name, path)))
        found.count(tree)
        return found
