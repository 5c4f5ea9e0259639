"""Take in weights that a method's authors published (`sightline import`): as one file, for init=, evaluate, encode, export and finetune.

  sightline import ./CroCo_V2_ViTBase_SmallDecoder.pth --method croco --out croco-v2.safetensors
  sightline import ./checkpoint-799.pth --method conmim --preset conmim-base --out conmim.safetensors --register conmim-published
  sightline import ./crocostereo.pth --method finetune_stereo --out stereo.safetensors
  sightline import ./dino_vitbase16_pretrain.pth --method dino --out dino.safetensors   # or dinov2, clip, open_clip, mae
  sightline import random:0 --method timm model.name=vit_tiny_patch16_224 --out untaught.safetensors

Settings of the file override those of --preset, and section.key=value overrides both. A pickle may hold only tensors and plain values;
any other is refused. It lists which tensors were loaded, which are missing (they stay random) and which are unexpected.
random:SEED in place of a file gives a network with random weights, for controls.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

SUMMARY = "take in weights that a method's authors published"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a PyTorch file (.pth, .pt), safetensors, Flax's msgpack, or random:SEED")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings that the file does not tell, or tells wrong")
    parser.add_argument("--method", required=True, help="whose layout it is: croco, conmim, loca, dino, dinov2, clip, mae, timm, ...")
    parser.add_argument("--preset", metavar="RECIPE", help="recipe whose model settings to start from")
    parser.add_argument(
        "--key", metavar="ENTRY", help="entry of the file to take, such as model or model_ema; without it an average (EMA) comes first"
    )
    parser.add_argument("--out", required=True, metavar="PLACE", help="file (.safetensors) to write, or a folder for weights.safetensors")
    parser.add_argument("--register", metavar="NAME", help="also file the encoder in the model registry, as candidate")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.platform import config
    from sightline.platform.core.screen import Screen
    from sightline.platform.models.published import random_weights, take_in
    from sightline.platform.tracking.names import check_model_name
    from sightline.platform.weights.format import SINGLE, write_file

    if args.register is not None:
        check_model_name(args.register, "--register")
    overrides = config.parse_overrides(args.settings)
    seed = re.fullmatch(r"random:(\d{1,18})", args.file)
    if seed:
        taken = random_weights(int(seed[1]), args.method, args.preset, overrides)
    else:
        taken = take_in(Path(args.file).expanduser(), args.method, args.preset, overrides, args.key)
    out = Path(args.out).expanduser().absolute()
    path = write_file(taken.weights, out if out.suffix == ".safetensors" else out / SINGLE)
    match = taken.match
    registered = None
    if args.register:
        from sightline.platform.tracking.registry import register_import

        registered = register_import(taken.weights, args.register).uri
    if not args.json:
        console = Screen()
        if match.taken:
            console.print(f"taken from  {match.taken}")
        if match.others:
            console.print(f"not taken   {', '.join(match.others)} (choose with --key)")
        for label in () if seed else ("matched", "resized", "missing", "unexpected", "left out"):
            names = getattr(match, label.replace(" ", "_"))
            if label == "left out" and not names:
                continue
            some = "" if label == "matched" or not names else f"  {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}"
            console.print(f"{label:<11} {len(names):>5}{some}")
        if taken.fresh_encoder:
            console.warn(f"warning: {len(taken.fresh_encoder)} tensors of the encoder stay random: {', '.join(taken.fresh_encoder[:4])}")
        elif taken.fresh and not seed:
            console.print(f"note: {len(taken.fresh)} tensors beside the encoder stay random: {', '.join(taken.fresh[:4])}")
        for note in match.notes:
            console.warn(f"warning: {note}")
        console.print(f"settings    {_short(taken.weights.sections['model'])}")
        task = args.method.removeprefix("finetune_")
        use = f"encode {path} DATA --out features.parquet, or init={path}" if task == args.method else f"finetune {path} --task {task} ..."
        console.print(f"written to {path}; use it: sightline {use}")
        if registered:
            console.print(f"registered as {registered}")
    return {
        "file": str(path),
        "method": taken.weights.method,
        "settings": dict(taken.weights.sections),
        "sha256": taken.weights.sha256,
        "matched": match.matched,
        "resized": match.resized,
        "missing": match.missing,
        "unexpected": match.unexpected,
        "left_out": match.left_out,
        "taken": match.taken,
        "not_taken": match.others,
        "notes": match.notes,
        "random": taken.fresh,
        "registered": registered,
    }


def _short(section: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in section.items())
