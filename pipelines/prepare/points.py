"""`sightline prepare points`: meshes, lists of points, depth images and published layouts as data sets of clouds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .options import output_options, part_of, plain, positive, source_names, split_option

if TYPE_CHECKING:
    from sightline.platform.data.prepare.job import Output

SOURCES = {
    "folder": "every mesh (OFF, OBJ, PLY, STL, GLB) and cloud (PLY, NPY, NPZ, TXT) of a folder and of those below it, without labels",
    "classes": "folders that are classes, with train/ and test/ above or, as in ModelNet, inside them",
    "arrays": "an .npz or HDF5 file: xyz, points or data with label, part, split, classes, parts; or train_xyz, test_xyz and so on",
    "depth": "one cloud for each depth image that cameras.json names",
    "shapenet55": "shapenet_pc/*.npy with the lists of ShapeNet-55",
    "modelnet40": "modelnet40_normal_resampled",
    "scanobjectnn": "main_split/*.h5",
    "shapenetpart": "shapenetcore_partanno_segmentation_benchmark_v0_normal, with parts",
}
EXAMPLES = """examples:
  sightline prepare points classes ./ModelNet10 --points 8192 --out ./modelnet10
  sightline prepare points folder ./meshes --split train=0.9,val=0.1 --out ./meshes-set
  sightline prepare points arrays ./shapes20.npz --out ./shapes20
  sightline prepare points depth ./kitchen-rgbd --out ./kitchen-clouds
  sightline prepare points scanobjectnn ./h5_files --variant pb_t50_rs --out ./scans"""


def add_arguments(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    points = actions.add_parser("points", help="point clouds, with classes or parts", **plain(EXAMPLES))
    readers = points.add_subparsers(dest="reader", required=True, metavar="SOURCE")
    for name, text in SOURCES.items():
        parser = readers.add_parser(name, help=text, description=text, **plain(EXAMPLES))
        parser.add_argument("folders", nargs=1, metavar="FILE" if name == "arrays" else "DIR", help="what is read")
        parser.add_argument("--name", help="name of the source in ids (default: the folder's name)")
        parser.add_argument("--licence", default="unstated", help="licence of the clouds, kept in the manifest (default: %(default)s)")
        parser.add_argument("--points", type=positive, default=8192, help="points of a mesh or cloud (default: %(default)s)")
        if name == "scanobjectnn":
            parser.add_argument("--variant", choices=("obj_bg", "obj_only", "pb_t50_rs"), default="obj_bg", help="default: %(default)s")
        split_option(parser)
        output_options(parser)


def outputs(args: argparse.Namespace) -> tuple[list[Output], int]:
    """The data sets to make; nothing is left out between splits."""
    from sightline.methods.errors import CallError
    from sightline.platform.data.images import Resize
    from sightline.platform.data.prepare.cloud_layouts import FINDERS
    from sightline.platform.data.prepare.clouds import Drawn
    from sightline.platform.data.prepare.images import WHOLE
    from sightline.platform.data.prepare.job import Output, item_shards
    from sightline.platform.data.prepare.split import parse_split, split_images
    from sightline.platform.data.shard_stats import skipped_table

    (name,) = source_names(args.name, args.folders)
    options = {"variant": args.variant} if args.reader == "scanobjectnn" else {}
    found = FINDERS[args.reader](args.folders[0], name, args.licence, Drawn(args.points, args.seed), **options)
    parts = found.parts
    if args.split:
        shares = parse_split(args.split)
        if WHOLE not in parts:
            raise CallError(f"{found.source.where} has its own splits ({', '.join(parts)})", "leave --split out")
        items = parts[WHOLE]
        names = [None if item.label is None or not found.classes else found.classes[item.label] for item in items]
        assigned = split_images([item.id for item in items], names, shares, args.seed)
        parts = {part: [item for item in items if assigned[item.id] == part] for part in shares}
    empty = [part for part, items in parts.items() if not items]
    if empty or not parts:
        what = f"split {empty[0]!r} of {found.source.where}" if empty and empty[0] else found.source.where
        why = f"; not taken: {found.skips[0][0]}, {found.skips[0][1]}" if found.skips else ""
        raise CallError(f"no clouds were found in {what}{why}", "see `sightline prepare points --help` for the layouts")
    skips = skipped_table(found.skips)
    made = [
        Output(
            part_of(args.out, part),
            item_shards(items, Resize(), args.seed),
            (found.source,),
            skips if number == 0 else (),
            found.classes,
            None,
            tuple(found.notes),
            found.part_names,
        )
        for number, (part, items) in enumerate(parts.items())
    ]
    return made, 0
