from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.config.location import PREPARED, Location, parse, refuse_unknown_reader


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("./pairs/train", Location(PREPARED, "./pairs/train")),
        ("s3://bucket/pairs/train", Location(PREPARED, "s3://bucket/pairs/train")),
        ("ray:my_data:train", Location("ray", "my_data:train")),
        ("ray:a.b:train?image=photo&rows=500", Location("ray", "a.b:train", {"image": "photo"}, 500)),
        ("parquet:./birds/*.parquet?image=img&id=name", Location("parquet", "./birds/*.parquet", {"image": "img", "id": "name"})),
        ("parquet:./b?rds", Location("parquet", "./b?rds")),
        ("parquet:./b?rds?image=a%26b%3D%3F%25", Location("parquet", "./b?rds", {"image": "a&b=?%"})),
        ("parquet:s3://bucket/birds?points=x,y,z", Location("parquet", "s3://bucket/birds", {"points": "x,y,z"})),
        ("images:/photos of 2024", Location("images", "/photos of 2024")),
        ("webdataset:birds-{000..009}.tar?image=jpg", Location("webdataset", "birds-{000..009}.tar", {"image": "jpg"})),
        ("odd:name", Location(PREPARED, "odd:name")),
    ],
)
def test_a_line_and_yaml_mean_the_same_and_are_written_back(text: str, location: Location) -> None:
    assert parse(text) == location and parse(str(location)) == location
    if not location.prepared:
        yaml = {"read": location.reader, "from": location.place, "columns": dict(location.columns), "rows": location.rows}
        assert parse(yaml) == location


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ("ray:my_data", "'my_data' is no function"),
        ("ray:my-data:train", "is no function"),
        ("parquet:", "names no place"),
        ("parquet:./x?image=a&image=b", "image is named twice"),
        ("parquet:./x?rows=many", "no number of rows"),
        ("parquet:./x?image=", "has no name there"),
        ({"read": "parket", "from": "./x"}, "'parket' is no way to read data: did you mean 'parquet'"),
        ({"read": "parquet", "form": "./x"}, "no key 'form': did you mean 'from'"),
        ({"read": "parquet"}, "needs `from: PLACE`"),
        ({"from": "./x", "columns": {"image": "a"}}, "columns and rows of its own"),
    ],
)
def test_what_is_wrong_is_named(given: Any, word: str) -> None:
    with pytest.raises(CallError, match=word):
        parse(given)


def test_a_misspelt_reader_is_told_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CallError, match=r"parkuet: is no way to read data: did you mean 'parquet'\?"):
        refuse_unknown_reader(parse("parkuet:./birds"))
    monkeypatch.chdir(tmp_path)
    Path("a:b").mkdir()
    refuse_unknown_reader(parse("a:b"))
    assert str(parse("parquet:./birds?image=a").absolute()) == f"parquet:{tmp_path}/birds?image=a"


def test_settings_hold_one_line() -> None:
    settings = {"data.train": {"read": "parquet", "from": "./birds", "columns": {"image": "photo"}, "rows": 60}}
    loaded = config.load("conmim-tiny", settings)
    assert loaded.data.train == "parquet:./birds?image=photo&rows=60"
    assert config.load("conmim-tiny", settings=loaded.sections()) == loaded
    assert loaded.probe_data == [], "probes cannot train on rows that come as they come"
    with pytest.raises(CallError, match=r"data\.train.*no number of rows"):
        config.load("conmim-tiny", {"data.train": "parquet:./birds?rows=0"})
