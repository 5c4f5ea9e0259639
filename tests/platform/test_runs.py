"""The record of a run: found by name, folder or MLflow id; a kill in the middle of a line harms one line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy import TOY

from sightline.methods.errors import CallError
from sightline.platform import config, runs
from sightline.platform.runs import EVENTS, Run, append_lines, command_line, fresh_name
from sightline.platform.summary import next_steps


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
    assert "sightline resume first" in caught.value.mend


def test_a_line_cut_short_harms_no_other(toy_run: Callable[..., Run]) -> None:
    run = toy_run("cut")
    append_lines(run.folder / EVENTS, [{"kind": "a"}])
    with (run.folder / EVENTS).open("ab") as file:
        file.write(b'{"kind": "st')
    append_lines(run.folder / EVENTS, [{"kind": "b"}])
    assert [event["kind"] for event in run.events()] == ["a", "b"]


def test_the_last_attempt_that_made_a_step_counts(toy_run: Callable[..., Run]) -> None:
    run = toy_run("twice")
    for first, losses in ((0, [3.0, 2.0]), (1, [2.5])):
        run.append(
            [{"kind": "steps", "first": first, "losses": {"loss": losses}, "lr": [0.1] * len(losses), "grad_norm": [1.0] * len(losses)}]
        )
    assert [figures["loss"] for figures in run.history().values()] == [3.0, 2.5]


@pytest.mark.parametrize("recipe", ["my recipe", "caf\u00e9/au lait", "...", "x" * 200, "croco-v2-base"])
def test_a_fresh_name_is_a_run_name_whatever_the_recipe_is_called(recipe: str, toy_run: Callable[..., Run]) -> None:
    name = fresh_name(recipe)
    assert toy_run(name).name == name
    assert fresh_name("croco-v2-base").startswith("croco-v2-base-")


def test_the_record_keeps_a_password_in_one_place_that_its_owner_alone_reads(home: Path, toy_data: dict[str, str]) -> None:
    address = "http://ann:se@cret@host:5000/way"
    experiment = config.load("toy", {**toy_data, "log.tracking_uri": address}, settings=TOY)
    run = Run.create("mine", experiment, "f", f"sightline pretrain toy log.tracking_uri={address}", address)
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


def test_the_next_command_is_whole_and_names_only_what_there_is(home: Path, toy_data: dict[str, str], tmp_path: Path) -> None:
    def words(run: Run) -> list[str]:
        return shlex.split(next_steps(run, None)[0], comments=True)

    away = tmp_path / "my pairs"
    away.symlink_to(toy_data["data.train"])
    given: dict[str, Any] = {"data.train": str(away), "train.length": "1000000 steps"}
    shipped = Run.create("shipped", config.load("croco-tiny", given), "f", "", "")
    assert words(shipped) == ["sightline", "pretrain", "croco-tiny", "train.length=3000000 steps", f"data.train={away}"]
    config.load("croco-tiny", config.parse_overrides(words(shipped)[3:]))
    own = Run.create("own", config.load("my own", given, settings=TOY), "f", "", "")
    assert words(own)[2] == str(own.folder / "settings.yaml"), "the name of a file is no recipe"


@pytest.mark.parametrize("kind", ["loose", "packed", "detached", "worktree", "none"])
def test_the_commit_is_found_however_git_keeps_it(
    kind: str, toy_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "ab" * 20
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "tree" / "platform" / "runs.py"))
    git = tmp_path / "tree" / ".git"
    git.mkdir(parents=True)
    if kind in ("loose", "worktree"):
        (git / "refs" / "heads").mkdir(parents=True)
        (git / "refs" / "heads" / "main").write_text(f"{commit}\n")
    elif kind == "packed":
        (git / "packed-refs").write_text(
            f"# pack-refs with: peeled\n{'cd' * 20} refs/heads/other\n{commit} refs/heads/main\n^{'ef' * 20}\n"
        )
    if kind != "none":
        (git / "HEAD").write_text(commit if kind == "detached" else "ref: refs/heads/main\n")
    if kind == "worktree":
        own = tmp_path / "common"
        git.rename(own)
        (own / "worktrees" / "here").mkdir(parents=True)
        (own / "worktrees" / "here" / "HEAD").write_text("ref: refs/heads/main\n")
        (own / "worktrees" / "here" / "commondir").write_text("../..\n")
        git.write_text(f"gitdir: {own / 'worktrees' / 'here'}\n")
    assert runs.this_commit() == (None if kind == "none" else commit)
    made = toy_run("made")
    assert made.commit == runs.this_commit() == Run.open("made").commit
