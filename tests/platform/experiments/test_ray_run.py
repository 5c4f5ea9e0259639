"""A run on a source that Ray Data orders, from its first step to its page; what Ray Data gives is made here."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import toy_settings
from PIL import Image

from sightline.methods.catalog import find_method
from sightline.methods.errors import CallError
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.config import Experiment
from sightline.platform.data.dataset import Dataset
from sightline.platform.data.loader.ray_stream import make_samples
from sightline.platform.data.ray_source import Look
from sightline.platform.data.writer import ShardWriter
from sightline.platform.experiments import preflight
from sightline.platform.experiments.create import create_run
from sightline.platform.experiments.finish import TrainedModel, card, measured_on, visualise, write_page
from sightline.platform.experiments.preflight import check, keep_sources
from sightline.platform.experiments.train_run import is_trained
from sightline.platform.runs.events import DataNote, RunEvent, TrainingEnded
from sightline.platform.runs.record import Run
from sightline.platform.tracking.datasets import dataset_input, licences
from sightline.platform.training import inputs


def _jpeg(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def _write(path: Path) -> pa.Table:
    table = pa.table({"name": [f"{row}" for row in range(30)], "img": [_jpeg(8 * row) for row in range(30)]})
    pq.write_table(table, path)
    return table


@pytest.mark.slow
def test_a_run_says_that_its_history_is_not_repeatable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_here: Callable[..., list[RunEvent]]
) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    table = _write(tmp_path / "x.parquet")
    asked = toy_settings("conmim", **{"data.train": f"parquet:{tmp_path}/x.parquet?image=img&id=name", "train.length": "2 epochs"})
    experiment, data = check(asked, look=False)
    assert experiment.data.train == f"parquet:{tmp_path}/x.parquet?image=img&id=name&rows=30"
    run = create_run("own", experiment, data.fingerprint, "pretrain", "")
    views = find_method("conmim").views(experiment.method_config)
    samples = make_samples(table, "images", views, Look({"image": ("img",), "id": ("name",)}, {}))

    class Dealt:
        def iter_batches(self, **options: Any) -> Iterator[dict[str, np.ndarray]]:
            yield samples

    monkeypatch.setattr(inputs, "_share_of_rank", lambda job: Dealt())
    (tmp_path / "x.parquet").unlink()  # workers and what follows the training need no file
    train_here(run, stop_after=3)
    assert not is_trained(experiment, run.folder)
    events = train_here(run)
    assert next(event for event in events if isinstance(event, TrainingEnded)).step == experiment.clock(30).steps
    notes = [event.text for event in run.events() if isinstance(event, DataNote)]
    assert "not promised" in notes[0] and notes[1].endswith("at step 3 it begins anew")
    found = checkpoint.newest(run.folder / "checkpoints")
    assert found is not None and found.state.history.startswith("not-repeatable:") and is_trained(experiment, run.folder)
    assert found.state.fingerprint == f"ray:parquet:{tmp_path}/x.parquet?image=img&id=name" == run.fingerprint

    model = TrainedModel.open(Run.open("own"))
    assert visualise(model) == [] and measured_on(model, {}) == {}
    page = write_page(run, model, "verdict", "", [], None, {}, [], "1 GB").read_text()
    assert "begins anew" in page and "licence unknown" in page and "not-repeatable:" in page
    assert "read by Ray Data" in card(run, model, "verdict", "", None, {}, "1 GB")
    logged = dataset_input(model.train, "training").dataset
    assert logged.digest == "ray:not-known" and '"num_rows": 30' in logged.profile and licences([model.train]) == ""


def test_what_is_measured_on_again_and_again_is_kept_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    table = _write(tmp_path / "x.parquet")
    pq.write_table(table.append_column("kind", pa.array(["a", "b", "c"] * 10)), tmp_path / "x.parquet")
    place = f"parquet:{tmp_path}/x.parquet?image=img&id=name"
    labelled = {"probe.train": [f"{place}&label=kind"], "probe.test": {"read": "parquet", "from": f"{tmp_path}/x.parquet"}}
    labelled["probe.test"] |= {"columns": {"image": "img", "label": "kind", "id": "name"}, "rows": 9}
    asked = toy_settings("conmim", **{"data.train": place, "data.val": f"{place}&rows=12&label=kind", **labelled})
    told: list[str] = []
    kept = keep_sources(check(asked, look=False)[0], told.append)
    assert kept.data.train == f"{place}&rows=30", "training goes on reading the source"
    val = Dataset.open(str(kept.data.val), "images")
    assert val.rows == 12 and val.manifest.classes == ("a", "b", "c") and "data.val: 12 images are kept in" in " ".join(told)
    ((train, test),) = kept.probe_data
    assert Dataset.open(train).rows == 30 and Dataset.open(test).rows == 9
    assert Dataset.open(train).manifest.classes == Dataset.open(test).manifest.classes
    assert keep_sources(kept) == kept, "a resume reads nothing again"
    learned = Dataset.open(str(keep_sources(kept, train=True).data.train))
    assert sorted(learned.sample_ids(), key=int) == [str(row) for row in range(30)] != learned.sample_ids(), "a sweep's, shuffled"


def test_probes_learn_from_the_labels_that_a_training_source_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "home"))
    table = _write(tmp_path / "x.parquet")
    pq.write_table(table.append_column("kind", pa.array(["a", "b", "c"] * 10)), tmp_path / "x.parquet")
    plain = f"parquet:{tmp_path}/x.parquet?image=img&id=name"
    named = f"{plain}&label=kind"

    def kept(train: str, val: str | None, **more: Any) -> Experiment:
        return keep_sources(check(toy_settings("conmim", **{"data.train": train, "data.val": val, **more}), look=False)[0])

    monkeypatch.setattr(preflight, "PROBE_ROWS", 12)
    found = kept(named, named)
    ((train, test),) = found.probe_data
    assert Dataset.open(train).rows == 12 and Dataset.open(test).rows == 30 and test == found.data.val
    assert Dataset.open(train).manifest.classes == Dataset.open(test).manifest.classes == ("a", "b", "c")
    assert found.data.train == f"{named}&rows=30" and keep_sources(found) == found, "a resume reads nothing again"
    with ShardWriter(tmp_path / "val", "images", classes=("c", "b", "a", "owl")) as writer:
        writer.write({"id": "0", "image": _jpeg(0), "label": 3})
    ((train, test),) = kept(named, str(tmp_path / "val")).probe_data
    assert Dataset.open(train).manifest.classes == ("c", "b", "a", "owl") and test == str(tmp_path / "val"), "a prepared set's own classes"
    for without in (kept(plain, named), kept(named, plain), kept(named, None)):
        assert without.probe_data == []
    own = kept(named, named, **{"probe.train": [str(tmp_path / "val")], "probe.test": [str(tmp_path / "val")]})
    assert own.probe_data == [(str(tmp_path / "val"), str(tmp_path / "val"))]


def test_what_a_source_cannot_do_is_told_before_ray_starts(tmp_path: Path) -> None:
    _write(tmp_path / "x.parquet")
    place = f"parquet:{tmp_path}/x.parquet?image=img"
    for changed, word in (
        ({"data.val": place.replace("=img", "=imf")}, "it has no column 'imf'; columns: name, img"),
        ({"probe.train": place.replace("x.parquet", "y.parquet"), "probe.test": place}, "y.parquet is not there"),
        ({"batch.size": 48, "batch.microbatch": 6}, "has 30 rows, one batch needs 48"),
        ({"data.train": "webdataset:" + str(tmp_path)}, "no file in"),
        ({"data.train": "ray:json:loads?image=img", "train.length": "2 epochs"}, r"is not known.*train\.length='2 epochs'"),
    ):
        with pytest.raises(CallError, match=word):
            check(toy_settings("conmim", **{"data.train": place, **changed}), look=False)
