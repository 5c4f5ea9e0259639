"""The record of a run: found by name, folder or MLflow id; a kill in the middle of a line harms one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sightline.methods.errors import CallError
from sightline.platform.runs import EVENTS, Run, append_lines


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
