"""Every mesh and cloud of a folder, without labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .clouds import CloudFile, CloudItem, clouds_below
from .found import Found
from .items import existing_folder
from .meshes import PICKLES
from .source import CloudSource


@dataclass(frozen=True)
class CloudFolder(CloudSource):
    reader = "folder"
    help = "every mesh (OFF, OBJ, PLY, STL, GLB) and cloud (PLY, NPY, NPZ, TXT) of a folder and of those below it, without labels"
    examples = ("./meshes --split train=0.9,val=0.1 --out ./meshes-set",)

    def find(self, place: str, name: str, seed: int = 0) -> Found[CloudItem]:
        folder = existing_folder(place)
        found = Found[CloudItem](self.provenance(folder))
        found.items.extend(CloudFile(f"{name}/{path}", self.drawn(seed), file=f"{folder}/{path}") for path in clouds_below(folder))
        found.skips += pickles_below(folder)
        return found


def pickles_below(folder: Path) -> list[tuple[str, str]]:
    """(what, why) of caches that the code of others made: they are named and never opened."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.suffix.lower() in PICKLES and path.is_file())
    return [(name, "a pickle, which is never opened; convert it to .npy, .npz or .ply") for name in names]
