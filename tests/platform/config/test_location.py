from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy import TOY

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.config.location import PREPARED, Location, Mixture, parse, refuse_unknown_reader


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


@pytest.mark.parametrize(
    ("given", "text", "weights"),
    [
        ("[a/train: 3, b/train: 1]", "[a/train: 3, b/train: 1]", (3, 1)),
        ([{"a/train": 0.75}, {"s3://b/train": 0.25}], "[a/train: 3, s3://b/train: 1]", (3, 1)),
        ({"./a": 2, "./b": 2}, "[./a: 1, ./b: 1]", (1, 1)),
        (["./a", "./my pairs, 2024: new"], '[./a, "./my pairs, 2024: new"]', None),
    ],
)
def test_a_mixture_is_written_back_as_one_line(given: Any, text: str, weights: Any) -> None:
    found = parse(given)
    assert isinstance(found, Mixture)
    assert (str(found), found.weights, parse(text)) == (text, weights, found)
    assert config.load("toy", {"data.train": given}, settings=TOY).data.train == text


def test_names_of_a_mixture_tell_its_sets_apart() -> None:
    named = {
        ("./habitat/train", "./arkit/train"): ("habitat", "arkit"),
        ("/x/kitchen", "/y/kitchen"): ("x", "y"),
        ("a/b/train", "a/b/val"): ("train", "val"),
        ("x/rooms/train", "y/rooms/train", "y/fox/train"): ("x-rooms", "y-rooms", "y-fox"),
        ("s3://one/my set", "two"): ("my_set", "two"),
        ("s3://key:secret@one", "s3://b/two?secret_key=secret"): ("____one", "two"),
        ("s3://b/two?secret_key=one", "s3://b/two?secret_key=two"): ("s3_-b-two-1", "s3_-b-two-2"),
    }
    assert {places: Mixture(places, None).names for places in named} == named
    assert all(parse(str(Mixture(places, None))) == Mixture(places, None) for places in named)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ([], "names no data set"),
        (["a", {"b": 1}], "1 of 2 data sets have a weight"),
        ([{"a": 0}, {"b": 1}], "a: 0 is no weight"),
        ([{"a": True}, {"b": 1}], "is no weight"),
        ([{"a": "much"}, {"b": 1}], "is no weight"),
        ([{"a": 1e-12}, {"b": 1}], "use fewer digits"),
        (["a", "a"], "named twice"),
        (["a", ["b"]], "one is needed here"),
        (["a", None], "is no place of data"),
        (["a", "parquet:birds"], "read by Ray Data"),
        ([{"a": 1}, {"": 1}], "names no place"),
    ],
)
def test_what_is_no_mixture_is_named(given: Any, word: str) -> None:
    with pytest.raises(CallError) as error:
        parse(given)
    assert word in f"{error.value} {error.value.hint}"


def test_only_training_data_are_a_mixture_and_one_set_with_a_weight_is_that_set() -> None:
    assert str(parse([{"a": 3}])) == "a"
    for key in ("data.val", "probe.test"):
        with pytest.raises(CallError, match="several data sets, and one is needed"):
            config.load("toy", {key: [["a", "b"]] if key == "probe.test" else ["a", "b"]}, settings=TOY)


def test_weights_belong_to_what_a_resume_must_not_change_and_one_set_hashes_as_before() -> None:
    def hashed(train: Any) -> str:
        return config.hashed_text(config.load("toy", {"data.train": train}, settings=TOY))

    assert hashed("a") == hashed("b") and "weights" not in hashed("a")
    assert len({hashed(["a", "b"]), hashed({"a": 1, "b": 1}), hashed({"a": 3, "b": 1}), hashed("a")}) == 4
    assert hashed({"a": 3, "b": 1}) == hashed({"x/a": 0.75, "x/b": 0.25})
