"""The record of a run: found by name, folder or MLflow id; a kill in the middle of a line harms one line."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from toy import TOY

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.core import version
from sightline.platform.core.paths import runs_folder
from sightline.platform.core.redaction import command_line
from sightline.platform.experiments.create import create_run
from sightline.platform.reports.summary import next_steps, warnings
from sightline.platform.runs.events import EVENTS, ClusterNote, StepsDone, ValidationDone
from sightline.platform.runs.names import fresh_name
from sightline.platform.runs.record import Run, all_runs


def test_a_run_is_found_by_name_folder_and_mlflow_id(toy_run: Callable[..., Run]) -> None:
    run = toy_run("first")
    run.mlflow_run_id = "abc123"
    run.save()
    for reference in ("first", str(run.folder), "abc123"):
        assert Run.open(reference) == run
    with pytest.raises(CallError, match="did you mean 'first'"):
        Run.open("frist")


@pytest.mark.parametrize("name", ["../up", "", "a b", ".hidden", "x" * 200])
def test_names_that_are_no_folders_are_refused(name: str, toy_run: Callable[..., Run]) -> None:
    with pytest.raises(CallError, match="no run name"):
        toy_run(name)


def test_a_name_is_taken_once(toy_run: Callable[..., Run]) -> None:
    toy_run("first")
    with pytest.raises(CallError, match="exists") as caught:
        toy_run("first")
    assert "sightline resume first" in caught.value.hint


def test_a_kill_while_a_run_is_made_leaves_its_name_free(toy_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(self: Run) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed)
        patch.setattr(shutil, "rmtree", lambda *words, **named: None)  # a kill cleans nothing
        with pytest.raises(KeyboardInterrupt):
            toy_run("first")
    folder = runs_folder()
    assert [path.name for path in folder.iterdir()] == [".first.part"] and all_runs() == []
    (folder / ".first.part" / "run.json").write_text("{}")
    assert all_runs() == []
    assert toy_run("first").folder.is_dir() and [path.name for path in folder.iterdir()] == ["first"]


def test_a_line_cut_short_harms_no_other(toy_run: Callable[..., Run]) -> None:
    run = toy_run("cut")
    run.append([ClusterNote("a")])
    with (run.folder / EVENTS).open("ab") as file:
        file.write(b'{"kind": "st')
    run.append([ClusterNote("b")])
    assert [event.text for event in run.events() if isinstance(event, ClusterNote)] == ["a", "b"]


def test_the_last_attempt_that_made_a_step_counts(toy_run: Callable[..., Run]) -> None:
    run = toy_run("twice")
    for first, losses in ((0, [3.0, 2.0]), (1, [2.5])):
        run.append([StepsDone(first, {"loss": losses}, [0.1] * len(losses), [1.0] * len(losses), 1.0, {}, 12)])
    assert [figures["loss"] for figures in run.history().values()] == [3.0, 2.5]


@pytest.mark.parametrize("recipe", ["my recipe", "caf\u00e9/au lait", "...", "x" * 200, "croco-v2-base"])
def test_a_fresh_name_is_a_run_name_whatever_the_recipe_is_called(recipe: str, toy_run: Callable[..., Run]) -> None:
    name = fresh_name(recipe)
    assert toy_run(name).name == name
    assert fresh_name("croco-v2-base").startswith("croco-v2-base-")


def test_the_record_keeps_a_password_in_one_place_that_its_owner_alone_reads(home: Path, toy_data: dict[str, str]) -> None:
    address = "http://ann:se@cret@host:5000/way"
    experiment = config.load("toy", {**toy_data, "log.tracking_uri": address}, settings=TOY)
    run = create_run("mine", experiment, "f", f"sightline pretrain toy log.tracking_uri={address}", address)
    run.save()
    path = run.folder / "run.json"
    assert path.stat().st_mode & 0o777 == 0o600
    written = json.loads(path.read_text())
    assert written.pop("tracking_uri") == address and Run.open("mine").tracking_uri == address
    assert "cret" not in json.dumps(written)
    assert written["settings"]["log"]["tracking_uri"] == "http://***@host:5000/way"
    assert written["command"] == "sightline pretrain toy log.tracking_uri=http://***@host:5000/way"


def test_a_recorded_command_can_be_given_to_a_shell() -> None:
    words = ["pretrain", "my recipe.yaml", "train.length=40 epochs", "data.train=./it's here"]
    assert shlex.split(command_line(words)) == ["sightline", *words]


def test_the_next_command_is_the_same_experiment_longer_with_its_schedules_in_proportion(home: Path, toy_data: dict[str, str]) -> None:
    given = {
        **toy_data,
        "train.length": "1000000 steps",
        "optim.warmup": "7 epochs",
        "optim.decay": "2e6 samples",
        "loss.reconstruction": 0.5,
    }
    run = create_run("own", config.load("my own", given, settings=TOY), "f", "", "")
    words = shlex.split(next_steps(run, None)[0], comments=True)
    assert words[:3] == ["sightline", "pretrain", str(run.folder / "settings.yaml")]
    (run.folder / "settings.yaml").write_text(run.experiment.to_yaml())  # as the end of a run does
    proposed = config.load(words[2], config.parse_overrides(words[3:]))
    changed = {key: value for key, value in proposed.flat().items() if run.experiment.flat()[key] != value}
    lengths = {"train.length": "3000000 steps", "optim.warmup": "21 epochs", "optim.decay": "6000000 samples"}
    assert changed == lengths and proposed.recipe == "my own"


@pytest.mark.parametrize("rises", [True, False])
def test_after_overfitting_more_data_is_proposed_not_more_steps(rises: bool, toy_run: Callable[..., Run]) -> None:
    run = toy_run("heart")
    for part in range(10):
        losses = [1.0 - 0.08 * part] * 30
        lost = 0.1 * max(part - 3, 0) if rises else 0.0
        validation = ValidationDone(30 * (part + 1), {"loss": 0.9 - 0.1 * min(part, 3) + lost})
        run.append([StepsDone(30 * part, {"loss": losses}, losses, losses, 1.0, {}, 30), validation])
    told = warnings(list(run.events()))
    assert next_steps(run, None)[0].partition("  # ")[0].endswith("train.keep_best=val/loss data.train=MORE") == rises
    assert [line[:58] for line in told] == ["the validation loss was least at step 120 of 300 (0.6) and"] * rises


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("kind", ["branch", "packed", "detached", "worktree", "untracked", "none"])
def test_the_commit_is_found_however_git_keeps_it(
    kind: str, toy_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, commit = tmp_path / "tree", None
    (tree / "platform").mkdir(parents=True)
    if kind != "none":
        git(tree, "init", "-q")
        (tree / "platform" / ("other.py" if kind == "untracked" else "version.py")).write_text("")
        git(tree, "add", ".")
        git(tree, "commit", "-q", "-m", "first")
        commit = git(tree, "rev-parse", "HEAD")
    if kind == "packed":
        git(tree, "pack-refs", "--all")
    elif kind == "detached":
        git(tree, "checkout", "-q", "--detach")
    elif kind == "worktree":
        git(tree, "worktree", "add", "-q", str(tmp_path / "other"))
        tree = tmp_path / "other"
    monkeypatch.setattr(version, "__file__", str(tree / "platform" / "version.py"))
    assert version.this_commit() == (None if kind in ("none", "untracked") else commit)
    made = toy_run("made")
    assert made.commit == version.this_commit() == Run.open("made").commit
