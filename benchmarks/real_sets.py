"""Every real data set beside the repository, by the command that a user would give: what becomes of it, and whether cameras and truth fit.

  python benchmarks/real_sets.py WORK                     # what is on record in WORK is not done again
  python benchmarks/real_sets.py WORK --only fox kitchen  # sets whose name begins so; the others keep their rows
  python benchmarks/real_sets.py WORK --table             # only write what there is

Each set is prepared and looked at by two commands, `sightline prepare` and `sightline inspect`. `real_sets.json` beside this file has a row
for each: the command, rows, seconds of both, histograms of overlap and viewing angle, distances from epipolar lines, the error of warping,
what was skipped, and what `inspect` found. Pages and contact sheets stay in WORK, to be looked at; docs/notes/real-sets.md is written from
the rows. Poses that structure from motion finds are held against those that the set has.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sightline.platform.data.dataset import Dataset

HERE = Path(__file__).resolve().parent
RECORD, PAGE = HERE / "real_sets.json", HERE.parent / "docs" / "notes" / "real-sets.md"
DATA = HERE.parent.parent / "shared" / "data"
ZIPPED = "imagenet-mini"
"""Also read from a zip archive, which is made in WORK."""
SETS: dict[str, str] = {
    "fountain-p11": "pairs mine fountain-p11 --size 256",
    "fountain-p11, poses found": "pairs mine fountain-p11 --sfm --size 256",
    "castle-p19": "pairs mine castle-p19 --size 256",
    "castle-p19, poses found": "pairs mine castle-p19 --sfm --size 256",
    "fox": "pairs mine fox --size 256",
    "fox, neighbours": "pairs frames fox --gap 1..3 --size 256",
    "kitchen-rgbd": "pairs mine kitchen-rgbd",
    "kitchen-rgbd, crops": "pairs mine kitchen-rgbd --crops 3 --size 128",
    "kitchen-rgbd, by overlap": "pairs rgbd kitchen-rgbd --overlap 0.4..0.9",
    "kitchen-rgbd, frames": "images frames kitchen-rgbd",
    "kitchen-rgbd, clouds": "points depth kitchen-rgbd --points 4096",
    "kitti-seq": "pairs frames kitti-seq --gap 1..3",
    "stereo": "pairs stereo stereo",
    "flow-chairs": "pairs flow flow-chairs",
    "cifar10-mini": "images classes cifar10-mini",
    "camvid-320": "images masks camvid-320 --ignore 11",
    "imagenet-mini": "images folder imagenet-mini --size 256",
    "imagenet-mini, zipped": f"images folder {ZIPPED}.zip --size 256",
    "shapes20": "points arrays shapes20/shapes20.npz --points 2048",
    "shapes20, meshes": "points folder shapes20/obj --points 2048",
    "shapes20, ply": "points folder shapes20/ply --points 2048",
    "psb-parts8": "points arrays psb-parts8/psb_parts8.npz --points 2048",
    "can-colmap": "pairs mine captures/can-colmap --size 256",
    "board-video": "pairs mine captures/board-video --size 256",
    "board-video, poses found": "pairs mine captures/board-video --sfm --size 256",
    "board-video, neighbours": "pairs frames captures/board-video --gap 1..3 --size 256",
    "fruit-transforms": "pairs mine captures/fruit-transforms --size 256",
    "table-colmap-text": "pairs mine captures/table-colmap-text --size 256",
    "tum-fr1-rpy": "pairs mine captures/tum-fr1-rpy --intrinsics 517.3,516.5,318.6,255.3",
    "can-video": "pairs mine captures/can-video --sfm --size 256",
    "can-video, every 10th": "pairs mine captures/can-video --sfm --every 10 --size 256",
    "can-video, neighbours": "pairs frames captures/can-video --gap 1..3 --size 256",
}
"""Name -> `sightline prepare` ... in the folder of the data."""
TRUTH = {
    "fountain-p11, poses found": ("fountain-p11", 1),
    "castle-p19, poses found": ("castle-p19", 1),
    "can-video, every 10th": ("can-colmap", 10),
}
"""Set whose poses are found -> that of the same photos whose poses are known, and how many numbers of a frame make one of a photo there."""
BLOCKS = " ▁▂▃▄▅▆▇█"


def key_of(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def sightline(work: Path, words: list[str], data: Path) -> tuple[int, dict[str, Any], str, float]:
    """(exit code, the answer, what else was printed, seconds)."""
    environment = {**os.environ, "SIGHTLINE_HOME": str(work / "home"), "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sightline.pipelines", *words, "--json"], cwd=data, env=environment, capture_output=True, text=True
    )
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    return done.returncode, answer, done.stderr, time.monotonic() - began


def measured(work: Path, name: str, data: Path) -> dict[str, Any]:
    """Prepare and look at one set."""
    key = key_of(name)
    words = ["prepare", *shlex.split(SETS[name])]
    if f"{ZIPPED}.zip" in words:
        words[words.index(f"{ZIPPED}.zip")] = str(zipped(work, data))
    code, answer, printed, seconds = sightline(work, [*words, "--out", str(work / "sets" / key), "--overwrite"], data)
    row: dict[str, Any] = {"set": name, "command": f"sightline prepare {SETS[name]}", "seconds": round(seconds, 1)}
    if code:
        return {**row, "refused": answer.get("error", printed.strip())}
    made = answer["datasets"]
    row["rows"] = {Path(one["place"]).name if len(made) > 1 else "": one["rows"] for one in made}
    row["skipped"] = {one["reason"]: one["count"] for part in made for one in part["skipped"]}
    row["notes"] = [
        note.replace(f"{data}/", "").replace(f"{work}", "WORK") for note in dict.fromkeys(note for part in made for note in part["notes"])
    ]
    places = [one["place"] for one in made]
    sheet = ["--contact-sheet", str(work / f"{key}.png")] if len(places) == 1 else []
    code, answer, printed, seconds = sightline(work, ["inspect", *places, "--html", str(work / f"{key}.html"), *sheet], data)
    row["inspect_seconds"] = round(seconds, 1)
    row["verdict"] = answer["verdict"]
    row["findings"] = [f"{one['severity']}: {one['text']}" for one in answer["findings"]]
    return row


def zipped(work: Path, data: Path) -> Path:
    path = work / f"{ZIPPED}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted((data / ZIPPED).rglob("*")):
            archive.write(file, file.relative_to(data))
    return path


def spread(name: str, work: Path) -> dict[str, Any]:
    """Histograms of the pairs that are stored: overlap in tenths, angle between the views in steps of ten degrees."""
    folder = work / "sets" / key_of(name)
    pairs = [one for one in (folder, *folder.glob("*/")) if (one / "manifest.json").exists()]
    found: dict[str, Any] = {}
    for place in pairs:
        dataset = Dataset.open(str(place))
        columns = [column for column in ("overlap", "T_2from1") if column in dataset.manifest.columns]
        for column in columns:
            values = np.array([row[column] for row in rows_of(dataset, column)], dtype=np.float64)
            if column == "T_2from1":
                values = np.degrees(np.arccos(values.reshape(-1, 4, 4)[:, 2, 2].clip(-1, 1)))
            edges = np.linspace(0, 1, 11) if column == "overlap" else np.arange(0, 190, 10)
            what = "overlap" if column == "overlap" else "angle"
            found[what] = {"median": round(float(np.median(values)), 3), "histogram": np.histogram(values, edges)[0].tolist()}
    return found


def rows_of(dataset: Dataset, column: str) -> Iterator[dict[str, Any]]:
    for shard, group, _ in dataset.row_groups:
        yield from (row for row in dataset.read(shard, group, columns=[column]).to_pylist() if row[column] is not None)


def poses_off(name: str, work: Path) -> dict[str, float] | None:
    """Medians over the stored pairs: degrees between found and known poses, of the rotation and of the direction of the baseline."""
    truth_set, step = TRUTH[name]
    known, found = relative_poses(work / "sets" / key_of(truth_set)), relative_poses(work / "sets" / key_of(name), step)
    if not found or not known:
        return None
    apart = []
    for frames, T in found.items():
        if (truth := chained(known, *frames)) is None:
            continue
        turn = np.degrees(np.arccos(np.clip((np.trace(T[:3, :3].T @ truth[:3, :3]) - 1) / 2, -1, 1)))
        one, two = T[:3, 3], truth[:3, 3]
        aside = np.degrees(np.arccos(np.clip(one @ two / (np.linalg.norm(one) * np.linalg.norm(two)), -1, 1)))
        apart.append((turn, aside))
    if not apart:
        return None
    turn, aside = np.median(apart, axis=0)
    return {"pairs": len(apart), "rotation_degrees": round(float(turn), 3), "baseline_degrees": round(float(aside), 3)}


def relative_poses(folder: Path, step: int = 1) -> dict[tuple[int, int], np.ndarray]:
    """(photo, photo) -> 4 x 4 from the first to the second, of a data set of pairs; `step` numbers make one photo."""
    if not (folder / "manifest.json").exists():
        return {}
    dataset = Dataset.open(str(folder))
    rows = [row for shard, group, _ in dataset.row_groups for row in dataset.read(shard, group, columns=["id", "T_2from1"]).to_pylist()]
    return {frames_of(row["id"], step): np.reshape(row["T_2from1"], (4, 4)) for row in rows}


def frames_of(pair_id: str, step: int) -> tuple[int, int]:
    """The numbers of the two photos of a pair."""
    one, two = (int(re.findall(r"\d+", name)[-1]) // step for name in pair_id.rpartition("/")[2].split("-"))
    return one, two


def chained(known: dict[tuple[int, int], np.ndarray], start: int, end: int) -> np.ndarray | None:
    """The pose from one frame to another through pairs that are known; None where no chain joins them."""
    steps: dict[int, list[tuple[int, np.ndarray]]] = {}
    for (one, two), T in known.items():
        steps.setdefault(one, []).append((two, T))
        steps.setdefault(two, []).append((one, np.linalg.inv(T)))
    reached, fringe = {start: np.eye(4)}, [start]
    while fringe and end not in reached:
        at = fringe.pop(0)
        for to, T in steps.get(at, ()):
            if to not in reached:
                reached[to] = T @ reached[at]
                fringe.append(to)
    return reached.get(end)


def bars(counts: list[int]) -> str:
    """A histogram in letters."""
    top = max(counts) or 1
    return "".join(BLOCKS[math.ceil(8 * count / top)] for count in counts).rstrip() or "-"


def fit(row: dict[str, Any]) -> str:
    """What prepare said of epipolar lines or of warping."""
    found = []
    for note in row.get("notes", []):
        if told := re.search(r"epipolar distance of (\d+) pairs.*?: median ([\d.]+) px, (\d+)% of matches below 2 px", note):
            found.append(f"epipolar {told[2]} px, {told[3]} % below 2 px")
        elif told := re.search(r"warp error of \d+ pair.*? ([\d.]+) of 255 where the images differ by ([\d.]+)", note):
            found.append(f"warp {told[1]}, unmoved {told[2]}")
    if off := row.get("poses_off"):
        found.append(f"poses off by {off['rotation_degrees']:.2f}°, baseline by {off['baseline_degrees']:.2f}° ({off['pairs']} pairs)")
    return "; ".join(found)


def page(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# What becomes of real data sets",
        "",
        "Written by `python benchmarks/real_sets.py WORK` from `benchmarks/real_sets.json`, which also has what each command told and what "
        "`inspect` found. The sets are those of `../shared/data`, made by other people with other programs; commands stand in that folder. "
        "Seconds are of `prepare`, on two CPU cores beside other work: they say how long a person waits on a busy machine, no more.",
        "",
        "Bars of the overlap go from 0 to 1 in tenths, those of the angle between the views from 0 degrees in tens; "
        "the median stands behind. Epipolar: median distance of matched features, short side 384 px. Warp: mean difference of image 1 "
        "and image 2 moved by the truth, of 255. Poses that were found are held against those that the set has.",
        "",
        "| set | `sightline prepare` | rows | overlap | angle | fit | skipped | seconds | `inspect` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        made = ", ".join(f"{part} {count:,}".strip() for part, count in row.get("rows", {}).items())
        spreads = [f"`{bars(row[what]['histogram'])}` {row[what]['median']:g}" if what in row else "" for what in ("overlap", "angle")]
        skipped = ", ".join(f"{count} {reason}" for reason, count in row.get("skipped", {}).items()) or "0"
        looked = row.get("verdict", "").partition(" in ")[0].replace("Nothing wrong was found", "nothing wrong")
        cells = [row["set"], f"`{row['command'].removeprefix('sightline prepare ')}`", made or f"refused: {row['refused']}"]
        lines.append("| " + " | ".join([*cells, *spreads, fit(row), skipped, f"{row['seconds']:g}", looked]) + " |")
    told = [f"- {row['set']}: {text}" for row in rows for text in row.get("findings", []) if not text.startswith("note: ")]
    lines += ["", "What `inspect` names to look at:", "", *told] if told else []
    if missing := [name for name in SETS if name not in {row["set"] for row in rows}]:
        lines += ["", f"Not run yet: {'; '.join(missing)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the sets (default: ../shared/data)")
    parser.add_argument("--only", nargs="+", default=[""], help="sets whose name begins with one of these")
    parser.add_argument("--table", action="store_true", help="prepare nothing")
    args = parser.parse_args()
    work = args.work.resolve()
    (work / "rows").mkdir(parents=True, exist_ok=True)
    rows = []
    before = {row["set"]: row for row in json.loads(RECORD.read_text())} if RECORD.exists() else {}
    for name in SETS:
        path = work / "rows" / f"{key_of(name)}.json"
        if not path.exists() and not args.table and name.startswith(tuple(args.only)):
            path.write_text(json.dumps(measured(work, name, args.data.resolve())))
        if not path.exists():
            rows += [before[name]] if name in before else []
            continue
        row = json.loads(path.read_text())
        row |= spread(name, work)
        if name in TRUTH and (off := poses_off(name, work)):
            row["poses_off"] = off
        rows.append(row)
        print(f"{name}: {row.get('rows', row.get('refused'))} in {row['seconds']} s", flush=True)
    RECORD.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
