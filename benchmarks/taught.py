"""What a 2-D teacher is worth to I2P-MAE at a small budget, and which settings decide it.

  python benchmarks/taught.py SHAPES20.npz WORK                    # every row that `taught.json` lacks; a kill loses the row under way
  python benchmarks/taught.py SHAPES20.npz WORK --rows rate-3e-3 untrained
  python benchmarks/taught.py SHAPES20.npz WORK --table             # train nothing

The network of `i2p-mae-tiny` learns in this process, with one thread, under bf16, from four fixed augmentations of each cloud. Their
teacher maps are made once and kept in WORK. The teachers are EfficientNet-Lite0, trained on ImageNet (package of the extra `teachers`), and
the same network with random weights; features are those of its last stage (`pretext.teacher_level=-1`).

Measured is a linear SVM on the largest of each channel over the coarsest tokens, by accuracy over five folds of all clouds, training and
test (no label is used in training): the largest over C. All rows choose C so, so all are a little too high; they compare among themselves.
Besides, the share of the variance of the features of unseen clouds that is explained.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.i2p_mae.config import I2PConfig
from sightline.methods.i2p_mae.network import group_points
from sightline.methods.i2p_mae.pretext import I2PMaePretext, build, no_decay
from sightline.methods.i2p_mae.stage import TeacherStage
from sightline.methods.optim import warmup_cosine
from sightline.methods.random import MicrobatchRng, keyed_rng
from sightline.platform import config
from sightline.platform.evaluation.probes.cloud_features import HISTOGRAM_POINTS, HISTOGRAMS, distance_histograms
from sightline.platform.evaluation.probes.shape_svm import deal_folds, predict
from sightline.platform.models.packaged import packaged_weights

RECORD = Path(__file__).resolve().parent / "taught.json"
POINTS, VARIANTS, BATCH, WARMUP = 1024, 4, 16, 40
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
TAUGHT, UNTAUGHT = "efficientnet-lite0", "random weights"


@dataclass(frozen=True)
class Row:
    """One training."""

    teacher: str | None
    steps: int
    lr: float
    target: str = "standardised"
    cosine: int | None = None
    """Steps until the rate is 0; None: as many as there are."""
    mask_ratio: float = 0.8
    measured: tuple[int, ...] = ()
    """Steps after which it is measured besides."""


ROWS: dict[str, Row | None] = {
    "untrained": None,
    "statistics-alone": Row(None, 48, 0.0, measured=(6, 12, 24)),
    "plain": Row(TAUGHT, 440, 1e-3, "plain"),
    "plain-rate-3e-3": Row(TAUGHT, 440, 3e-3, "plain"),
    "standardised": Row(TAUGHT, 440, 1e-3),
    "standardised-mask-0.6": Row(TAUGHT, 440, 1e-3, mask_ratio=0.6),
    "standardised-random-teacher": Row(UNTAUGHT, 440, 1e-3),
    "standardised-rate-3e-3": Row(TAUGHT, 440, 3e-3),
    "first-steps": Row(TAUGHT, 220, 3e-3, cosine=1320, measured=(12, 40, 110)),
    "longer": Row(TAUGHT, 1320, 3e-3, measured=(440, 880)),
    "longer-random-teacher": Row(UNTAUGHT, 1320, 3e-3, measured=(440, 880)),
    "longer-no-teacher": Row(None, 1320, 3e-3, measured=(440, 880)),
    "longer-constant": Row(TAUGHT, 1320, 3e-3, cosine=13200, measured=(440, 880)),
}
"""At a rate of 0 (`statistics-alone`) no weight moves, but BatchNorm's running statistics do."""


class Shapes:
    """The clouds, and what the teachers make of their augmentations."""

    def __init__(self, archive: Path, work: Path) -> None:
        self.stored, self.work = np.load(archive), work
        self.labels = {split: self.stored[f"{split}_label"].astype(np.int64) for split in ("train", "test")}

    @cached_property
    def clean(self) -> Tensor:
        """All clouds as a probe sees them, training first."""
        both = [self.stored[f"{split}_xyz"].astype(np.float32)[:, :POINTS] for split in ("train", "test")]
        return torch.from_numpy(np.stack([centred(cloud) for clouds in both for cloud in clouds]))

    def augmented(self, split: str) -> Iterator[np.ndarray]:
        """Of the training clouds `VARIANTS` augmentations, of the test clouds themselves, points drawn at random."""
        for variant in range(VARIANTS if split == "train" else 1):
            for index, cloud in enumerate(self.stored[f"{split}_xyz"].astype(np.float32)):
                rng = keyed_rng("x", split, variant, index)
                points = centred(cloud[rng.permutation(len(cloud))[:POINTS]])
                if split == "train":
                    points = points * rng.uniform(2 / 3, 1.5, 3) + rng.uniform(-0.2, 0.2, 3)
                yield points.astype(np.float32)

    def seen(self, teacher: str | None, task: I2PConfig) -> dict[str, dict[str, Tensor]]:
        """By split the columns of all its samples; made once and kept."""
        if teacher is None:
            return {split: {"points": torch.from_numpy(np.stack(list(self.augmented(split))))} for split in ("train", "test")}
        path = self.work / f"{teacher.replace(' ', '-')}.npz"
        if not path.exists():
            stage = TeacherStage(task, network_of(teacher))
            columns: dict[str, np.ndarray] = {}
            for split in ("train", "test"):
                points = np.stack(list(self.augmented(split)))
                print(f"{teacher}: {len(points)} clouds of {split}", flush=True)
                columns |= {f"{split}_{name}": value for name, value in {"points": points, **stage({"points": points})}.items()}
            np.savez(path, **columns)  # type: ignore[arg-type]
        kept = np.load(path)
        return {
            split: {name: torch.from_numpy(kept[f"{split}_{name}"]) for name in ("points", "features", "saliency")}
            for split in ("train", "test")
        }


def centred(cloud: np.ndarray) -> np.ndarray:
    cloud = cloud - cloud.mean(axis=0)
    return cloud / np.linalg.norm(cloud, axis=1).max()


def network_of(teacher: str) -> torch.nn.Module:
    """The encoder of EfficientNet-Lite0, as trained or with random weights."""
    timm = find_method("timm")
    settings = timm.Config.model_validate({"model": {"name": "tf_efficientnet_lite0"}})
    encoder = timm.build(settings, BuildContext(seed=0)).encoder()
    if teacher == TAUGHT:
        weights = packaged_weights(TAUGHT)
        assert weights is not None
        encoder.load_state_dict(weights.tensors)
    return encoder.eval()


def settings_of(row: Row) -> I2PConfig:
    without = {"pretext.mask": "random", "loss.features": 0.0}
    given = without if row.teacher is None else {"model.teacher": "here", "model.teacher_dim": 320, "pretext.teacher_level": -1}
    experiment = config.load("i2p-mae-tiny", {**given, "pretext.target": row.target, "pretext.mask_ratio": row.mask_ratio})
    assert isinstance(experiment.method_config, I2PConfig)
    return experiment.method_config


def accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    folds = deal_folds(labels, 5)
    hits = []
    for c in PENALTIES:
        found = np.empty(len(labels), np.int64)
        for fold in range(5):
            asked = folds == fold
            found[asked] = predict(features[~asked], labels[~asked], features[asked], c)
        hits.append(found == labels)
    return round(100 * max(float(hit.mean()) for hit in hits), 1)


@torch.inference_mode()
def worth(net: I2PMaePretext, shapes: Shapes) -> float:
    """Accuracy in per cent."""
    encoder = net.encoder().eval()
    features = torch.cat([encoder.pooled(part) for part in shapes.clean.split(64)]).numpy()
    return accuracy(features, np.concatenate([shapes.labels["train"], shapes.labels["test"]]))


@torch.inference_mode()
def explained(net: I2PMaePretext, test: dict[str, Tensor]) -> float | None:
    """Share of the variance of the visible tokens' features of unseen clouds; None without a teacher."""
    if "features" not in test:
        return None
    scales = group_points(test["points"], net.config.model, skip_origin=True)
    targets = net.target_features(test, scales)
    variance = float((targets - targets.mean(dim=(0, 1))).square().mean())
    net.eval()
    parts = [{name: column[i : i + 50] for name, column in test.items()} for i in range(0, len(test["points"]), 50)]
    errors = [float(net(part, MicrobatchRng(7, i, 0))["features"]) for i, part in enumerate(parts)]
    net.train()
    return round(1 - float(np.mean(errors)) / variance, 3)


def train(row: Row, shapes: Shapes) -> Iterator[dict[str, Any]]:
    settings = settings_of(row)
    columns, net = shapes.seen(row.teacher, settings), build(settings, BuildContext(seed=0)).train()
    clouds = len(shapes.labels["train"])
    groups = [
        {"params": [p for name, p in net.named_parameters() if no_decay(name, p) is plain], "weight_decay": 0.0 if plain else 0.05}
        for plain in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=row.lr, betas=(0.9, 0.999))
    rng, waiting, start = np.random.default_rng(0), np.empty(0, np.int64), time.monotonic()
    for step in range(row.steps):
        rate = warmup_cosine(step, WARMUP, row.cosine or row.steps, row.lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if len(waiting) < BATCH:
            waiting = rng.permutation(clouds)
        chosen, waiting = waiting[:BATCH], waiting[BATCH:]
        picks = torch.from_numpy(chosen + clouds * rng.integers(0, VARIANTS, BATCH))
        with torch.autocast("cpu", torch.bfloat16):
            losses = net({name: column[picks] for name, column in columns["train"].items()}, MicrobatchRng(0, step, 0))
        optimizer.zero_grad(set_to_none=True)
        (losses["points"] + losses["features"]).backward()
        optimizer.step()
        if not math.isfinite(float(losses["points"].detach())):
            raise SystemExit(f"the loss is not finite after {step + 1} steps")
        if step + 1 in (*row.measured, row.steps):
            found = {"svm": worth(net, shapes), "explained": explained(net, columns["test"])}
            yield {"steps": step + 1, **found, "seconds": round(time.monotonic() - start)}


def untrained(shapes: Shapes) -> Iterator[dict[str, Any]]:
    settings = settings_of(Row(None, 0, 1e-3))
    for seed in range(3):
        yield {"steps": 0, "features": f"random weights {seed}", "svm": worth(build(settings, BuildContext(seed=seed)).eval(), shapes)}
    histograms = np.stack([distance_histograms(cloud.numpy()[:HISTOGRAM_POINTS]) for cloud in shapes.clean])
    labels = np.concatenate([shapes.labels["train"], shapes.labels["test"]])
    yield {"steps": 0, "features": HISTOGRAMS, "svm": accuracy(histograms, labels)}


def table() -> str:
    """Markdown of `taught.json`."""
    lines = ["| row | teacher | target | rate | steps | SVM % | explained |", "|---|---|---|---|---|---|---|"]
    for name, kept in json.loads(RECORD.read_text()).items():
        row = kept["row"] or {"teacher": "none", "target": "", "lr": ""}
        for one in kept["measured"]:
            explained = "" if one.get("explained") is None else f"{one['explained']:.2f}"
            target = row["target"] if row["teacher"] not in (None, "none") else ""
            cells = [one.get("features", name), row["teacher"] or "none", target, row["lr"], one["steps"], one["svm"], explained]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes20", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    shapes = Shapes(args.shapes20, args.work)
    for name in [] if args.table else args.rows:
        kept = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        if name in kept:
            continue
        row, found = ROWS[name], []
        for one in untrained(shapes) if row is None else train(row, shapes):
            print(name, one, flush=True)
            found.append(one)
        kept = json.loads(RECORD.read_text()) if RECORD.exists() else {}  # another process may have added its own
        kept[name] = {"row": row and asdict(row), "measured": found}
        RECORD.write_text(json.dumps({key: kept[key] for key in sorted(kept, key=list(ROWS).index)}, indent=1) + "\n")
    print(table())


if __name__ == "__main__":
    main()
