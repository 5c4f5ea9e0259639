"""A checkpoint that stays while somebody measures it, whatever training deletes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sightline.platform.core.files import make_folder, read_record

from .local import COMPLETE, NOTE

LINKS = ".probing"
"""In a run's folder: where a checkpoint lies while it is measured."""


def link_checkpoint(checkpoint: Path, folder: Path) -> Path:
    """The same checkpoint under its name in `folder`: hard links, which take no room, and copies where the file system has none.

    Raises `OSError` where `checkpoint` is not there (any more), and `ValueError` where it is damaged.
    """
    linked = folder / checkpoint.name
    make_folder(linked)
    present = [NOTE] if (checkpoint / NOTE).exists() else []
    for name in (*read_record(checkpoint / COMPLETE)["files"], *present, COMPLETE):
        try:
            os.link(checkpoint / name, linked / name)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(checkpoint / name, linked / name)
    return linked


def clear(folder: Path) -> None:
    """Remove what was being measured from the run's `folder`."""
    shutil.rmtree(folder / LINKS, ignore_errors=True)
