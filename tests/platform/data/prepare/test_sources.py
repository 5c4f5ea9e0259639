"""Sources of `prepare`: one from another package is in the help and is prepared by the command line; options become arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from outside import publish
from PIL import Image

from sightline.methods.errors import SightlineError
from sightline.pipelines.__main__ import main
from sightline.platform.core.plugins import plugins
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.prepare.catalog import GROUP, SHIPPED, source_kinds, sources_of
from sightline.platform.data.prepare.options import bounds, degrees, option, options_of, positive

RIG = """
from dataclasses import dataclass

from sightline.platform.data.prepare.found import Found
from sightline.platform.data.prepare.files import existing_folder, images_in
from sightline.platform.data.prepare.options import option
from sightline.platform.data.prepare.pairs import Pair
from sightline.platform.data.prepare.source import PairSource

@dataclass(frozen=True)
class Rig(PairSource):
    reader = "rig"
    help = "two cameras side by side: left/ and right/"
    examples = ("./drive --right right --out ./drive-pairs",)

    right: str = option("right", "folder of the second camera (default: %(default)s)", metavar="SUB")

    def find(self, place, name, seed=0):
        folder = existing_folder(place)
        found = Found(self.provenance(folder, "rectified"))
        for left in images_in(folder / "left"):
            pair = Pair(f"{name}/{left.stem}", f"{name}/{left.stem[0]}", str(left), str(folder / self.right / left.name))
            found.items.append(pair)
        return found
"""


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with the source `pairs rig`, and a folder that it reads."""
    publish(tmp_path / "package", GROUP, {"pairs.rig": "outside_rig:Rig"}, {"outside_rig": RIG}, monkeypatch)
    for index in range(8):
        for side in ("left", "second"):
            path = tmp_path / "in" / side / f"{'ab'[index // 4]}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(index).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(path)
    yield tmp_path / "in"
    monkeypatch.undo()
    plugins.cache_clear()


def test_a_source_from_outside_is_prepared_by_the_command_line(rig: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["pairs", "rig", str(rig), "--right", "second", "--size", "36", "--split", "train=0.5,val=0.5", "--licence", "ours"]
    assert main(["prepare", *words, "--out", str(rig.parent / "out"), "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert [one["rows"] for one in answer["datasets"]] == [4, 4]
    train = Dataset.open(rig.parent / "out/train", "pairs").manifest
    source = train.provenance.sources[0]
    assert (source.reader, source.licence, source.notes) == ("rig", "ours", ("rectified", "split by scene"))
    assert train.image_max == (36, 43)


def test_a_source_from_outside_is_in_the_help(rig: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["pairs", "--help"], "two cameras side by side"),
        (["pairs", "rig", "--help"], "--right SUB"),
        (["pairs", "rig", "--help"], "sightline prepare pairs rig ./drive --right right"),
    ):
        with pytest.raises(SystemExit):
            main(["prepare", *words])
        assert said in capsys.readouterr().out


def test_a_source_of_a_kind_from_outside_makes_its_kind_a_word_of_prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, GROUP, {"waves.sea": "outside_sea:Sea"}, {"outside_sea": "Sea = 1"}, monkeypatch)
    assert list(source_kinds()) == [*SHIPPED, "waves"]
    with pytest.raises(SightlineError, match=r"outside_sea:Sea is not the source 'waves\.sea'"):
        sources_of("waves")
    monkeypatch.undo()
    plugins.cache_clear()


def test_every_source_is_of_the_kind_under_which_it_is_listed_and_has_a_name_of_its_own() -> None:
    for kind, places in SHIPPED.items():
        sources = sources_of(kind)
        assert len(sources) == len(places)
        assert all(source.kind == kind and source.reader == name and source.help for name, source in sources.items())


@dataclass(frozen=True)
class _Some:
    count: int = option(3, "a count", positive)
    share: float | None = option(None, "a share")
    fast: bool = option(False, "a switch")
    word: str = option("a", "a word", choices=("a", "b"))


def test_the_text_of_an_option_is_read_as_its_type_says() -> None:
    parse = {one.name: one.parse for one in options_of(_Some)}
    assert parse == {"count": positive, "share": float, "fast": None, "word": str}
    assert [one.default for one in options_of(_Some)] == [3, None, False, "a"] and options_of(_Some)[3].choices == ("a", "b")


@pytest.mark.parametrize(
    ("read", "text", "says"),
    [
        (bounds, "0.9..0.4", "the smaller number first"),
        (bounds, "0.4..1.5", "both from 0 to 1"),
        (bounds, "0.4", "0.4..0.9"),
        (degrees, "30", "0..20"),
        (degrees, "25..10", "0..20"),
        (degrees, "10..200", "0..20"),
    ],
)
def test_what_is_no_range_is_told_what_one_is(read: Callable[[str], object], text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        read(text)


def test_ranges_of_degrees_and_of_co_visibility() -> None:
    assert degrees("10..25") == (10, 25) and degrees("0..0") == (0, 0) and bounds("0.45..0.9") == (0.45, 0.9)
