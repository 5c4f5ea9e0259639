"""`sightline prepare images`: folders, class folders, masks, lists, frames and pair data sets as data sets of single images."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .options import fit_options, output_options, part_of, pattern, place, plain, source_names, source_options, split_option, time_options

if TYPE_CHECKING:
    from sightline.platform.data.prepare.images import FoundImages, ImageFile
    from sightline.platform.data.prepare.job import Output

SOURCES = {
    "folder": "every image of a folder and of those below it, without labels",
    "classes": "folders that are classes; train/, val/ and test/ with such folders stay splits",
    "masks": "images and label masks (PNG of class indices) under the same names",
    "list": "a text file with a path a line, and a label after a tab or a space",
    "frames": "frames of a sequence with their time, and depth where cameras.json names it",
    "pairs": "the images of a finished pair data set, each once, with scene, time and depth",
}
EXAMPLES = """examples:
  sightline prepare images folder ./photos --size 256 --out ./photos-set
  sightline prepare images classes ./cifar10 --out ./cifar
  sightline prepare images classes ./flowers --split train=0.8,val=0.2 --out ./flowers-set
  sightline prepare images masks ./camvid --ignore 11 --out ./camvid-set
  sightline prepare images list ./train.txt --root ./photos --out ./listed
  sightline prepare images frames ./kitchen-rgbd --split train=0.8,val=0.2 --out ./kitchen-images
  sightline prepare images pairs ./rooms/train --out ./room-images"""


def add_arguments(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    images = actions.add_parser("images", help="single images, with classes, masks or depth", **plain(EXAMPLES))
    readers = images.add_subparsers(dest="reader", required=True, metavar="SOURCE")
    for name, text in SOURCES.items():
        parser = readers.add_parser(name, help=text, description=text, **plain(EXAMPLES))
        if name == "pairs":
            parser.add_argument("dataset", metavar="DATASET", help="folder or URI of a data set of pairs")
            fit_options(parser)
        else:
            _file_options(parser, name)
        output_options(parser)


def _file_options(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "list":
        parser.add_argument("folders", nargs="+", metavar="FILE", help="list(s) of images")
        parser.add_argument("--root", metavar="DIR", help="folder that the paths start from (default: the folder of the list)")
    else:
        parser.add_argument("folders", nargs="+", metavar="DIR", help="folder(s) of this layout")
    source_options(parser)
    if name == "masks":
        parser.add_argument("--images", metavar="SUB", help="folder of the images below DIR, for example 'rgb/{split}' (default: guessed)")
        parser.add_argument("--masks", metavar="SUB", help="folder of the masks below DIR, for example 'gt/{split}' (default: guessed)")
        parser.add_argument("--ignore", type=int, metavar="INDEX", help="value of pixels without a class (default: there are none)")
    if name in ("masks", "list"):
        default = "DIR/classes.txt" if name == "masks" else "the labels, sorted"
        parser.add_argument(
            "--classes", metavar="FILE", help=f"names of the classes, one a line, the first for index 0 (default: {default})"
        )
    split_option(parser)
    if name == "frames":
        time_options(parser, ("scene", "time-blocks"), "time-blocks")
    else:
        time_options(parser, ("image", "scene", "time-blocks"), "image")
        parser.add_argument(
            "--scenes",
            type=pattern,
            metavar="REGEX",
            help="what in a path names the scene (group 1), and the frame's number in it (group 2), for example '^([^_]+)_(\\d+)'",
        )


def outputs(args: argparse.Namespace) -> tuple[list[Output], int]:
    """The data sets to make, and how many images the gaps between splits cost."""
    from sightline.methods.errors import CallError
    from sightline.platform.data.images import Resize
    from sightline.platform.data.prepare.images import WHOLE, joined
    from sightline.platform.data.prepare.job import Output, item_shards
    from sightline.platform.data.prepare.split import parse_split
    from sightline.platform.data.shard_stats import skipped_table

    resize = Resize(args.size, args.square, args.quality)
    if args.reader == "pairs":
        return [_pair_frames(args, resize)], 0
    found = _find(args)
    whole = joined(found)
    parts, left_out = whole.parts, 0
    notes: list[str] = []
    if args.split:
        shares = parse_split(args.split)
        if WHOLE not in parts:
            raise CallError(f"{whole.source.where} has its own splits ({', '.join(parts)})", "leave --split out")
        parts, left_out, notes = _split(args, parts[WHOLE], shares, whole.classes.names)
    sources = tuple(one.source.model_copy(update={"notes": (*one.source.notes, *notes)}) for one in found)
    skips = skipped_table(whole.skips)
    empty = [part for part, images in parts.items() if not images]
    if empty:
        raise CallError(f"split {empty[0]!r} of {whole.source.where} has no images", "move the empty folder away, or fill it")
    made = [
        Output(
            part_of(args.out, part),
            item_shards(images, resize, args.seed),
            sources,
            skips if number == 0 else (),
            whole.classes.names,
            whole.classes.ignore_index,
            tuple(whole.notes),
        )
        for number, (part, images) in enumerate(parts.items())
    ]
    return made, left_out


def _find(args: argparse.Namespace) -> list[FoundImages]:
    from sightline.platform.data.prepare import folders, listed, masks
    from sightline.platform.data.prepare.images import with_scenes

    found = []
    for folder, name in zip(args.folders, source_names(args.name, args.folders), strict=True):
        if args.reader == "masks":
            options = {"images": args.images, "masks": args.masks, "classes": args.classes, "ignore": args.ignore}
            one = masks.find(folder, name, args.licence, **options)
        elif args.reader == "list":
            one = listed.find(folder, name, args.licence, root=args.root, classes=args.classes)
        else:
            find = {"folder": folders.find_folder, "classes": folders.find_classes, "frames": folders.find_frames}[args.reader]
            one = find(folder, name, args.licence)
        if getattr(args, "scenes", None):
            one.parts = {part: with_scenes(images, name, part, args.scenes, one.skips) for part, images in one.parts.items()}
        found.append(one)
    return found


def _split(
    args: argparse.Namespace, images: list[ImageFile], shares: dict[str, float], classes: tuple[str, ...]
) -> tuple[dict[str, list[ImageFile]], int, list[str]]:
    from sightline.methods.errors import CallError
    from sightline.platform.data.prepare.split import split_images, split_scenes, split_time

    if args.split_by == "time-blocks":
        return split_time(images, shares, args.split_gap)
    if args.split_by == "image":
        names = [None if image.label is None else classes[image.label] for image in images]
        assigned = split_images([image.id for image in images], names, shares, args.seed)
        note = "split by image, each class by itself" if classes and names[0] is not None else "split by image"
        return {part: [image for image in images if assigned[image.id] == part] for part in shares}, 0, [note]
    scenes = sorted({image.scene for image in images if image.scene is not None})
    if any(image.scene is None for image in images):
        raise CallError("these images have no scenes", "say what names the scene in their paths: --scenes REGEX")
    assigned = split_scenes(scenes, shares, args.seed)
    return {part: [image for image in images if assigned[image.scene or ""] == part] for part in shares}, 0, ["split by scene"]


def _pair_frames(args: argparse.Namespace, resize: object) -> Output:
    from sightline.platform.data.dataset import Dataset
    from sightline.platform.data.images import Resize
    from sightline.platform.data.prepare.job import Output
    from sightline.platform.data.prepare.pair_frames import frames_of

    assert isinstance(resize, Resize)
    dataset = Dataset.open(args.dataset)
    note = f"the images of the pairs {dataset.fingerprint[:12]}, each once; the time is that of its pair"
    sources = tuple(source.model_copy(update={"notes": (*source.notes, note)}) for source in dataset.manifest.provenance.sources)
    return Output(place(args.out), frames_of(dataset, resize), sources)
