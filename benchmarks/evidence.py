"""What each method's shipped tiny recipe learns: several seeds beside random weights and features that no network has touched.

  python benchmarks/evidence.py WORK                       # data, runs, probes; what is finished is not done again
  python benchmarks/evidence.py WORK --methods croco loca --seeds 1
  python benchmarks/evidence.py WORK --page                # train nothing: write docs/compare.md from evidence.json

Each method is trained by `sightline pretrain` with its recipe as it is, on one thread, and probed on the task it was made for with data
that it has not seen. A run's row is added to `evidence.json` as soon as it is finished, and a kill loses at most the steps since the last
checkpoint: the same command goes on. When all seeds of a method are there, they are probed together: means over seeds, with intervals over
test samples and seeds, and differences on the same resamples. Rows of an earlier recipe or of other data are made again. `--length` and
`--record` are for trials, whose rows must not be taken for results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from work_folder import WorkFolder, settings

from sightline.pipelines.quickstart import QUICK

HERE = Path(__file__).resolve().parent
RECORD, PAGE = HERE / "evidence.json", HERE.parent / "docs" / "compare.md"
SHARED = HERE.parent.parent / "shared" / "data"
BEGIN = "## What the tiny recipes learn, measured"
EVERYWHERE = {"train.workers": 1, "train.threads": 1, "train.device": "cpu", "train.checkpoint_every": "100 steps", "probe.names": []}
CONTROLS = 3
INTRODUCTION = (
    "`python benchmarks/evidence.py WORK` makes this section: it trains each shipped tiny recipe on one thread with several seeds, and",
    "probes it on the task it was made for. `benchmarks/evidence.json` keeps every finished run. Beside each value stand random weights",
    "and features that no network has touched, each with the difference to it, and whether the trained encoder is shown to be **above** or",
    "**below** it: the 95 % interval over test samples and seeds leaves out zero, and so does the spread of three random networks.",
)


@dataclass(frozen=True)
class Trained:
    """One row of methods: a recipe and what it is given."""

    recipe: str
    train: str
    """Data to learn from."""
    val: str
    probes: tuple[str, ...]
    on: tuple[tuple[str, str], ...]
    """Data that train the heads of the probes and data that test them."""
    about: str
    """The data in words."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the recipe leaves to its user, such as a teacher."""


ROOMS = (
    "6,400 pairs of rendered rooms whose cameras look past each other, with the settings of `quickstart`, for longer. The probes learn "
    "from 100 other rooms and are tested on 100 others again"
)
PHOTOS = "2,567 small photographs (CIFAR-10, ImageNet, CamVid, training parts alone)"
SHAPES = "560 clouds of shapes20, tested on 200 others; parts: psb-parts8, 112 and 48 clouds"
PAIRS = ("depth", "correspondence", "pose")
IMAGES = ("knn", "linear", "segmentation")
CLOUDS = ("shape_svm", "shape_knn", "few_shot", "part_segmentation")
OF_PAIRS = (("rooms-probes/heads", "rooms-probes/test"),)
OF_IMAGES = (("cifar/train", "cifar/test"), ("camvid/train", "camvid/val"))
OF_CLOUDS = (("shapes20/train", "shapes20/test"), ("parts8/train", "parts8/test"))
TAUGHT = {"pretext.teacher_level": -1, "teacher_cache.variants": 4}
METHODS: dict[str, Trained] = {
    "croco": Trained("croco-tiny", "rooms", "rooms-probes/test", PAIRS, OF_PAIRS, ROOMS, {**QUICK, "train.length": "1800 steps"}),
    "conmim": Trained("conmim-tiny", "photos", "cifar/test", IMAGES, OF_IMAGES, PHOTOS),
    "loca": Trained("loca-tiny", "photos", "cifar/test", IMAGES, OF_IMAGES, PHOTOS),
    "i2p-mae": Trained(
        "i2p-mae-tiny",
        "shapes20/train",
        "shapes20/test",
        CLOUDS,
        OF_CLOUDS,
        f"{SHAPES}. Teacher: EfficientNet-Lite0, trained on ImageNet",
        {"model.teacher": "efficientnet-lite0", **TAUGHT},
    ),
    "i2p-mae-untaught": Trained(
        "i2p-mae-tiny",
        "shapes20/train",
        "shapes20/test",
        CLOUDS,
        OF_CLOUDS,
        f"{SHAPES}. Teacher: the same network with random weights",
        {"model.teacher": "./untaught.safetensors", **TAUGHT},
    ),
    "i2p-mae-alone": Trained(
        "i2p-mae-tiny",
        "shapes20/train",
        "shapes20/test",
        CLOUDS,
        OF_CLOUDS,
        f"{SHAPES}. No teacher: points alone",
        {"pretext.mask": "random", "loss.features": 0},
    ),
}
RENDERED = ["pairs", "rendered", "--size", "64", "--overlap", "0.45..0.9", "--pan", "10..25", "--workers", "1"]
DATA: dict[str, list[str]] = {
    "rooms": [*RENDERED, "--scenes", "800", "--seed", "1"],
    "rooms-probes": [*RENDERED, "--scenes", "200", "--seed", "2", "--split", "heads=0.5,test=0.5"],
    "cifar": ["images", "classes", "{shared}/cifar10-mini"],
    "camvid": ["images", "masks", "{shared}/camvid-320", "--ignore", "11", "--scenes", r"^([^_]+)_f?(\d+)"],
    "imagenet": ["images", "folder", "{shared}/imagenet-mini", "--size", "256"],
    "cifar-photos": ["images", "folder", "{shared}/cifar10-mini/train"],
    "camvid-photos": ["images", "folder", "{shared}/camvid-320/train"],
    "photos": ["merge", "cifar-photos", "camvid-photos", "imagenet"],
    "shapes20": ["points", "arrays", "{shared}/shapes20/shapes20.npz", "--points", "2048"],
    "parts8": ["points", "arrays", "{shared}/psb-parts8/psb_parts8.npz", "--points", "2048"],
}
NEEDS = {
    PAIRS: ("rooms", "rooms-probes"),
    IMAGES: ("cifar", "camvid", "imagenet", "cifar-photos", "camvid-photos", "photos"),
    CLOUDS: ("shapes20", "parts8"),
}
"""Data sets of each family of probes, in the order in which they are made."""


def prepare(work: WorkFolder, shared: Path, names: Sequence[str]) -> None:
    for name in dict.fromkeys(data for method in names for data in NEEDS[METHODS[method].probes]):
        work.data(name, *(word.replace("{shared}", str(shared)) for word in DATA[name]))
    if "i2p-mae-untaught" in names and not (work.folder / "untaught.safetensors").exists():
        work.sightline(*("import", "random:0", "--method", "timm", "model.name=tf_efficientnet_lite0", "--out", "untaught.safetensors"))


def train(work: WorkFolder, name: str, seed: int, length: str | None) -> dict[str, Any]:
    """The row of a finished run."""
    method, run = METHODS[name], run_name(name, seed)
    values = {**method.more, **EVERYWHERE, "data.train": f"./{method.train}", "data.val": f"./{method.val}", "train.seed": seed}
    if length:
        values |= {"train.length": length}
    began = time.monotonic()
    work.train(run, "pretrain", method.recipe, *settings(values))
    return {**row_of(name, seed), "wall_minutes": round((time.monotonic() - began) / 60, 1)}


@cache
def mark(name: str) -> str:
    """Of what a row is trained with, recipe and data: rows of an earlier recipe do not count as done."""
    from sightline.platform import config

    recipe = json.dumps(config.load(METHODS[name].recipe, {}).sections(), sort_keys=True, default=str)
    data = [DATA[one] for one in NEEDS[METHODS[name].probes]]
    return hashlib.sha256(f"{recipe} {METHODS[name]} {data}".encode()).hexdigest()[:8]


def run_name(name: str, seed: int) -> str:
    return f"{name}-{mark(name)}-s{seed}"


def row_of(name: str, seed: int) -> dict[str, Any]:
    from sightline.platform.runs.events import StepsDone
    from sightline.platform.runs.record import Run

    run = Run.open(run_name(name, seed))
    done = [event for event in run.events() if isinstance(event, StepsDone)]
    claims = run.folder / "claims.json"
    control = json.loads(claims.read_text()) if claims.exists() else {}
    return {
        "method": name,
        "seed": seed,
        "mark": mark(name),
        "recipe": run.recipe,
        "commit": run.commit,
        "steps": len(run.history()),
        "train_minutes": round(sum(event.seconds for event in done) / 60, 2),
        "control": control.get("figures", {}),
        "contrasts": control.get("differences", []),
    }


def measure(name: str, seeds: int, folder: Path) -> dict[str, Any]:
    """Probe -> result, of all seeds together."""
    from sightline.platform.evaluation.probes.context import EvaluatedModel
    from sightline.platform.evaluation.probes.dataset_pairs import find_dataset_pairs
    from sightline.platform.evaluation.probes.run import run_probes
    from sightline.platform.evaluation.results import probes_to_json
    from sightline.platform.models.encoders import open_encoder

    method = METHODS[name]
    first, *others = [open_encoder(run_name(name, seed)) for seed in range(seeds)]
    controls = tuple(first.random(seed) for seed in range(1, CONTROLS + 1))
    model = EvaluatedModel(name, first.encoder, controls, tuple(one.encoder for one in others))
    heads, tests = ([str(folder / one[side]) for one in method.on] for side in (0, 1))
    print(f"probes of {name}", flush=True)
    found = json.dumps(probes_to_json(run_probes(method.probes, [model], find_dataset_pairs([], heads, tests))))
    measured: dict[str, Any] = json.loads(found.replace(f"{folder}/", ""))  # the record names no folder of the machine
    return measured


def read(record: Path) -> dict[str, Any]:
    return json.loads(record.read_text()) if record.exists() else {"runs": [], "probes": {}}


def keep_row(record: Path, row: dict[str, Any]) -> None:
    kept = read(record)  # again: another process may have added its own
    known = {(one["method"], one["seed"]): one for one in kept["runs"]}
    known[row["method"], row["seed"]] = row
    order = list(METHODS)
    kept["runs"] = sorted(known.values(), key=lambda one: (order.index(one["method"]), one["seed"]))
    write(record, kept)


def keep_probes(record: Path, name: str, seeds: int, probes: dict[str, Any]) -> None:
    kept = read(record)
    kept["probes"][name] = {"seeds": seeds, "mark": mark(name), "probes": probes}
    write(record, kept)


def write(record: Path, kept: dict[str, Any]) -> None:
    part = record.with_suffix(".part")
    part.write_text(json.dumps(kept, indent=1) + "\n")
    part.replace(record)


def section(kept: Mapping[str, Any]) -> str:
    """The part of docs/compare.md that is made of the record."""
    lines = [BEGIN, "", *INTRODUCTION]
    if not kept["probes"]:
        return "\n".join([*lines, "", "Not measured yet."]) + "\n"
    for name, one in kept["probes"].items():
        runs = [run for run in kept["runs"] if (run["method"], run["mark"]) == (name, one["mark"])][: one["seeds"]]
        lines += ["", f"### {name}", "", *_about(name, runs), "", *_table(one["probes"]), "", *_pretext(name, runs)]
    return "\n".join(lines).rstrip() + "\n"


def _about(name: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    minutes = ", ".join(f"{run['train_minutes']:.1f}" for run in runs)
    many = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
    return [f"`{runs[0]['recipe']}`, {runs[0]['steps']:,} steps, {many}, {minutes} minutes of training. {METHODS[name].about}."]


def _table(probes: Mapping[str, Any]) -> list[str]:
    """A row a probe; a column for each thing that stands beside the encoder in any of them."""
    from sightline.platform.evaluation.findings import label_of, show_number, show_span
    from sightline.platform.evaluation.results import ProbeResult, RowKind, probe_from_json

    found = {probe: outcome for probe, stored in probes.items() if isinstance(outcome := probe_from_json(stored), ProbeResult)}
    columns, rows = list[str](), []
    for probe, outcome in found.items():
        metric, info = outcome.first_metric, outcome.metrics[outcome.first_metric]
        encoder = next(outcome.rows_of(RowKind.ENCODER))
        cells = {}
        for one in outcome.differences:
            other = outcome.row(one.second)
            apart = one.values[metric]
            said = {"better": "**above**", "worse": "**below**"}.get(str(one.verdicts[metric]), "not shown")
            cells[other.name] = f"{show_number(other.values[metric].value, info)}; {show_span(apart, info, '+')}, {said}"
        columns += [column for column in cells if column not in columns]
        unit = f", {info.unit}" if info.unit else ""
        rows.append((f"{probe.replace('_', ' ')}: {label_of(metric, info)}{unit}", f"**{show_span(encoder.values[metric], info)}**", cells))
    lines = [f"| | trained | {' | '.join(columns)} |", "|---|---|" + "---|" * len(columns)]
    lines += [f"| {what} | {own} | {' | '.join(cells.get(column, '') for column in columns)} |" for what, own, cells in rows]
    return lines


def _pretext(name: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each run's control metrics show of the pretext task itself, on data it has not seen."""
    from sightline.methods.catalog import find_method
    from sightline.platform import config
    from sightline.platform.evaluation.findings import label_of, show_span
    from sightline.platform.evaluation.results import Contrast

    infos = find_method(config.load(METHODS[name].recipe, {}).method).metrics
    lines = list[str]()
    for stored in runs[0]["contrasts"] if runs else []:
        each = [Contrast.from_json(one) for run in runs for one in run["contrasts"] if one["of"] == stored["of"]]
        first, second = (infos[key] for key in stored["of"])
        values = "; ".join(show_span(one.value, first, "+") + f" {first.unit}".rstrip() for one in each)
        lines.append(f"- {label_of(stored['of'][0], first)} less {label_of(stored['of'][1], second)}: {values}")
    return ["The pretext task on data that the run has not seen, by seed:", "", *lines] if lines else []


def write_page(kept: Mapping[str, Any], page: Path) -> None:
    """Replace what follows `BEGIN` up to the next heading of its level."""
    text = page.read_text()
    before, mark, after = text.partition(BEGIN)
    if not mark:
        raise SystemExit(f"{page} has no heading {BEGIN!r}")
    rest = after.partition("\n## ")
    page.write_text(f"{before.rstrip()}\n\n{section(kept)}" + (f"\n## {rest[2]}" if rest[1] else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of the small real data sets (default: %(default)s)")
    parser.add_argument("--length", help="of every training, for a trial: '8 steps'")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--page", action="store_true", help="train nothing, write the page")
    args = parser.parse_args()
    if args.length and args.record == RECORD:
        raise SystemExit("--length is for trials: name another --record, so that nobody takes them for results")
    if not args.page:
        work = WorkFolder(args.work.resolve())
        os.environ |= work.environment
        prepare(work, args.shared.resolve(), args.methods)
        for seed in range(args.seeds):
            for name in args.methods:
                if (name, seed, mark(name)) not in {(one["method"], one["seed"], one["mark"]) for one in read(args.record)["runs"]}:
                    keep_row(args.record, train(work, name, seed, args.length))
        for name in args.methods:
            known = read(args.record)["probes"].get(name, {})
            if (known.get("seeds"), known.get("mark")) != (args.seeds, mark(name)):
                keep_probes(args.record, name, args.seeds, measure(name, args.seeds, work.folder))
    if args.record == RECORD:
        write_page(read(RECORD), PAGE)
    else:
        print(section(read(args.record)))


if __name__ == "__main__":
    main()
