"""Does the pretext pay? One small ViT, pre-trained by each method, fine-tuned on depth, stereo and flow with one budget.

  python benchmarks/transfer.py WORK                # data, pre-training, fine-tuning; what is finished is not done again
  python benchmarks/transfer.py WORK --tasks stereo --methods croco mae random --seeds 1
  python benchmarks/transfer.py WORK --table        # only write what there is

The ViT is 128 wide with 4 blocks, patches of 8 on 64 px. It learns from rendered rooms by CroCo, by a masked autoencoder on the same images
(the method of `tests/support/outside_mae`), by ConMIM and by LOCA, each with its tiny recipe's rates and one number of samples; and not at
all. CroCo also gives its decoder to stereo and flow; the others get a fresh one. Each is fine-tuned in other rooms, of which the test's are
others again, with `--seeds` seeds of both trainings. Where `--kitchen` names the RGB-D kitchen, depth is fine-tuned there, too.

Every run is a `sightline` command in the home of WORK, so a kill loses nothing: the same command resumes. `transfer.json` beside this file
has a row for each finished run, and paired differences from CroCo: intervals over resamples of the test scenes and of the seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from work_folder import WorkFolder, settings

from sightline.platform.evaluation.intervals import interval
from sightline.platform.evaluation.paired import FILE, Measured, read_measured, unlike

HERE = Path(__file__).resolve().parent
RECORD = HERE / "transfer.json"
MAE = HERE.parent / "tests" / "support" / "outside_mae"
SAMPLES, BATCH, TUNED_BATCH = 24000, 16, 16
EVERYWHERE = {
    "train.workers": 1,
    "train.threads": 1,
    "train.precision": "bf16",
    "train.checkpoint_every": "400 steps",
    "train.validate_every": "400 steps",
    "train.device": "cpu",
}
CROCO_MODEL = {
    "image_size": 64,
    "patch_size": 8,
    "position": "rope",
    "encoder_dim": 128,
    "encoder_depth": 4,
    "encoder_heads": 4,
    "decoder_dim": 128,
    "decoder_depth": 4,
    "decoder_heads": 4,
}
MAE_RECIPE: dict[str, Any] = {
    "method": "outside_mae",
    "model": {"image_size": 64, "patch_size": 8, "dim": 128, "depth": 4, "heads": 4, "decoder_depth": 4},
    "optim": {"lr": 1e-3, "warmup": "40 steps", "betas": [0.9, 0.95], "weight_decay": 0.05},
    "batch": {"size": BATCH, "microbatch": BATCH},
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "croco": ("croco-tiny", {f"model.{key}": value for key, value in CROCO_MODEL.items()}),
    "mae": ("mae.yaml", {}),
    "conmim": ("conmim-tiny", {}),
    "loca": ("loca-tiny", {}),
}
"""Recipe and settings; `random` is the network of CroCo with `--scratch`."""
RANDOM = "random"
TASKS = {
    "depth": ("finetune-depth-tiny", "depth", 1000),
    "stereo": ("finetune-stereo-tiny", "stereo", 600),
    "flow": ("finetune-flow-tiny", "flow", 600),
    "kitchen": ("finetune-depth-tiny", "depth", 600),
}
"""Recipe, `--task` and steps."""
RENDERED = ["pairs", "rendered", "--size", "64", "--workers", "1"]
SPLIT = ["--split", "train=0.7,test=0.3"]
DATA: dict[str, list[str]] = {
    "rooms": [*RENDERED, "--scenes", "400", "--seed", "1"],
    "images": ["images", "pairs", "rooms"],
    "held-out": [*RENDERED, "--scenes", "20", "--seed", "2"],
    "held-out-images": ["images", "pairs", "held-out"],
    "stereo": [*RENDERED, "--stereo", "--baseline", "0.2..1.0", "--scenes", "250", "--seed", "3", *SPLIT],
    "flow": [*RENDERED, "--flow", "--moving", "3", "--fov", "35", "--scenes", "250", "--seed", "4", *SPLIT],
    "depth-pairs": [*RENDERED, "--scenes", "300", "--seed", "5", *SPLIT],
    "depth": [],
}


class Work(WorkFolder):
    """With the masked autoencoder as an installed package, and its recipe."""

    def __init__(self, folder: Path) -> None:
        site = folder / "site"
        super().__init__(folder, {"PYTHONPATH": str(site)})
        if not site.exists():
            shutil.copytree(MAE / "outside_mae", site / "outside_mae", ignore=shutil.ignore_patterns("__pycache__"))
            project = tomllib.loads((MAE / "pyproject.toml").read_text())["project"]
            (info := site / "outside_mae-0.1.dist-info").mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
            (info / "entry_points.txt").write_text("[sightline.methods]\noutside_mae = outside_mae:method\n")
        (folder / "mae.yaml").write_text(yaml.safe_dump(MAE_RECIPE))

    def measured(self, name: str) -> Measured | None:
        """What a fine-tuned run measured on its test scenes."""
        path = self.home / "runs" / name / FILE
        return read_measured(path)[1].get("test") if path.exists() else None


def prepare(work: Work, kitchen: Path | None) -> None:
    for name, words in DATA.items():
        if words:
            work.data(name, *words)
    for split in ("train", "test"):
        work.data(f"depth/{split}", "images", "pairs", f"depth-pairs/{split}")
    if kitchen:
        how = ["--size", "64", "--square", "--split", "train=0.6,test=0.4", "--split-gap", "8"]
        work.data("kitchen", "images", "frames", str(kitchen), *how)


def pretrain(work: Work, method: str, seed: int, samples: int) -> str:
    recipe, own = METHODS[method]
    data = ("rooms", "held-out") if method == "croco" else ("images", "held-out-images")
    values = {**own, **EVERYWHERE, "data.train": f"./{data[0]}", "data.val": f"./{data[1]}", "train.seed": seed}
    values |= {"batch.size": BATCH, "batch.microbatch": BATCH, "train.length": f"{samples // BATCH} steps", "probe.names": "[]"}
    name = f"{method}-s{seed}"
    work.train(name, "pretrain", f"./{recipe}" if recipe.endswith(".yaml") else recipe, *settings(values))
    return name


def finetune(work: Work, task: str, method: str, seed: int) -> None:
    recipe, kind, steps = TASKS[task]
    values = {**EVERYWHERE, "data.train": f"./{task}/train", "data.val": f"./{task}/test", "train.seed": seed}
    values |= {"batch.size": TUNED_BATCH, "batch.microbatch": TUNED_BATCH, "train.length": f"{steps} steps", "probe.samples": 300}
    if kind != "depth":
        values["model.position"] = "rope"  # of the decoder, CroCo's and the fresh ones
    model = f"{'croco' if method == RANDOM else method}-s{seed}"
    scratch = ["--scratch"] if method == RANDOM else []
    work.train(f"{task}-{method}-s{seed}", "finetune", model, "--task", kind, "--recipe", recipe, *settings(values), *scratch)


def differences(work: Work, task: str, method: str, seeds: int) -> dict[str, Any] | None:
    """The method less CroCo, over the seeds that both have: resamples of test scenes and of seeds."""
    pairs = [
        (one, croco)
        for seed in range(seeds)
        if (one := work.measured(f"{task}-{method}-s{seed}")) and (croco := work.measured(f"{task}-croco-s{seed}"))
    ]
    if not pairs or any(unlike(one, croco) for one, croco in pairs):
        return None
    apart = np.stack([one.resamples.draws - croco.resamples.draws for one, croco in pairs])
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(pairs), (len(pairs), apart.shape[1]))
    drawn = np.take_along_axis(apart, chosen, axis=0).mean(axis=0)
    value = float(np.mean([one.value - croco.value for one, croco in pairs]))
    found = interval(value, drawn, pairs[0][0].resamples.level, pairs[0][0].unit_count)
    return {"task": task, "method": method, "seeds": len(pairs), **found.as_dict()}


def rows(work: Work, seeds: int) -> Iterator[dict[str, Any]]:
    for task in TASKS:
        for method in (*METHODS, RANDOM):
            for seed in range(seeds):
                if (found := work.measured(name := f"{task}-{method}-s{seed}")) is None:
                    continue
                run = work.home / "runs" / name
                figures = json.loads((run / "claims.json").read_text())["figures"]
                told = {key: round(one["value"], 5) for key, one in figures.items() if one["value"] is not None}
                yield {"task": task, "method": method, "seed": seed, "metric": found.metric, "value": round(found.value, 5), "all": told}


def record(work: Work, seeds: int) -> None:
    """Add what is finished to `transfer.json`; rows of other work folders stay."""
    before = json.loads(RECORD.read_text()) if RECORD.exists() else {"rows": [], "less_croco": []}
    done = {(row["task"], row["method"], row["seed"]): row for row in [*before["rows"], *rows(work, seeds)]}
    compared = {(one["task"], one["method"]): one for one in before["less_croco"]}
    for task in TASKS:
        for method in (*METHODS, RANDOM):
            if method != "croco" and (found := differences(work, task, method, seeds)):
                compared[task, method] = found
    lines = [",\n".join(f"  {json.dumps(one)}" for one in some.values()) for some in (done, compared)]
    RECORD.write_text(f'{{"rows": [\n{lines[0]}\n ],\n "less_croco": [\n{lines[1]}\n ]}}\n')


def table() -> str:
    """Markdown of `transfer.json`."""
    found = json.loads(RECORD.read_text())
    lines = ["| task | metric | " + " | ".join((*METHODS, RANDOM)) + " |", "|---|---|" + "---|" * (len(METHODS) + 1)]
    for task in TASKS:
        of_task = [row for row in found["rows"] if row["task"] == task]
        if not of_task:
            continue
        cells = []
        for method in (*METHODS, RANDOM):
            values = [row["value"] for row in of_task if row["method"] == method]
            apart = next((one for one in found["less_croco"] if (one["task"], one["method"]) == (task, method)), None)
            cell = " ".join(f"{value:.3f}" for value in values) or "-"
            if apart and apart["low"] is not None:
                cell += f"; {apart['value']:+.3f} ({apart['low']:+.3f} to {apart['high']:+.3f})"
            cells.append(cell)
        lines.append(f"| {task} | {of_task[0]['metric']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, RANDOM), default=[*METHODS, RANDOM])
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["depth", "stereo", "flow"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of each pre-training (default: %(default)s)")
    parser.add_argument("--kitchen", type=Path, help="folder of the RGB-D kitchen: fine-tunes depth there as well")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    work = Work(args.work.resolve())
    if not args.table:
        prepare(work, args.kitchen.resolve() if args.kitchen else None)
        tasks = [*args.tasks, *(["kitchen"] if args.kitchen else [])]
        for seed in range(args.seeds):
            for method in dict.fromkeys(["croco", *args.methods]):  # random weights need CroCo's settings
                if method != RANDOM:
                    pretrain(work, method, seed, args.samples)
            for task in tasks:
                for method in args.methods:
                    finetune(work, task, method, seed)
                    record(work, args.seeds)
    record(work, args.seeds)
    print(table())


if __name__ == "__main__":
    main()
