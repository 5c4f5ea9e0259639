"""Encode images with a frozen encoder: one row of features for each image, in a Parquet file.

  sightline encode croco-tiny-1121-0930 ./rooms/val --out features.parquet
  sightline encode models:/croco-encoder@candidate ./photographs --out features.parquet --pool none --batch 16

MODEL is a run, a file made by `sightline export` or `import`, or a registry URI. DATA is a data set, or a folder of images (also those in
the folders below it). The file's metadata say which weights, which preparation of the images and which pooling made it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a file, or models:/NAME@alias")
    parser.add_argument("data", metavar="DATA", help="a data set, or a folder of images")
    parser.add_argument("--out", required=True, metavar="FILE.parquet", help="file to write; replaced where it exists")
    parser.add_argument(
        "--pool", choices=("mean", "none"), default="mean", help="mean over the patches, or all patch tokens (default: mean)"
    )
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images encoded at once (default: %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from sightline.methods.errors import CallError

    if args.batch < 1:
        raise CallError(f"--batch {args.batch} encodes nothing", "for example --batch 64")
    out = Path(args.out).expanduser().absolute()
    if out.is_dir():
        raise CallError(f"--out {args.out} is a folder", f"name a file, for example --out {Path(args.out) / 'features.parquet'}")
    from rich.console import Console
    from rich.progress import Progress

    from sightline.platform.encoders import open_encoder

    opened = open_encoder(args.model)  # a misspelt name is told before anything heavy is imported
    from sightline.platform.encode import encode, open_source

    source = open_source(args.data)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("encoding")
        result = encode(opened, source, out, args.pool, args.batch, lambda done, total: bar.update(task, completed=done, total=total))
    if not args.json:
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"{result['rows']:,} images of {source.place} encoded by {result['source']}: {result['values']:,} values each")
        if result["broken"]:
            console.print(f"[yellow]{result['broken']:,} images are broken and left out; first: {'; '.join(result['broken_images'][:3])}")
        console.print(f"written to {out}; read it with: pyarrow.parquet.read_table({str(out)!r})")
    return result
