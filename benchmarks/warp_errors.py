"""The warp error of every reader of stereo and flow: image 2 looked up where the truth says, beside image 1, where that is seen.

  python benchmarks/warp_errors.py --data ../shared/data     # writes warp_errors.json and docs/notes/warp.md

Real bytes where there are some below --data; else files that the tests write by the description of each layout, which can only show that a
reader does what we take the description to say.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sightline.platform.data.images import Resize
from sightline.platform.data.prepare.pair_sources.truth import Flow, Stereo
from sightline.platform.data.schema import decode_row
from sightline.platform.data.synthetic.match_settings import MatchSettings
from sightline.platform.data.synthetic.matches import render_matches
from sightline.platform.data.warp import flow_of_disparity, warp_error

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "benchmarks" / "warp_errors.json", ROOT / "docs" / "notes" / "warp.md"
REAL = {"stereo": Stereo(), "flow-chairs": Flow()}
HEAD = """# Warp errors of the readers of stereo and flow

`python benchmarks/warp_errors.py --data ../shared/data` writes this page. Colour difference (of 255) between image 1 and image 2
looked up where the truth says, over the pixels whose truth is known and that are not said to be hidden, and the difference of the images
unmoved. *Own files*: written by our tests from the published description of a layout, since no real bytes were at hand; smooth pictures
moved by whole pixels, so that 0 is possible (JPEG leaves a little). They cannot show that the description was understood. Real photographs
differ by light and by pixels that are hidden and not marked.

| task | layout | files | pairs | warped | unmoved | known and seen |
|---|---|---|---|---|---|---|
"""


def row(task: str, layout: str, files: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    column = "disparity" if task == "stereo" else "flow"
    sums = np.zeros(4)
    for sample in samples:
        flow = flow_of_disparity(sample[column]) if column == "disparity" else sample[column]
        if sample.get("occluded") is not None:
            flow = np.where(sample["occluded"][..., None], np.nan, flow)
        error = warp_error(sample["image1"], sample["image2"], flow)
        sums += [error.moved * error.pixels, error.still * error.pixels, error.pixels, flow.shape[0] * flow.shape[1]]
    moved, still, share = sums[0] / sums[2], sums[1] / sums[2], sums[2] / sums[3]
    figures = {"warped": round(moved, 2), "unmoved": round(still, 1), "share": round(share, 3)}
    return {"task": task, "layout": layout, "files": files, "pairs": len(samples), **figures}


def rows(data: Path | None) -> Iterator[dict[str, Any]]:
    for folder, source in REAL.items():
        if data is not None and (data / folder).is_dir():
            by_layout: dict[str, list[dict[str, Any]]] = {}
            for item in source.find(str(data / folder), folder).items:
                by_layout.setdefault(item.layout, []).append(decode_row(item.row(Resize()), "pairs"))
            for layout, samples in by_layout.items():
                yield row(source.reader, layout, f"real: {folder}", samples)
    for task in ("stereo", "flow"):
        settings = MatchSettings("stereo" if task == "stereo" else "flow", 128, floating=3, moving=0 if task == "stereo" else 5)
        yield row(
            task, "rendered rooms", "rendered", [decode_row(one, "pairs") for i in range(3) for one in render_matches(0, i, 2, settings)]
        )
    sys.path.insert(0, str(ROOT))
    from tests.platform.data.prepare.test_prepare_truth import FLOW, STEREO, write

    for task, cases in (("stereo", STEREO), ("flow", FLOW)):
        for layout, (files, *_) in cases.items():
            with tempfile.TemporaryDirectory() as folder:
                scale = 4.0 if "200" in layout and "Middlebury" in layout else None
                source = Stereo(scale=scale) if task == "stereo" else Flow()
                items = source.find(write(Path(folder), files), "set").items
                yield row(task, layout, "own files", [decode_row(item.row(Resize()), "pairs") for item in items])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the real sets: stereo, flow-chairs")
    found = list(rows(parser.parse_args().data))
    RECORD.write_text("[\n" + ",\n".join(f" {json.dumps(one)}" for one in found) + "\n]\n")
    lines = [
        f"| {one['task']} | {one['layout']} | {one['files']} | {one['pairs']} | {one['warped']} | {one['unmoved']} | {one['share']:.0%} |"
        for one in found
    ]
    PAGE.write_text(HEAD + "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
