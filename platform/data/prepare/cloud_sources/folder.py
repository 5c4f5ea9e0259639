"""Every mesh and cloud of a folder, without labels."""

from __future__ import annotations

from dataclasses import dataclass

from ..clouds import CloudFile, CloudItem
from ..files import Tree, existing_folder
from ..found import Found
from ..meshes import PICKLES, clouds_in
from ..source import CloudSource


@dataclass(frozen=True)
class CloudFolder(CloudSource):
    reader = "folder"
    help = "every mesh (OFF, OBJ, PLY, STL, glTF) and cloud (PLY, PCD, LAS, NumPy, text, KITTI) of a folder, without labels"
    examples = ("./meshes --split train=0.9,val=0.1 --out ./meshes-set",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        folder = existing_folder(place)
        found = Found[CloudItem](self.provenance(folder))
        tree = Tree.of(folder)
        found.items.extend(CloudFile(f"{name}/{path}", self.drawn(seed), file=f"{folder}/{path}") for path in clouds_in(tree))
        found.skips += pickles(tree)
        found.count(tree)
        return found


def pickles(tree: Tree) -> list[tuple[str, str]]:
    """(what, why) of caches that the code of others made: they are named and never opened."""
    return [(name, "a pickle, which is never opened; convert it to .npy, .npz or .ply") for name in tree.take(PICKLES)]
