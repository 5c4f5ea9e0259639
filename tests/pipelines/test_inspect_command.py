"""`sightline inspect` of every row: verdict, exit code, and a page that is complete in itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from asking import Ask
from made_images import write_image

from sightline.platform.data.images import encode_segmentation
from sightline.platform.data.writer import ShardWriter


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """train and val, with masks and labels; one image is in both, and a name would be markup."""
    for name, seeds in (("train", range(5)), ("val", (4, 7))):
        with ShardWriter(tmp_path / name, "images", classes=("cat", "<b>dog"), ignore_index=2) as writer:
            for seed in seeds:
                write_image(tmp_path / "image.png", seed)
                mask = encode_segmentation(np.full((40, 60), seed % 3, np.uint8))
                row = {"id": f"<i>{seed}", "image": (tmp_path / "image.png").read_bytes(), "segmentation": mask, "label": seed % 2}
                writer.write(row)
    return tmp_path / "train", tmp_path / "val"


def test_a_leak_is_an_error_that_can_be_allowed_and_the_page_shows_it(ask: Ask, sets: tuple[Path, Path], tmp_path: Path) -> None:
    page = tmp_path / "look.html"
    code, out, err = ask("inspect", *sets, "--html", page)
    assert code == 1 and "share 1 image byte for byte" in err and "--allow-leaks" in err
    assert out.startswith("verdict") and str(page) in out and len(out.splitlines()) < 12
    text = page.read_text()
    assert "1 error" in text and "cat" in text and "&lt;b&gt;dog" in text and "<b>dog" not in text and "<i>4" not in text
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", text) and "<script" not in text
    assert len(re.findall(r'src="data:image/webp;base64,', text)) > 8 and len(text) < 400_000
    code, out, _ = ask("inspect", *sets, "--allow-leaks", "--json")
    answer = json.loads(out)
    assert code == 0 and [one["rows"] for one in answer["sets"]] == [5, 2] and answer["page"] is None
    assert answer["findings"][0]["severity"] == "warning"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--at-most", "0"], "--at-most must be at least 1"),
        (["--html", "{tmp}"], "is a folder"),
        (["--html", "/proc/none/page.html"], "cannot write /proc/none/page.html"),
        (["--contact-sheet", "x.png"], "a contact sheet is of one data set"),
    ],
)
def test_a_wrong_call_is_answered(ask: Ask, sets: tuple[Path, Path], tmp_path: Path, words: list[str], said: str) -> None:
    code, _, err = ask("inspect", *sets, *(word.format(tmp=tmp_path) for word in words))
    assert code == 2 and said in err
