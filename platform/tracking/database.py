"""SQLite databases of MLflow: looked at without MLflow, made and migrated whole or not at all, and kept valid where their folder moves.

MLflow makes its tables in the database's own place. Killed meanwhile, or met by a second process, it leaves a half that nobody can use.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from sightline.platform.core.files import make_folder, sync
from sightline.platform.core.locks import exclusive_lock
from sightline.platform.core.paths import ARTIFACTS, sqlite_uri

TABLES = ("experiments", "runs", "metrics", "params", "tags", "registered_models", "model_versions")
"""Tables without which a database is no whole one of MLflow."""
YOUNG_SECONDS = 60.0
"""A half of this age may be one that MLflow itself is making."""
LOCATIONS = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}
"""Table -> column with an absolute address of artifacts."""


@dataclass(frozen=True)
class Look:
    """What a database file holds."""

    absent: bool = False
    revision: str | None = None
    """Of its schema; None where it is no whole database of MLflow."""
    runs: int = 0
    """0 or 1: whether it holds any."""
    foreign: bool = False
    """Whether it holds tables, and not those with which MLflow begins."""
    error: str = ""
    """Why it cannot be read, in SQLite's words."""


def sqlite_path(uri: str) -> Path | None:
    """The file of an SQLite address, as SQLAlchemy reads it; None of any other address."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0]))


def read_only(path: Path, timeout: float = 5.0) -> sqlite3.Connection:
    """To read from; `timeout`: seconds to wait for a lock.

    A kill in the middle of a write leaves a journal, which SQLite takes back before it reads. For that it must be let to write.
    """
    interrupted = path.with_name(f"{path.name}-journal").exists() and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={'rw' if interrupted else 'ro'}", uri=True, timeout=timeout)


def look(path: Path) -> Look:
    """What is at `path`; changes nothing."""
    try:
        if not path.exists():
            return Look(absent=True)
        if not path.is_file():
            return Look(error="it is no file")  # SQLite would wait for ever on a pipe
        with closing(read_only(path)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            runs = database.execute("SELECT count(*) FROM (SELECT 1 FROM runs LIMIT 1)").fetchone()[0] if "runs" in tables else 0
            revision = database.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in tables else None
    except (sqlite3.Error, OSError) as error:
        return Look(error=str(error))
    whole = revision[0] if revision and tables.issuperset(TABLES) else None
    return Look(revision=whole, runs=runs, foreign=bool(tables) and "experiments" not in tables)


@lru_cache
def schema_revisions() -> tuple[str, frozenset[str]]:
    """(the schema of the installed MLflow, all schemas that it knows), read from its migrations without importing it."""
    place = Path((find_spec("mlflow").submodule_search_locations or [""])[0])  # type: ignore[union-attr]
    texts = [path.read_text() for path in (place / "store" / "db_migrations" / "versions").glob("*.py")]
    known = {match[1] for text in texts if (match := re.search(r'^revision(?:: str)? = "(\w+)"', text, re.M))}
    before = {match[1] for text in texts if (match := re.search(r'^down_revision(?::[^=]*)? = "(\w+)"', text, re.M))}
    newest = known - before
    return (newest.pop() if len(newest) == 1 else ""), frozenset(known)


def prepare_database(uri: str) -> None:
    """Make the database of `uri`, or migrate or repair that of a Sightline home, under a lock; nothing for one that is whole, or no SQLite.

    A new one is made beside its place and moved there. A half without runs is put aside, and one of an older MLflow is migrated in a copy
    and written back in one transaction; the older one stays beside it.
    """
    path = sqlite_path(uri)
    if path is None:
        return
    found, (newest, known) = look(path), schema_revisions()
    if not found.error and not found.absent and found.revision == newest:
        _follow_move(path)
        return
    make_folder(path.parent)
    with exclusive_lock(path.with_name(f".{path.name}.lock"), f"{path} is being made", timeout=300):
        found = _settled(path)
        if found.error or found.foreign:
            return  # MLflow's own error says what is wrong
        if not found.absent and found.revision is None and not found.runs:
            path.rename(path.with_name(f"{path.name}.incomplete"))
            found = Look(absent=True)
        if found.absent:
            _make(path)
        elif found.revision != newest and found.revision in known and (path.parent / ARTIFACTS).is_dir():
            _migrate(path, str(found.revision))
    _follow_move(path)


def _settled(path: Path) -> Look:
    """What the database holds, once nobody makes it any more."""
    found = look(path)
    while not (found.error or found.absent or found.foreign or found.revision) and _is_young(path):
        time.sleep(0.5)
        found = look(path)
    return found


def _is_young(path: Path) -> bool:
    """Not where the file is of a time to come, either: the clock was set back, and waiting for it could take hours."""
    return abs(time.time() - path.stat().st_mtime) < YOUNG_SECONDS


def _make(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    part = _part(path)
    SqlAlchemyStore(sqlite_uri(part), (path.parent / ARTIFACTS).as_uri()).engine.dispose()  # type: ignore[no-untyped-call]
    forget_stray(sqlite_uri(part))
    sync(part)
    part.rename(path)
    sync(path.parent)


def _migrate(path: Path, revision: str) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _upgrade_db  # what `mlflow db upgrade` calls

    part, kept = _part(path), path.with_name(f"{path.stem}-{revision}{path.suffix}")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(part)) as copy, closing(sqlite3.connect(kept)) as old:
        source.backup(copy)
        source.backup(old)
    engine = sqlalchemy.create_engine(sqlite_uri(part))
    _upgrade_db(engine)  # type: ignore[no-untyped-call]
    engine.dispose()
    with closing(sqlite3.connect(part)) as copy, closing(sqlite3.connect(path)) as target:
        copy.backup(target)
    part.unlink()


def _part(path: Path) -> Path:
    """A hidden name beside `path`, with nothing at it."""
    part = path.with_name(f".{path.name}.part")
    for left in path.parent.glob(f"{part.name}*"):
        left.unlink(missing_ok=True)
    return part


def forget_stray(uri: str) -> None:
    """Remove the empty folder that MLflow makes where the path of an SQLite address has quoted letters: it does not decode them."""
    path, raw = sqlite_path(uri), Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if path is not None and raw.parent != path.parent:
        with suppress(OSError):
            os.removedirs(raw.parent)


def _follow_move(path: Path) -> None:
    """Where the database's folder was moved or copied, let its artifacts' addresses follow, unless it cannot be written."""
    here = path.parent / ARTIFACTS
    with suppress(sqlite3.Error, OSError):
        with closing(read_only(path)) as database:
            roots = [root for root in _roots(database) if root != here.as_uri() and _moved(database, root, here)]
        if roots:
            with closing(sqlite3.connect(path, timeout=20)) as database, database:
                for table, column in LOCATIONS.items():
                    for root in roots:
                        database.execute(
                            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                            (here.as_uri(), len(root) + 1, root, len(root) + 1, f"{root}/"),
                        )


def moved_location(location: str, database: Path | None) -> str:
    """Where artifacts lie whose folder was moved with a database that cannot be written; `location` itself in any other case."""
    if database is not None and location.startswith("file:"):
        folder, here = Path(unquote(urlsplit(location).path)), database.parent / ARTIFACTS
        if not folder.exists() and ARTIFACTS in folder.parts:
            parts = folder.parts[len(folder.parts) - folder.parts[::-1].index(ARTIFACTS) :]
            if here.joinpath(*parts).exists():
                return here.joinpath(*parts).as_uri()
    return location


def _roots(database: sqlite3.Connection) -> set[str]:
    """Addresses of the folders `mlflow-artifacts` in which experiments keep their artifacts."""
    found = set()
    for (location,) in database.execute("SELECT DISTINCT artifact_location FROM experiments"):
        head, name, _ = (location or "").partition(f"/{ARTIFACTS}")
        if name and head.startswith("file:"):
            found.add(head + name)
    return found


def _moved(database: sqlite3.Connection, root: str, here: Path) -> bool:
    """Whether what was at `root` is `here` now: it is gone from there, or artifacts of its runs or models are here."""
    if not Path(unquote(urlsplit(root).path)).exists():
        return True
    rows = database.execute("SELECT run_uuid FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(root) + 1, f"{root}/"))
    return any((here / run_id).exists() for (run_id,) in rows)
