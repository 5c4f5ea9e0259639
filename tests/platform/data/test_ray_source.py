from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.config.location import parse
from sightline.platform.data import ray_source
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.ray_source import RaySource


def _open(text: str) -> RaySource:
    return RaySource.open(parse(text), "images")


def test_rows_are_known_where_a_reader_tells_them(tmp_path: Path) -> None:
    for name in ("a", "sub/b"):
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": [b"x"] * 7}), path)
        path.with_suffix(".jpg").write_bytes(b"x")
    (tmp_path / "one.tar").write_bytes(b"")
    assert _open(f"parquet:{tmp_path}").rows == 14
    assert _open(f"parquet:{tmp_path}/*.parquet").rows == 7
    assert _open(f"parquet:{tmp_path}?rows=5").rows == 5, "what a person says counts"
    assert _open(f"images:{tmp_path}").rows == 2
    assert _open(f"webdataset:{tmp_path}/one.tar").rows == 0 and "not known" in _open(f"webdataset:{tmp_path}").described
    source = _open(f"parquet:{tmp_path}?image=image&rows=5")
    assert source.fingerprint == f"ray:parquet:{tmp_path}?image=image", "no more is known of the content"
    with pytest.raises(CallError, match="a prepared data set is needed here"):
        Dataset.open(f"parquet:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("parquet:{0}/none", "is not there"),
        ("parquet:{0}/*.pq", "no file matches"),
        ("images:{0}", "no file in .* ends in .jpg"),
        ("parquet:{0}/text.parquet", "is not a Parquet file"),
        ("parquet:{0}/good.parquet", "none of its columns is called image; columns: img, y"),
        ("parquet:{0}/good.parquet?image=imf", "no column 'imf'; columns: img, y"),
        ("ray:no_such_module_of_mine:train", "there is no module no_such_module_of_mine"),
        ("ray:json:lods", "json has no function 'lods'"),
    ],
)
def test_what_is_not_there_is_told_before_ray_starts(text: str, word: str, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no Parquet, but text of some length")
    pq.write_table(pa.table({"img": [b"x"], "y": [1]}), tmp_path / "good.parquet")
    with pytest.raises(CallError, match=word):
        _open(text.format(tmp_path))


def test_a_function_that_gives_no_dataset_is_told_what_to_return(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    location = parse("ray:odd_function:made")
    for returned, word, hint in (
        (pa.table({}), "returned pyarrow.Table, not a ray.data.Dataset", "return ray.data.from_arrow(...) of it"),
        ([{"image": b""}], "returned list, not", "ray.data.from_items"),
    ):
        error = ray_source._no_dataset(location, returned)
        assert word in str(error) and hint in error.hint
    monkeypatch.syspath_prepend(tmp_path)
    for body, word in (("raise SystemExit(3)", "SystemExit: 3"), ("raise KeyError('no bucket')", "KeyError: 'no bucket'")):
        (tmp_path / "odd_function.py").write_text(f"def made():\n    {body}\n")
        monkeypatch.delitem(sys.modules, "odd_function", raising=False)
        importlib.invalidate_caches()
        with pytest.raises(SightlineError, match=word):
            ray_source._call(location)


def test_pickles_in_parquet_are_refused_before_any_reader_sees_them(tmp_path: Path) -> None:
    odd = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}
    schema = pa.schema([pa.field("image", pa.binary()), pa.field("odd", pa.large_binary(), metadata=odd)])
    pq.write_table(pa.table([[b"x"], [b"\x80\x05N."]], schema=schema), tmp_path / "x.parquet")
    with pytest.raises(CallError, match=r"x\.parquet holds pickled Python objects"):
        _open(f"parquet:{tmp_path}")


def test_a_module_and_those_beside_it_are_sent_to_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray.cloudpickle

    (tmp_path / "helper_beside.py").write_text("def twice(x): return 2 * x")
    (tmp_path / "data_beside.py").write_text("import helper_beside\ndef made(): return helper_beside.twice(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    function, module = ray_source._function(parse("ray:data_beside:made"))
    ray_source._send_along(module)
    sent = ray.cloudpickle.dumps(function)
    for name in ("data_beside", "helper_beside"):
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[name])
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir("/")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    assert ray.cloudpickle.loads(sent)() == 6
