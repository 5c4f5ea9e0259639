"""MLflow's tables on a database server are made by one process at a time; SQLite stands in for the server, with a lock of the same kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import sqlalchemy

from sightline.platform.tracking import sql_server
from sightline.platform.tracking.database import schema_revisions


@pytest.fixture
def lock() -> threading.Lock:
    return threading.Lock()


@pytest.fixture
def engine(tmp_path: Path, lock: threading.Lock, monkeypatch: pytest.MonkeyPatch) -> sqlalchemy.Engine:
    """An empty database with the lock, which ends with the connection that took it."""
    made, holders = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/empty.db"), []

    def take(connection: Any) -> int:
        taken = lock.acquire(blocking=False)
        if taken:
            holders.append(connection)
        return int(taken)

    @sqlalchemy.event.listens_for(made, "connect")
    def connected(connection: Any, record: Any) -> None:
        connection.create_function("try_lock", 1, lambda name: take(connection))

    @sqlalchemy.event.listens_for(made, "close_detached")
    def closed(connection: Any) -> None:
        if connection in holders:
            lock.release()

    @contextmanager
    def engine_of(uri: str) -> Iterator[sqlalchemy.Engine]:
        yield made

    monkeypatch.setattr(sql_server, "server_engine", engine_of)
    monkeypatch.setattr(sql_server, "POLL_SECONDS", 0.01)
    monkeypatch.setitem(sql_server.LOCKS, "sqlite", "SELECT try_lock(:name)")
    return made


def make_tables(engine: sqlalchemy.Engine, revision: str) -> None:
    with engine.begin() as connection:
        for text in (
            "CREATE TABLE IF NOT EXISTS experiments (name TEXT)",
            "CREATE TABLE IF NOT EXISTS alembic_version (version_num TEXT)",
            "DELETE FROM alembic_version",
            f"INSERT INTO alembic_version VALUES ('{revision}')",
        ):
            connection.execute(sqlalchemy.text(text))


def test_two_first_users_do_not_make_the_tables_at_once(engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, begin = [0], [0], threading.Barrier(2)

    class Client:
        """As MLflow's: makes the tables where there are none."""

        def __init__(self, **named: str) -> None:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.05)

        def search_experiments(self, max_results: int) -> None:
            make_tables(engine, schema_revisions()[0])
            inside[0] -= 1

    def first_user(_: int) -> None:
        begin.wait()
        sql_server.prepare_server.__wrapped__("postgresql://h/empty")

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    with ThreadPoolExecutor(2) as users:
        assert list(users.map(first_user, range(2))) == [None, None]
    assert most == [1]
    with engine.connect() as connection:
        assert sql_server.tables_of(connection).whole


def test_tables_that_another_process_makes_are_waited_for(
    engine: sqlalchemy.Engine, lock: threading.Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tables(engine, "451aebb31d03")
    lock.acquire()
    with ThreadPoolExecutor(1) as other:
        found = other.submit(sql_server.settled_tables, engine)
        make_tables(engine, schema_revisions()[0])
        lock.release()
        assert found.result().whole
    make_tables(engine, "451aebb31d03")
    assert sql_server.settled_tables(engine).revision == "451aebb31d03", "nobody makes them: they are of an older MLflow"
    lock.acquire()
    monkeypatch.setattr(sql_server, "LOCK_SECONDS", 0.0)
    with pytest.raises(TimeoutError, match="another process makes"):
        sql_server.settled_tables(engine)
