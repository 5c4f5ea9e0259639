"""Encoders that a run needs besides its own: found, pinned and kept, so that nothing that happens to the original changes a resume."""

from __future__ import annotations

import copy
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from made import images_for, made_run, pretext_of
from toy import TOY_POINTS, write_points

from sightline.methods.catalog import find_method
from sightline.methods.contract import BuildContext
from sightline.methods.errors import CallError, SightlineError
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.data.dataset import Dataset
from sightline.platform.experiments import finish
from sightline.platform.experiments.create import create_run
from sightline.platform.models.encoders import open_encoder
from sightline.platform.models.resolve import find_weights, weights_of_run
from sightline.platform.runs.pinned import FOLDER, load_teachers
from sightline.platform.runs.record import Run
from sightline.platform.training.stage import make_stage, stage_maker
from sightline.platform.weights.format import Weights, digest, write_file

KEY = "model.teacher"
Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def nothing_is_fetched(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise AssertionError(f"a connection to {args[-1]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_points(tmp_path_factory.mktemp("clouds") / "train", 40, 1))


def made(teacher: str | None, name: str = "pupil", data: str | None = None, **overrides: Any) -> Run:
    experiment = config.load("toy", {"data.train": data, KEY: teacher, **overrides}, settings=copy.deepcopy(TOY_POINTS))
    return create_run(name, experiment, Dataset.open(data).fingerprint if data else "f" * 64, "test", "")


def pinned(run: Run) -> tuple[str, str]:
    place, _, sha256 = run.settings["model"]["teacher"].partition("@sha256:")
    return place, sha256


def looks(encoder: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([encoder.tokens(images_for(encoder)).flatten(), encoder.saliency(images_for(encoder)).flatten()])


@pytest.mark.parametrize("form", ["run", "folder", "file"])
def test_a_teacher_is_pinned_by_place_and_content_and_kept(form: str, tmp_path: Path) -> None:
    source = made_run("teacher")
    encoder = pretext_of(source).encoder()
    sha256 = digest(encoder.state_dict())
    place = str(source.folder)
    if form != "run":
        place = str(finish.save_encoder(source, encoder, 12))
    if form == "file":
        place = str(write_file(find_weights(place), tmp_path / "teacher.safetensors"))
    run = made("teacher" if form == "run" else place)
    assert pinned(run) == (place, sha256)
    assert run.settings["model"]["teacher_dim"] == encoder.dim == 32
    assert Run.open("pupil").experiment == run.experiment
    kept = load_teachers(run.experiment, run.folder)[KEY]
    assert not kept.training and torch.equal(looks(kept), looks(encoder))
    assert [path.name for path in (run.folder / FOLDER).iterdir()] == [f"{KEY}.safetensors"]
    again = made(run.settings["model"]["teacher"], "again")
    assert pinned(again) == pinned(run)


@pytest.mark.slow
def test_what_happens_to_the_original_changes_no_resume(clouds: str, train_here: Train) -> None:
    """It is trained on, then deleted: the run ends with the bits of one that was never stopped."""
    source = made_run("teacher")
    short = {"train.length": "6 steps", "train.checkpoint_every": "2 steps", "train.validate_every": "6 steps", "batch.size": 4}
    whole, stopped = made("teacher", "whole", clouds, **short), made("teacher", "stopped", clouds, **short)
    train_here(whole)
    train_here(stopped, stop_after=3)
    before = looks(load_teachers(stopped.experiment, stopped.folder)[KEY])
    state = checkpoint.TrainState(18, 216, 0, 1, source.fingerprint, "", "fp32", "")
    moved = {name: value + 1 for name, value in pretext_of(source).state_dict().items()}
    checkpoint.write(source.folder / "checkpoints", state, {"model": moved})
    assert open_encoder("teacher").sha256 != pinned(stopped)[1]
    assert torch.equal(looks(load_teachers(stopped.experiment, stopped.folder)[KEY]), before)
    shutil.rmtree(source.folder)
    train_here(Run.open("stopped"))
    ends = [checkpoint.newest(run.folder / "checkpoints") for run in (whole, stopped)]
    assert ends[0] is not None and ends[1] is not None and ends[0].state == ends[1].state and ends[0].state.step == 6
    ours, theirs = (end.tensors("model") for end in ends)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert Run.open("stopped").history() == whole.history()


def test_a_sha256_that_is_not_the_teachers_is_refused_before_anything_is_made() -> None:
    made_run("teacher")
    with pytest.raises(CallError, match=r"not those of model\.teacher: their SHA-256 is [0-9a-f]{16}\.\.\., not 0000") as caught:
        made(f"teacher@sha256:{'0' * 64}")
    assert "leave the part from @sha256:" in caught.value.hint
    with pytest.raises(CallError, match="'abc' is no SHA-256"):
        made("teacher@sha256:abc")
    with pytest.raises(CallError, match="no run 'pupil'"):
        Run.open("pupil")


@pytest.mark.parametrize("name", ["teachr", "models:/teacher@best"])
def test_a_name_of_nothing_is_told_with_the_nearest(name: str) -> None:
    made_run("teacher")
    with pytest.raises(CallError) as caught:
        made(name)
    assert ("did you mean 'teacher'?" if "models" not in name else "no registry holds") in str(caught.value)


def test_a_teacher_that_is_needed_and_not_named_is_asked_for() -> None:
    with pytest.raises(CallError, match=r"model\.teacher is not set") as caught:
        made(None)
    assert "pretext.mask=random loss.features=0" in caught.value.hint


def test_a_run_without_a_teacher_keeps_none_and_has_no_stage() -> None:
    run = made(None, **{"pretext.mask": "random", "loss.features": 0.0})
    assert not (run.folder / FOLDER).exists() and load_teachers(run.experiment, run.folder) == {}
    assert stage_maker(run.experiment, run.folder) is None


def kept_file(run: Run) -> Path:
    return run.folder / FOLDER / f"{KEY}.safetensors"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def exchange(path: Path) -> None:
    """Whole and true to itself, but of another encoder."""
    other = weights_of_run(made_run("other", seed=8))
    state = other.encoder().state_dict()
    write_file(Weights.of(other.method, other.sections, "encoder", state, "other", "other"), path)


@pytest.mark.parametrize(
    ("harm", "says"), [(flip, "were altered"), (cut, "not a whole safetensors"), (exchange, "is not the encoder"), (Path.unlink, "is gone")]
)
def test_a_kept_teacher_that_is_not_what_it_was_is_refused(harm: Callable[[Path], None], says: str) -> None:
    made_run("teacher")
    run = made("teacher")
    harm(kept_file(run))
    for load in (load_teachers, make_stage):
        with pytest.raises(SightlineError, match=says) as caught:
            load(run.experiment, run.folder)
        assert caught.value.hint


def test_the_stage_is_made_where_it_is_called_and_sees_with_the_kept_teacher(clouds: str) -> None:
    import pickle

    made_run("teacher")
    run = made("teacher")
    maker = stage_maker(run.experiment, run.folder)
    assert maker is not None
    stage = pickle.loads(pickle.dumps(maker))()
    views = find_method("i2p_mae").views(run.experiment.method_config)
    dataset = Dataset.open(clouds)
    from sightline.platform.data.loader.fixed import fixed_microbatches

    ((_, columns),) = fixed_microbatches(dataset, views, microbatch=3, limit=3, stage=stage)
    assert columns["features"].shape == (3, 3, 32, 4, 4) and columns["saliency"].shape == (3, 3, 4, 4)
    method = find_method("i2p_mae")
    pretext = method.build(run.experiment.method_config, BuildContext(seed=0))
    assert pretext.rec_head_2d.out_features == 3 * 4 * 32  # the width follows from the teacher
    one = stage({"points": columns["points"][1:2]})
    assert all((one[name][0] == columns[name][1]).all() for name in one)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow, SQLAlchemy and torch.export warn of their own
def test_an_alias_that_moves_on_changes_nothing(home: Path, tmp_path: Path) -> None:
    from sightline.platform.tracking.registry import register_import

    first, second = (find_weights(made_run(f"teacher{seed}", seed=seed).name) for seed in (1, 2))
    register_import(first, "seer")
    run = made("models:/seer@candidate")
    sha256 = digest(first.encoder().state_dict())
    assert pinned(run) == ("models:/seer/1", sha256)
    register_import(second, "seer")
    assert pinned(made("models:/seer@candidate", "later"))[0] == "models:/seer/2"
    again = made(run.settings["model"]["teacher"], "again")
    assert pinned(again) == ("models:/seer/1", sha256)
    with pytest.raises(CallError, match=r"are not those of model\.teacher"):
        made(f"models:/seer@candidate@sha256:{sha256}", "wrong")
    with pytest.raises(CallError, match="did you mean 'seer'"):
        made("models:/sear@candidate", "typo")
    shutil.rmtree(home / "mlflow-artifacts", ignore_errors=True)
    (home / "mlflow.db").unlink()
    kept = load_teachers(Run.open("pupil").experiment, run.folder)[KEY]
    assert torch.equal(looks(kept), looks(first.encoder()))
