"""MLflow's tables on a database server (PostgreSQL, MySQL, MariaDB), made by one process at a time, whichever machines the others are on.

MLflow keeps its own processes apart on one machine alone. Two that make the tables at once fail, and MySQL keeps the half that is there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from .database import schema_revisions

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

SERVERS = ("postgresql", "mysql", "mssql")
"""What their addresses begin with."""
CONNECT_SECONDS = 10.0
LOCK_SECONDS, POLL_SECONDS = 300.0, 0.5
"""For how long another process that makes the tables is waited for, and how often it is asked."""
LOCKS = {
    "postgresql": "SELECT pg_try_advisory_xact_lock(hashtext(:name))",
    "mysql": "SELECT GET_LOCK(:name, 0)",
    "mariadb": "SELECT GET_LOCK(:name, 0)",
}
"""Dialect -> a question that takes the lock where it is free. The server frees it when the connection ends."""


@dataclass(frozen=True)
class Tables:
    """What MLflow has in a database."""

    begun: bool
    """Whether there is any."""
    revision: str | None
    """Of the schema."""

    @property
    def whole(self) -> bool:
        return self.begun and self.revision == schema_revisions()[0]


@contextmanager
def server_engine(uri: str) -> Iterator[Engine]:
    """Raises what SQLAlchemy and the driver raise."""
    import sqlalchemy

    timeout = "timeout" if uri.startswith("mssql") else "connect_timeout"
    engine = sqlalchemy.create_engine(uri, connect_args={timeout: int(CONNECT_SECONDS)})
    try:
        yield engine
    finally:
        engine.dispose()


def tables_of(connection: Connection) -> Tables:
    import sqlalchemy

    found = sqlalchemy.inspect(connection)
    versioned = found.has_table("alembic_version")
    revision = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar() if versioned else None
    return Tables(found.has_table("experiments"), revision)


def settled_tables(engine: Engine) -> Tables:
    """The same, once no other process makes them. Raises `TimeoutError`."""
    with engine.connect() as connection:
        found = tables_of(connection)
    if not found.begun or found.whole:
        return found
    with _alone(engine), engine.connect() as connection:
        return tables_of(connection)


@lru_cache
def prepare_server(uri: str) -> None:
    """Let MLflow make its tables in the database of `uri` where there are none; once in a process. Raises what MLflow raises, and
    `TimeoutError`."""
    with server_engine(uri) as engine:
        with engine.connect() as connection:
            whole = tables_of(connection).whole
        if not whole:
            with _alone(engine):
                from mlflow import MlflowClient

                MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments(max_results=1)


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Hold the lock of this database. No lock is known for other servers: there nobody is kept out."""
    import sqlalchemy

    with engine.connect() as connection:
        connection.detach()  # closed at the end, not pooled: so the lock ends, too
        database = hashlib.sha256(str(engine.url.database).encode()).hexdigest()[:32]
        name = f"tables of MLflow in {database}"  # MySQL's locks are the server's, not a database's, and have 64 letters
        deadline = time.monotonic() + LOCK_SECONDS
        while (lock := LOCKS.get(engine.dialect.name)) and not connection.execute(sqlalchemy.text(lock), {"name": name}).scalar():
            if time.monotonic() >= deadline:
                raise TimeoutError("another process makes MLflow's tables, and waiting for it timed out")
            time.sleep(POLL_SECONDS)
        yield
