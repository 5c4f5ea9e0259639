"""Write an encoder for use elsewhere: as a timm folder, as one safetensors file, in its authors' layout, or as ONNX.

  sightline export croco-tiny-1121-0930 --format timm --out ./croco-timm
  sightline export models:/croco-encoder@candidate --format safetensors --out encoder.safetensors
  sightline export croco-tiny-1121-0930 --format official --out ./croco-official

MODEL is a run, a file made by `sightline export` or `import`, or a registry URI. What is written as timm or ONNX is read again and must
give the same tokens (to 1e-5); where timm has other maths than the encoder, it says so. ONNX needs: pip install 'sightline-pretext[onnx]'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write an encoder for timm, as safetensors, in its authors' layout or as ONNX"
FORMATS = ("timm", "safetensors", "official", "onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a file, or models:/NAME@alias")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to (safetensors: a folder or a file)")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.platform.core.screen import Screen
    from sightline.platform.models.encoders import open_encoder

    opened = open_encoder(args.model)  # a misspelt name is reported before anything heavy is imported
    from sightline.platform.models.export import export

    result = export(opened, args.format, Path(args.out).expanduser().absolute())
    if not args.json:
        console = Screen()
        console.print(f"{opened.method} encoder of {opened.source} as {args.format}: {', '.join(result['files'])}")
        if "difference" in result:
            console.print(f"read again, it gives the same tokens: largest difference {result['difference']:.1e} of the largest value")
        console.print(f"use it: {result['use']}")
        for note in result.get("notes", ()):
            console.print(f"note: {note}")
    return {"format": args.format, "method": opened.method, "source": opened.source, **result}
