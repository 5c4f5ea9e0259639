"""Write an encoder for use elsewhere: as a timm folder, as one safetensors file, in its authors' layout, or as ONNX. Or a sweep for Optuna.

  sightline export croco-tiny-1121-0930 --format timm --out ./croco-timm
  sightline export models:/croco-encoder@candidate --format safetensors --out encoder.safetensors
  sightline export croco-tiny-1121-0930 --format official --out ./croco-official
  sightline export masks --format optuna --out masks.db

MODEL is a run, a file made by `sightline export` or `import`, or a registry URI. What is written as timm or ONNX is read again and must
give the same tokens (to 1e-5); where timm has other maths than the encoder, it says so. ONNX needs: pip install 'sightline-pretext[onnx]'.
A sweep is written as a study in SQLite, which `optuna.load_study` and `optuna-dashboard sqlite:///masks.db` open.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "write an encoder for timm, as safetensors, in its authors' layout or as ONNX; a sweep for Optuna"
FORMATS = ("timm", "safetensors", "official", "onnx", "optuna")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, a file, or models:/NAME@alias; for optuna a sweep")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write to (safetensors, optuna: a folder or a file)")


def run(args: argparse.Namespace) -> dict[str, object]:
    if args.format == "optuna":
        return export_sweep(args)
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


def export_sweep(args: argparse.Namespace) -> dict[str, object]:
    from sightline.platform.core.screen import Screen
    from sightline.platform.experiments.sweep.optuna_study import export
    from sightline.platform.experiments.sweep.record import Sweep

    sweep, out = Sweep.open(args.model), Path(args.out).expanduser().absolute()
    path = out / f"{sweep.name}.db" if out.is_dir() else out
    export(sweep, path)
    use = f"optuna-dashboard sqlite:///{path}"
    if not args.json:
        console = Screen()
        console.print(f"sweep {sweep.name} as a study of Optuna: {path}, {len(sweep.trials())} trials")
        console.print(f"use it: {use}  (pip install optuna-dashboard)")
    return {"format": "optuna", "sweep": sweep.name, "files": [str(path)], "use": use}
