"""Predict with a fine-tuned model on images of any size (depth, normals, disparity, flow, pose, classes, label maps) or on clouds.

  sightline predict finetune-depth-tiny-1126-0930 ./photographs --out ./depths
  sightline predict models:/finetune-stereo-model@candidate left.png right.png --out ./disparities
  sightline predict finetune-flow-1126-1105 ./frames/0001.png ./frames/0002.png --overlap 0.9 --out ./flows
  sightline predict finetune-parts-1126-1310 ./chairs --category Chair --out ./parts

MODEL is a run, a file made by `sightline export`, or a registry URI, of a model that `sightline finetune` made. IMAGE is a file or folder;
models of two images take a second file, or a second folder with files of the same names. Depth, normals and disparity are written as
NAME.pfm, flow as NAME.flo, label maps as NAME.png with the class of each pixel; beside each a picture in colours, and for disparity and
flow NAME-doubt.png, from blue (the surest pixels) to red. Classes (of label maps their shares) and poses are written to predictions.json;
classes.json names index and colour.

Models of clouds take a mesh or a list of points (OFF, OBJ, PLY, STL, glTF, PCD, LAS, NumPy, text), or a folder of them. Parts are written
as NAME.ply, with a colour and a number for each point, and as a picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .evaluate import add_passes, passes_of

if TYPE_CHECKING:
    from sightline.platform.core.screen import Screen
    from sightline.platform.models.loaded import LoadedEncoder

SUMMARY = "depth, normals, disparity, flow, pose, classes or label maps of images, classes or parts of clouds, by a fine-tuned model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a file, or models:/NAME@alias")
    parser.add_argument(
        "image", metavar="IMAGE", help="a file, or a folder of images; of a model of clouds: a cloud, a mesh, or a folder of these"
    )
    parser.add_argument("second", metavar="SECOND", nargs="?", help="the right image, or the later one; a folder where IMAGE is one")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to; files of the same names are replaced")
    add_passes(parser)
    parser.add_argument("--category", metavar="NAME", help="parts of clouds: what they are; default: what explains their points best")
    parser.add_argument("--kitti", action="store_true", help="disparity, depth or flow also as KITTI's 16-bit PNG, in DIR/kitti")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError

    if args.overlap is not None and not 0 <= args.overlap < 1:
        raise CallError(f"--overlap {args.overlap:g} is not in [0, 1)", "0.7 for a quick look, 0.9 for the best result")
    passes = passes_of(args)
    from sightline.platform.core.screen import Screen
    from sightline.platform.models.encoders import load_encoder

    model = load_encoder(args.model)  # a misspelt name is reported before anything heavy is imported
    from sightline.methods.contract import TakesPoints

    console = Screen(stderr=args.json)
    if isinstance(model.module, TakesPoints):
        return _clouds(args, model, console)
    if args.category is not None:
        raise CallError("--category is for models of the parts of clouds", "leave it away")
    from sightline.platform.evaluation.predict import predict_files

    result = predict_files(
        model,
        Path(args.image).expanduser(),
        Path(args.second).expanduser() if args.second else None,
        Path(args.out).expanduser().absolute(),
        args.overlap,
        console.print,
        args.kitti,
        passes,
    )
    if not args.json:
        console.print(f"written to {args.out}: {result['files']:,} files of {result['images']:,} images")
    return result


def _clouds(args: argparse.Namespace, model: LoadedEncoder, console: Screen) -> dict[str, object]:
    from sightline.methods.errors import CallError

    if args.second or args.kitti or passes_of(args) is not None:
        raise CallError("a second image, --kitti, --overlap, --scales and --flip are for models of images", "leave them away")
    from sightline.platform.evaluation.predict_clouds import predict_clouds

    out = Path(args.out).expanduser().absolute()
    result = predict_clouds(model, Path(args.image).expanduser(), out, args.category, console.print)
    if not args.json:
        console.print(f"written to {args.out}: {result['files']:,} files of {result['clouds']:,} clouds")
    return result
