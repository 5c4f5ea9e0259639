"""Encode images or clouds with a frozen encoder: one row of features for each, in a Parquet file.

  sightline encode croco-tiny-1121-0930 ./rooms/val --out features.parquet
  sightline encode models:/croco-encoder@candidate ./photographs --out features.parquet --pool none --batch 16
  sightline encode models:/i2p_mae-encoder@candidate ./meshes --out features.parquet

MODEL is a run, a file made by `sightline export` or `import`, or a registry URI. DATA is a data set, or a folder of images (for an encoder
of clouds: of meshes and clouds), also those in the folders below it. The file's metadata say which weights, which preparation of the
samples and which pooling made it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write an encoder's features of your images to a Parquet file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a file, or models:/NAME@alias")
    parser.add_argument("data", metavar="DATA", help="a data set, or a folder of images or clouds")
    parser.add_argument("--out", required=True, metavar="FILE.parquet", help="file to write; replaced where it exists")
    parser.add_argument(
        "--pool",
        choices=("own", "mean", "none"),
        default="own",
        help="as the encoder does it (images: mean over the patches; I2P-MAE: largest over the tokens), mean, or all tokens (default: own)",
    )
    parser.add_argument("--all-images", action="store_true", help="also what looks like a depth map, a mask or a smaller copy of a photo")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="samples encoded at once (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError

    if args.batch < 1:
        raise CallError(f"--batch {args.batch} encodes nothing", "for example --batch 64")
    out = Path(args.out).expanduser().absolute()
    if out.is_dir():
        raise CallError(f"--out {args.out} is a folder", f"name a file, for example --out {Path(args.out) / 'features.parquet'}")
    from rich.progress import Progress

    from sightline.platform.core.screen import Screen
    from sightline.platform.models.encoders import open_encoder

    opened = open_encoder(args.model)  # a misspelt name is reported before anything heavy is imported
    from sightline.platform.evaluation.encode import encode
    from sightline.platform.evaluation.encode_source import input_spec_of, open_source

    source, what = open_source(args.data, opened, args.all_images), input_spec_of(opened.encoder).what
    console = Screen(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("encoding")
        result = encode(opened, source, out, args.pool, args.batch, lambda done, total: bar.update(task, completed=done, total=total))
    if not args.json:
        console = Screen()
        console.print(f"{result['rows']:,} {what} of {source.place} encoded by {result['source']}: {result['values']:,} values each")
        if result["broken"]:
            first = "; ".join(result[f"broken_{what}"][:3])
            console.warn(f"{result['broken']:,} {what} are broken and left out; first: {first}")
        for note in result["notes"]:
            console.warn(f"note: {note}")
        console.print(f"written to {out}; read it with: pyarrow.parquet.read_table({str(out)!r})")
    return result
