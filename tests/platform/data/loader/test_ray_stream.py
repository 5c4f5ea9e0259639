"""The stream of a source that Ray Data orders."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from toy import TOY_IMAGES, TOY_POINTS

from sightline.methods.catalog import find_method
from sightline.methods.contract import Views
from sightline.methods.errors import SightlineError
from sightline.platform import config
from sightline.platform.config.location import Location, parse
from sightline.platform.data.clouds import encode_points
from sightline.platform.data.loader.ray_stream import RayStream, make_samples, samples_dataset
from sightline.platform.data.loader.stream import BrokenSamples, Microbatch, StreamResources
from sightline.platform.data.ray_source import Look, RaySource
from sightline.platform.data.writer import ShardWriter

SOURCE = RaySource(Location("ray", "my_data:train"), "images", 0)


def _views() -> Views:
    return find_method("conmim").views(config.load("toy", settings=TOY_IMAGES["conmim"]).method_config)


def _jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


class Epochs:
    """In place of `ray.data.DataIterator`: the same rows in blocks of these sizes at every epoch."""

    def __init__(self, *sizes: int, fail: Exception | None = None, broken: int = 0) -> None:
        self.sizes, self.fail, self.broken, self.epochs = sizes, fail, broken, 0

    def iter_batches(self, **options: Any) -> Iterator[dict[str, np.ndarray]]:
        self.epochs += 1
        first = 0
        for size in self.sizes:
            ids = np.asarray([str(first + row) for row in range(size)], object)
            reasons = np.asarray([f"{name}: broken" if int(name) < self.broken else "" for name in ids], object)
            yield {"image": np.arange(first, first + size), "id": ids, "broken": reasons}
            first += size
        if self.fail:
            raise self.fail


def _stream(epochs: Epochs, steps: int = 5, batch: int = 6, **more: Any) -> list[list[Microbatch]]:
    return list(RayStream(SOURCE, epochs, range(2), 0, steps, batch, batch // 2, **more))


def test_no_microbatch_is_short_and_no_row_is_lost_at_the_end_of_an_epoch() -> None:
    epochs = Epochs(4, 0, 3)
    steps = _stream(epochs)
    ids = [name for step in steps for microbatch in step for name in microbatch.ids]
    assert ids == [str(row % 7) for row in range(30)]
    assert all(len(one.ids) == 3 and one.arrays["image"].tolist() == [int(name) for name in one.ids] for step in steps for one in step)


def test_a_stream_ends_by_its_steps_and_not_with_the_source() -> None:
    epochs = Epochs(*[5] * 1000)
    assert len(_stream(epochs)) == 5 and epochs.epochs == 1


@pytest.mark.parametrize(
    ("epochs", "word"),
    [
        (Epochs(), "ray:my_data:train gave 0 rows, and one batch needs 6"),
        (Epochs(5), "gave 5 rows, and one batch needs 6"),
        (
            Epochs(4, fail=ValueError("in a task\nKeyError: 'my server is gone'\n")),
            "ray:my_data:train cannot be read: KeyError: 'my server is gone'",
        ),
        (Epochs(200, broken=20), r"\d+ of \d+ samples are broken, more than data.max_broken = 0.05; the first: 0: broken"),
    ],
    ids=["empty", "few", "raises", "broken"],
)
def test_a_source_that_will_not_do_is_told_in_a_sentence(epochs: Epochs, word: str) -> None:
    with pytest.raises(SightlineError, match=word):
        _stream(epochs, steps=60)


def test_a_broken_row_is_replaced_by_a_neighbour_or_by_the_first_of_the_source() -> None:
    look = Look({"image": ("image",), "id": ("id",)}, {"image": _jpeg(200), "id": "first"})
    table = pa.table({"id": ["a", "b", "c"], "image": [_jpeg(0), b"nonsense", _jpeg(100)]})
    made = make_samples(table, "images", _views(), look)
    assert made["id"].tolist() == ["a", "c", "c"] and [bool(reason) for reason in made["broken"]] == [False, True, False]
    assert made["broken"][1].startswith("b: image: not a readable image")
    alone = make_samples(table.slice(1, 1), "images", _views(), look)
    assert alone["id"].tolist() == ["first"] and abs(int(alone["image"].mean()) - 200) < 4


def test_a_row_that_the_views_refuse_is_named_and_counted_by_its_name() -> None:
    few = pa.table({"id": ["s3://b/1", "s3://b/2"], "points": [[[0.0, 0.0, float(n)] for n in range(8)]] * 2})
    good = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    look = Look({"points": ("points",), "id": ("id",)}, {"points": good, "id": "first"})
    views = find_method("i2p_mae").views(config.load("toy", settings=TOY_POINTS).method_config)
    made = make_samples(few, "points", views, look)
    assert made["broken"].tolist() == [f"s3://b/{n}: 8 distinct points; model.groups needs 32" for n in (1, 2)]
    counted = BrokenSamples(0.5, 0)
    counted.add(made["broken"].tolist())
    assert len(counted.reasons) == 2


MY_DATA = """
import numpy as np, ray.data
def bright(batch):
    if (batch["id"] >= 90).any(): raise OSError("no more")
    return {"id": batch["id"], "photo": np.stack([np.full((3, 40, 40), i, np.uint8) for i in batch["id"]])}
def train(): return ray.data.range(60, override_num_blocks=3).map_batches(bright)
def short(): return ray.data.range(100, override_num_blocks=10).map_batches(bright)
"""


@pytest.mark.slow
def test_ray_reads_what_a_person_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_head: None) -> None:
    import pyarrow.parquet as pq
    import ray.data

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_photos_of_a_test.py").write_text(MY_DATA)
    pq.write_table(pa.table({"img": [{"bytes": _jpeg(row), "path": f"{row}.jpg"} for row in range(60)]}), tmp_path / "x.parquet")
    (tmp_path / "folder").mkdir()
    for row in range(20):
        (tmp_path / f"folder/{row}.jpg").write_bytes(_jpeg(row))
    resources, views = StreamResources(0.5, 1.0), _views()

    def stream(text: str) -> set[str]:
        source = RaySource.open(parse(text), "images")
        made = samples_dataset(source, views, resources)
        steps = list(RayStream(source, made.iterator(), range(2), 0, 12, 12, 6))
        assert all(one.arrays["image"].shape == (6, 32, 32, 3) for step in steps for one in step)
        return {name for step in steps for one in step for name in one.ids}

    assert stream("ray:my_photos_of_a_test:train?image=photo") == {str(row) for row in range(60)}
    assert len(stream(f"parquet:{tmp_path}/x.parquet?image=img")) == 60
    assert stream(f"images:{tmp_path}/folder") == {f"{tmp_path}/folder/{row}.jpg" for row in range(20)}
    with pytest.raises(SightlineError, match=r"short\?image=photo cannot be read: .*OSError: no more"):
        stream("ray:my_photos_of_a_test:short?image=photo")

    cloud = np.arange(12, dtype="<f4").reshape(4, 3)
    with ShardWriter(tmp_path / "clouds", "points") as writer:
        for rows in (4, 2):
            writer.write({"id": str(rows), "points": encode_points(cloud[:rows])})
    held = ray.data.read_parquet(str(tmp_path / "clouds"))
    first, second = held.take(2)
    assert isinstance(first["points"], np.ndarray) and np.array_equal(first["points"], cloud) and second["points"].shape == (2, 3)
    assert [one.shape for one in held.take_batch(2)["normals"]] == [(0, 3), (0, 3)]
