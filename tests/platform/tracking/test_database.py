"""The database of a home: whole or absent, and its artifacts are found where the home lies now."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from sightline.methods.errors import CallError
from sightline.platform.core.paths import check_writable, home, home_text, sqlite_uri
from sightline.platform.tracking import database
from sightline.platform.tracking.database import look, moved_location, prepare_database, schema_revisions, sqlite_path


def small_home(folder: Path) -> Path:
    """The tables with addresses, one run with an artifact."""
    root = (folder / "mlflow-artifacts").as_uri()
    (folder / "mlflow-artifacts" / "abc" / "artifacts").mkdir(parents=True)
    with closing(sqlite3.connect(folder / "mlflow.db")) as made, made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("INSERT INTO alembic_version VALUES (?)", (schema_revisions()[0],))
        for table, column in database.LOCATIONS.items():
            made.execute(f"CREATE TABLE {table} (run_uuid TEXT, {column} TEXT)")
            made.execute(f"INSERT INTO {table} VALUES ('abc', ?)", (f"{root}/abc/artifacts" if table != "experiments" else root,))
        made.execute("INSERT INTO runs VALUES ('of another place', 's3://bucket/x')")
        for table in database.TABLES:
            made.execute(f"CREATE TABLE IF NOT EXISTS {table} (x TEXT)")
    return folder / "mlflow.db"


def addresses(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as opened:
        return [row[0] for table, column in database.LOCATIONS.items() for row in opened.execute(f"SELECT {column} FROM {table}")]


@pytest.mark.parametrize("moved", [True, False])
def test_artifacts_are_found_in_a_home_that_was_moved_or_copied(tmp_path: Path, moved: bool) -> None:
    old, new = tmp_path / "old", tmp_path / "new 50%2F h\u00f6me?#"
    small_home(old)
    before = addresses(old / "mlflow.db")
    shutil.copytree(old, new)
    if moved:
        shutil.rmtree(old)
    prepare_database(sqlite_uri(new / "mlflow.db"))
    root = (new / "mlflow-artifacts").as_uri()
    assert addresses(new / "mlflow.db") == [root, f"{root}/abc/artifacts", "s3://bucket/x", *[f"{root}/abc/artifacts"] * 2]
    if not moved:
        prepare_database(sqlite_uri(old / "mlflow.db"))
        assert addresses(old / "mlflow.db") == before, "the original is as it was"


def test_an_artifact_of_a_moved_home_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    path = small_home(tmp_path / "new")
    gone = "file:///gone/home/mlflow-artifacts/abc/artifacts"
    assert moved_location(gone, path) == (tmp_path / "new" / "mlflow-artifacts" / "abc" / "artifacts").as_uri()
    assert moved_location("s3://bucket/mlflow-artifacts/abc", path) == "s3://bucket/mlflow-artifacts/abc"


def test_an_sqlite_address_names_its_file_whatever_letters_it_has(tmp_path: Path) -> None:
    for name in ("plain", "job%2Fx", "a?b", "a#b", "sp ace", "h\u00f6me", "50%"):
        assert sqlite_path(sqlite_uri(tmp_path / name / "mlflow.db")) == tmp_path / name / "mlflow.db"


def test_a_home_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("SIGHTLINE_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / "sightline-runs" and "$SIGHTLINE_HOME is not set" in home_text()
    (tmp_path / "sightline").mkdir()
    (tmp_path / "sightline" / "config.toml").write_text('home = "/data/runs"')
    assert home() == Path("/data/runs") and "config.toml" in home_text()
    monkeypatch.setenv("SIGHTLINE_HOME", "here")
    assert home() == tmp_path / "here"
    monkeypatch.delenv("SIGHTLINE_HOME")
    (tmp_path / "sightline" / "config.toml").write_text("home = ")
    with pytest.raises(CallError, match="is not readable"):
        home()


def test_a_home_that_cannot_be_written_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SIGHTLINE_HOME", str(tmp_path / "file" / "runs"))
    with pytest.raises(CallError, match="cannot be written") as raised:
        check_writable(home())
    assert "export SIGHTLINE_HOME" in raised.value.hint and raised.value.exit_code == 2
    check_writable(tmp_path / "not" / "there" / "yet")
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize(("age", "young"), [(1, True), (120, False), (-7200, False)])
def test_a_half_database_of_a_time_to_come_is_not_waited_for(age: float, young: bool, tmp_path: Path) -> None:
    (half := tmp_path / "mlflow.db").touch()
    os.utime(half, (time.time() - age,) * 2)
    assert database._is_young(half) == young


@pytest.mark.slow
def test_two_first_users_at_once_and_a_half_of_before_leave_a_whole_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(path)) as half, half:
        half.execute("CREATE TABLE experiments (experiment_id INTEGER)")
    code = f"from sightline.platform.tracking import database as d; d.YOUNG_SECONDS = 0; d.prepare_database({sqlite_uri(path)!r})"
    users = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [user.wait(500) for user in users] == [0, 0]
    assert look(path).revision == schema_revisions()[0] and (tmp_path / "mlflow.db.incomplete").is_file()
    assert not list(tmp_path.glob(".*.part*"))


def test_a_write_that_a_kill_left_half_is_taken_back(tmp_path: Path) -> None:
    """Such a database cannot be read without being written to, and was taken for one that is not ours to write."""
    path = small_home(tmp_path)
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("PRAGMA cache_spill = 1")
    held.execute("PRAGMA cache_size = 1")
    held.execute("BEGIN")
    for _ in range(200):
        held.execute("INSERT INTO metrics VALUES (?)", ("x" * 1000,))
    killed = tmp_path / "killed"
    killed.mkdir()
    for name in ("mlflow.db", "mlflow.db-journal"):
        shutil.copy(tmp_path / name, killed / name)
    held.close()
    assert look(killed / "mlflow.db") == look(path) and not look(path).error
    with closing(sqlite3.connect(killed / "mlflow.db")) as opened:
        assert opened.execute("SELECT count(*) FROM metrics").fetchone() == (0,)
