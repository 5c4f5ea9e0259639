"""A run made before settings had a version goes on: after the rename of `batch.group`, and with settings that it did not know."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, create_model

from sightline.methods import conmim
from sightline.methods.conmim.config import ConMIMConfig
from sightline.methods.errors import CallError, SightlineError
from sightline.methods.settings import Added, Renamed, Settings
from sightline.platform import config
from sightline.platform.checkpoints import local as checkpoint
from sightline.platform.config import schema
from sightline.platform.config.fingerprint import hashed_text
from sightline.platform.runs.events import StepsDone, TrainingEnded
from sightline.platform.runs.record import Run
from sightline.platform.tracking.mlflow_run import metrics_of

OLD = Path(__file__).parents[2] / "data" / "run_of_20429d3"
"""A run of 12 steps that the commit 20429d3 stopped after 6, and what the same run gave that was not stopped."""


@pytest.fixture
def old_run(home: Path, tmp_path: Path) -> Run:
    shutil.copytree(OLD / "data", tmp_path / "data")
    shutil.copytree(OLD / "run", home / "runs" / "old")
    for path in (home / "runs" / "old" / "run.json", home / "runs" / "old" / "tracking.json"):
        path.write_text(path.read_text().replace("@ROOT@", str(tmp_path)))
    return Run.open("old")


@pytest.mark.slow
def test_it_goes_on_to_the_history_and_the_losses_of_the_run_that_was_not_stopped(old_run: Run, train_here: Callable[..., Any]) -> None:
    assert "group" in old_run.settings["batch"] and old_run.experiment.batch.microbatch == 4
    events = train_here(old_run)
    whole = json.loads((OLD / "whole.json").read_text())
    (end,) = [event for event in events if isinstance(event, TrainingEnded)]
    assert (end.step, end.history) == (12, whole["history"])
    losses = [loss for event in events if isinstance(event, StepsDone) for loss in event.losses["loss"]]
    assert losses == pytest.approx(whole["loss"][6:], rel=1e-4)
    found = checkpoint.newest(old_run.folder / "checkpoints")
    assert found is not None and found.state.settings_version == config.SETTINGS_VERSION, "what is written from now on states its version"


def test_its_metrics_keep_their_names_in_mlflow(old_run: Run, train_here: Callable[..., Any]) -> None:
    before = set(json.loads((OLD / "mlflow.json").read_text())["metrics"])
    added = {"health/rankme", "health/lidar"}
    assert {name for event in train_here(old_run) for name, _, _ in metrics_of(event)} == before | added


class NewTrain(schema.TrainConfig):
    patience: Annotated[int, Added(neutral=0)] = Field(default=0, ge=0)


class NewPretext(ConMIMConfig.model_fields["pretext"].annotation):  # type: ignore[misc, name-defined]
    sharpness: Annotated[float, Added(neutral=1.0)] = 1.0


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A later Sightline, whose `train` and `pretext` have one setting more."""

    class NewConfig(ConMIMConfig):
        pretext: NewPretext = NewPretext()

    monkeypatch.setitem(schema.PLATFORM_SECTIONS, "train", NewTrain)
    monkeypatch.setattr(conmim, "method", replace(conmim.method, Config=NewConfig))


@pytest.mark.slow
@pytest.mark.usefixtures("later")
def test_it_goes_on_where_settings_were_added_that_keep_the_old_behaviour(old_run: Run, train_here: Callable[..., Any]) -> None:
    assert old_run.experiment.train.patience == 0 and old_run.experiment.method_config.pretext.sharpness == 1.0  # type: ignore[attr-defined]
    assert train_here(old_run)[-1].step == 12


@pytest.mark.usefixtures("later")
@pytest.mark.parametrize("key", ["train.patience", "pretext.sharpness"])
def test_an_added_setting_with_another_value_is_another_run(key: str, old_run: Run, train_here: Callable[..., Any]) -> None:
    old_run.settings = config.load(old_run.recipe, {key: 2}, settings=old_run.settings).sections()
    with pytest.raises(SightlineError, match="another settings than this run"):
        train_here(old_run)


def test_a_checkpoint_of_a_newer_sightline_is_refused(
    old_run: Run, train_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(old_run, stop_after=1)
    monkeypatch.setattr(config, "SETTINGS_VERSION", 1)
    with pytest.raises(SightlineError, match=r"settings of version 2; this Sightline reads up to 1"):
        train_here(old_run)


def renamed(old: str, new: str, since: int, section: type[BaseModel]) -> Any:
    """The section's model with one setting under a new name."""
    fields = {name: (field.annotation, field) for name, field in section.model_fields.items() if name != old}
    changed = section.model_fields[old]
    return create_model(
        "Section", __base__=Settings, **fields, **{new: (Annotated[changed.annotation, Renamed(old, since)], changed.default)}
    )


def test_a_renamed_setting_is_hashed_by_the_name_of_the_checkpoints_version() -> None:
    before = schema.TrainConfig(seed=7)
    after = renamed("seed", "random_seed", 3, schema.TrainConfig)(seed=7)
    assert after.random_seed == 7, "the old name is accepted"
    experiment = config.load("croco-tiny")
    old, new = (experiment.model_copy(update={"train": train}) for train in (before, after))
    for version in (1, 2):
        assert hashed_text(new, version) == hashed_text(old, version)
    assert '"random_seed": 7' in hashed_text(new, 3) and '"seed"' not in hashed_text(new, 3)


def test_the_old_name_is_taken_on_the_command_line_and_two_names_at_once_are_refused() -> None:
    for key in ("batch.group", "batch.microbatch"):
        assert config.load("croco-tiny", {key: 8}).batch.microbatch == 8, "over the recipe's own value"
    with pytest.raises(CallError, match="group is the old name of microbatch"):
        config.load("mine", settings={"method": "croco", "optim": {"lr": 1e-3}, "batch": {"group": 8, "microbatch": 8}})
