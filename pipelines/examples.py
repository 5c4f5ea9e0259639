"""Write small files to try every command on: what a person has before `sightline prepare`, made by a program.

  sightline examples ./examples

photos/CLASS/*.jpg  photographs of six materials, labelled by their folders
room/               frames of a walk through a room with depth, poses and intrinsics (cameras.json)
shapes/CLASS/*.obj  meshes of six kinds of solids, labelled by their folders
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write small files to try every command on: photographs, a filmed room, meshes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a new or empty folder")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError

    folder = Path(args.folder).expanduser()
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise CallError(f"{folder} is there already, and is no empty folder", "name a new folder, or go on with the files in it")
    from sightline.platform.data.synthetic.examples import write_examples

    counts = write_examples(folder)
    if not args.json:
        for name, count in counts.items():
            print(f"{folder / name}: {count} files")
    return {"folder": str(folder.absolute()), "files": counts}
