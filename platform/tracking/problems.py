"""What keeps MLflow from taking a record: it is away, which heals by itself, or it refuses for good, which a person must correct.

`find_problem` asks the place before training, without waiting for retries. `explain` sorts what MLflow raised later.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.paths import ARTIFACTS
from sightline.platform.core.redaction import redact, safe_line

from .database import look, read_only, schema_revisions, sqlite_path
from .quiet import quiet_mlflow
from .sql_server import SERVERS, server_engine, settled_tables

if TYPE_CHECKING:
    from requests import Response

ASK_SECONDS = 10.0
"""For how long a server is waited for before training."""
DELETED = "deleted"


class Kind(StrEnum):
    """Of a problem; only the first heals by itself."""

    AWAY = "away"
    EXPERIMENT_DELETED = "experiment deleted"
    RUN_DELETED = "run deleted"
    RUN_UNKNOWN = "run unknown"
    NOT_ALLOWED = "not allowed"
    NO_MLFLOW = "no MLflow"
    DATABASE = "database"
    OTHER = "other"


@dataclass(frozen=True)
class TrackingProblem:
    kind: Kind
    what: str
    hint: str = ""

    @property
    def away(self) -> bool:
        return self.kind is Kind.AWAY

    def error(self) -> CallError:
        """For a command that ends before anything was started."""
        return CallError(self.what, self.hint)


@dataclass(frozen=True)
class Place:
    """Where a run is to be recorded: `run_id` is None before it is."""

    uri: str
    experiment: str
    run_id: str | None = None
    name: str = ""
    """Of the run, the sweep or the comparison, as `resume` takes it."""

    def __str__(self) -> str:
        return redact(self.uri)

    def typed(self, command: str) -> str:
        """`command`, in which `{}` is the address, as a person types it: a password is not shown."""
        masked = "***" in str(self)
        return command.format(shlex.quote(str(self))) + (" (with user and password in the place of ***)" if masked else "")

    @property
    def anew(self) -> str:
        return f"record it in a new MLflow run: sightline resume {shlex.quote(self.name or 'RUN')} --new-mlflow-run"


class TrackingError(Exception):
    """Raised in the place of what MLflow would raise, after its retries."""

    def __init__(self, problem: TrackingProblem) -> None:
        super().__init__(problem.what)
        self.problem = problem


def find_problem(place: Place, to_write: bool = True) -> TrackingProblem | None:
    """What keeps `place` from taking the record now; None where it can, as far as can be seen in one question. Writes nothing.

    Without `to_write`, what keeps it from being read.
    """
    try:
        if place.uri.startswith(("http://", "https://")):
            return _ask_server(place)
        if (path := sqlite_path(place.uri)) is not None:
            problem = _database_problem(place) or (_not_writable(place, path) if to_write else None)
            if problem is not None or (found := look(path)).absent:
                return problem
            if found.revision is None and place.run_id is None:
                return None  # a half without runs is put aside, and a whole one made
            with closing(read_only(path)) as database:
                return _ask_database(place, lambda text, value: database.execute(text.replace(":value", "?"), (value,)).fetchone())
        if place.uri.startswith(SERVERS):
            return _ask_sql_server(place)
    except (NameError, AttributeError, TypeError, AssertionError):
        raise  # a fault of ours
    except Exception as error:
        return explain(error, place)
    return None


def explain(error: BaseException, place: Place) -> TrackingProblem:
    """The problem behind what MLflow, or a library below it, raised."""
    if isinstance(error, TrackingError):
        return error.problem
    if isinstance(error, SightlineError):
        return TrackingProblem(Kind.OTHER, str(error), error.hint)
    chain = list(_chain(error))
    names = {base.__name__ for each in chain for base in type(each).__mro__}
    text = " ".join(str(each) for each in chain)
    line = safe_line(error)
    code = str(getattr(error, "error_code", ""))

    if "Current state is deleted" in text or "'active' state" in text:
        return _experiment_deleted(place) if re.search(r"[Ee]xperiment", text) else _run_deleted(place)
    if code in ("UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED") or re.search(r"error code 401|\b401\b.*Unauthorized", text):
        return _not_allowed(place, 401)
    if code == "PERMISSION_DENIED" or re.search(r"error code 403|\b403\b.*Forbidden", text):
        return _not_allowed(place, 403)
    if code == "RESOURCE_DOES_NOT_EXIST" and place.run_id and place.run_id in text:
        return _run_unknown(place)
    if code == "ENDPOINT_NOT_FOUND" or "not in a valid JSON format" in text or "error code 404" in text:
        return _no_mlflow(place)
    if "maintenance mode" in text:
        return TrackingProblem(Kind.OTHER, f"{place} is a folder of files, which MLflow does not take any more", FILES_HINT)
    if names & {"InvalidURL", "InvalidSchema", "MissingSchema", "LocationParseError", "InvalidUrlException", "UnicodeError"}:
        return TrackingProblem(Kind.OTHER, f"log.tracking_uri = {str(place)!r} is no address: {line}", "write it as http://HOST:PORT")
    if "SSLError" in names or "CERTIFICATE_VERIFY_FAILED" in text or "SSLError" in text:
        return TrackingProblem(
            Kind.NOT_ALLOWED,
            f"no secure connection to {place}: {line}",
            "name http:// where the server has no TLS, or its certificates with MLFLOW_TRACKING_SERVER_CERT_PATH=FILE",
        )
    if names & {"ModuleNotFoundError", "ImportError", "NoSuchModuleError"}:
        return _driver_missing(place, text, line)
    if found := _of_database(place, text):
        return found
    away = {"ConnectionError", "Timeout", "ConnectionRefusedError", "TimeoutError", "RetryError", "HTTPError", "OperationalError"}
    if names & away and type(error).__name__ != "ProgrammingError":  # of a driver: what is asked of it is wrong
        return _away(place, line)
    if code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"):
        return _away(place, line)
    variable = re.search(r"\bMLFLOW_[A-Z_]+", line) if isinstance(error, ValueError) else None
    hint = f"correct the variable {variable[0]}, or unset it" if variable else "see what it says of this"
    return TrackingProblem(Kind.OTHER, f"MLflow in {place} does not take it: {line}", hint)


FILES_HINT = (
    "name a database, such as log.tracking_uri=sqlite:////folder/mlflow.db; `mlflow migrate-filestore` moves what is there; "
    "leave the address out to record under $SIGHTLINE_HOME"
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _away(place: Place, why: str) -> TrackingProblem:
    said = (
        r"\[Errno -?\d+\] [^\]'\")]+",
        "connection to server at .*",
        "[^(]*timed out",
        "timeout exception",
        r"too many \d+ error responses",
        "it answers .*",
    )
    short = re.search("|".join(said), why)
    return TrackingProblem(Kind.AWAY, f"{place} does not answer: {short[0].strip() if short else why}")


def _experiment_deleted(place: Place) -> TrackingProblem:
    return TrackingProblem(
        Kind.EXPERIMENT_DELETED,
        f"the MLflow experiment {place.experiment!r} in {place} is deleted",
        f"restore it: {place.typed('MLFLOW_TRACKING_URI={} mlflow experiments restore -x ID')}; or record in another: log.experiment=NAME",
    )


def _run_deleted(place: Place) -> TrackingProblem:
    return TrackingProblem(
        Kind.RUN_DELETED,
        f"the MLflow run {place.run_id} in {place} is deleted",
        f"restore it: {place.typed(f'MLFLOW_TRACKING_URI={{}} mlflow runs restore --run-id {place.run_id}')}; or {place.anew}",
    )


def _run_unknown(place: Place) -> TrackingProblem:
    return TrackingProblem(
        Kind.RUN_UNKNOWN,
        f"there is no MLflow run {place.run_id} in {place}",
        f"name the place where it is (log.tracking_uri=ADDRESS), or {place.anew}",
    )


DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient", "mysql": "mysql-connector-python"}
"""Module that speaks to a database -> what pip calls it, where that is another name."""


def _driver_missing(place: Place, text: str, line: str) -> TrackingProblem:
    if dialect := re.search(r"Can't load plugin: sqlalchemy\.dialects:(\S+)", text):
        kind, _, driver = dialect[1].partition(".")
        what = f"no driver {driver!r} for {kind} is known" if driver else f"no database {kind!r} is known"
        return TrackingProblem(
            Kind.OTHER, f"{place}: {what}", f"leave it out of the address: {kind}://..." if driver else "see its spelling"
        )
    named = re.search(r"No module named '(\w+)", text)
    package = DRIVERS.get(named[1], named[1]) if named else "PACKAGE"
    other = ", or write mysql+pymysql://... and pip install pymysql" if package == "mysqlclient" else ""
    what = f"the package {package} is not installed" if named else f"a package is not installed: {line}"
    return TrackingProblem(Kind.OTHER, f"{what}, with which {place} is spoken to", f"install it: pip install {package}{other}")


def _not_allowed(place: Place, status: int) -> TrackingProblem:
    """As HTTP has it: 401 does not know who asks, 403 does and says no."""
    server = place.uri.startswith(("http://", "https://"))
    what, hint = {
        (True, 401): (
            f"{place} refused the user and password, or wants them (401)",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment",
        ),
        (True, 403): (
            f"{place} does not allow it (403)",
            f"ask for the right to write to the experiment {place.experiment!r}, or name another: log.experiment=NAME",
        ),
        (False, 401): (
            f"the database {place} refused the user and password, or does not let this user in",
            "correct them in the address: SCHEME://USER:PASSWORD@HOST/DATABASE; the user must be let in from this machine",
        ),
        (False, 403): (
            f"the database {place} does not let this user make or write MLflow's tables",
            "let its owner grant that (PostgreSQL: GRANT ALL ON SCHEMA public TO USER), or name another: log.tracking_uri=ADDRESS",
        ),
    }[server, status]
    return TrackingProblem(Kind.NOT_ALLOWED, what, hint)


def _no_mlflow(place: Place) -> TrackingProblem:
    return TrackingProblem(
        Kind.NO_MLFLOW,
        f"what answers at {place} is no MLflow server",
        "see the address and port of `mlflow server`; behind a proxy, its path belongs to the address",
    )


def _ask_server(place: Place) -> TrackingProblem | None:
    quiet_mlflow()
    from mlflow.environment_variables import (
        MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
        MLFLOW_HTTP_REQUEST_MAX_RETRIES,
        MLFLOW_HTTP_REQUEST_TIMEOUT,
    )

    for variable in (MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR, MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT):
        variable.get()  # type: ignore[no-untyped-call]  # raises `ValueError` where it is no number, as every later request would
    problem, found = _answer(place, "experiments/get-by-name", {"experiment_name": place.experiment})
    if problem:
        return problem
    if found and found.get("experiment", {}).get("lifecycle_stage") == DELETED and place.run_id is None:
        return _experiment_deleted(place)
    if place.run_id is not None:
        problem, found = _answer(place, "runs/get", {"run_id": place.run_id})
        if problem:
            return problem
        if found is None:
            return _run_unknown(place)
        if found.get("run", {}).get("info", {}).get("lifecycle_stage") == DELETED:
            return _run_deleted(place)
    return None


def _answer(place: Place, question: str, params: dict[str, str]) -> tuple[TrackingProblem | None, dict[str, Any] | None]:
    """(problem, answer) of one GET of MLflow's API; neither where there is no such thing."""
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    creds, path = get_default_host_creds(place.uri), f"/api/2.0/mlflow/{question}"  # type: ignore[no-untyped-call]
    ask = partial(http_request, creds, path, "GET", max_retries=0, timeout=ASK_SECONDS, raise_on_status=False, params=params)
    response: Response = ask()
    try:
        answer = response.json()
    except ValueError:
        answer = None
    status = response.status_code
    if status == 200 and isinstance(answer, dict):
        return None, answer
    if status in (401, 403):
        if "Host header" in response.text:
            hint = "start it with the name that it is called by: mlflow server --allowed-hosts HOST:PORT ..."
            return TrackingProblem(Kind.NOT_ALLOWED, f"{place} does not answer to this name: {response.text[:80]}", hint), None
        return _not_allowed(place, status), None
    if status in (408, 425, 429) or status >= 500:
        return _away(place, f"it answers {status} {response.reason or ''}".rstrip()), None
    if status == 404 and isinstance(answer, dict) and answer.get("error_code") == "RESOURCE_DOES_NOT_EXIST":
        return None, None
    if status in (200, 404):
        return _no_mlflow(place), None
    said = redact(str(answer or response.text).partition("\n")[0][:200])
    return TrackingProblem(Kind.OTHER, f"{place} answers {status}: {said}", "see the server's log"), None


def _ask_database(place: Place, one: Any) -> TrackingProblem | None:
    """`one(query, value)`: the first row, or None."""
    if place.run_id is None:
        row = one("SELECT lifecycle_stage FROM experiments WHERE name = :value", place.experiment)
        return _experiment_deleted(place) if row and row[0] == DELETED else None
    row = one("SELECT lifecycle_stage FROM runs WHERE run_uuid = :value", place.run_id)
    if row is None:
        return _run_unknown(place)
    if row[0] != DELETED:
        return None
    query = "SELECT e.lifecycle_stage, e.name FROM experiments e JOIN runs r ON r.experiment_id = e.experiment_id WHERE r.run_uuid = :value"
    stage, name = one(query, place.run_id)
    return _experiment_deleted(Place(place.uri, name, place.run_id, place.name)) if stage == DELETED else _run_deleted(place)


def _ask_sql_server(place: Place) -> TrackingProblem | None:
    import sqlalchemy

    with server_engine(place.uri) as engine:
        found = settled_tables(engine)
        with engine.connect() as connection:
            if not found.begun:  # MLflow makes its tables
                may = "SELECT has_schema_privilege(current_schema(), 'CREATE')"  # PostgreSQL 15 lets the owner alone
                refused = engine.dialect.name == "postgresql" and not connection.execute(sqlalchemy.text(may)).scalar()
                return _not_allowed(place, 403) if refused else None
            if problem := _other_schema(place, f"the database {place}", found.revision):
                return problem
            return _ask_database(place, lambda query, value: connection.execute(sqlalchemy.text(query), {"value": value}).fetchone())


def _database_problem(place: Place) -> TrackingProblem | None:
    """Of an SQLite file as it is."""
    path = sqlite_path(place.uri)
    assert path is not None
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no file"
        return _database(place, f"{path} is {what}, not a database", "name the file: log.tracking_uri=sqlite:////folder/mlflow.db")
    found, (newest, known) = look(path), schema_revisions()
    if found.foreign:
        return _database(place, f"the database {path} is another program's: MLflow's tables are not in it", "name another file")
    if found.error:
        return explain(RuntimeError(found.error), place) if "locked" not in found.error else _away(place, found.error)
    if found.absent or (found.revision is None and not found.runs) or found.revision == newest or not newest:
        return None
    if found.revision is None:
        return _database(
            place,
            f"the database {path} is half made, and holds runs",
            f"restore it from a copy; or put it aside (mv {shlex.quote(str(path))} {shlex.quote(f'{path}.incomplete')}), and {place.anew}",
        )
    if found.revision in known and (path.parent / ARTIFACTS).is_dir():
        return None  # a home's own: it is migrated before it is used
    return _other_schema(place, f"the database {path}", found.revision)


def _other_schema(place: Place, what: str, revision: str | None) -> TrackingProblem | None:
    """Of a database that another MLflow made."""
    newest, known = schema_revisions()
    if revision is None or revision == newest or not newest:
        return None
    if revision in known:
        hint = f"keep a copy of it, then: {place.typed('mlflow db upgrade {}')}"
        return _database(place, f"{what} has the schema of an older MLflow", hint)
    return _database(
        place,
        f"{what} has a schema ({revision}) that the installed MLflow does not know",
        "a newer MLflow has written it: install that (pip install -U mlflow), or name another place: log.tracking_uri=ADDRESS",
    )


def _not_writable(place: Place, path: Path) -> TrackingProblem | None:
    """Of an SQLite file, which needs its folder for a journal, too."""
    folder = next(one for one in path.parents if one.exists())
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and (not path.exists() or os.access(path, os.W_OK)):
        return None
    why = f"{folder} is a file" if not folder.is_dir() else "see who owns the file and its folder"
    return _database(place, f"the database {path} cannot be opened for writing", f"{why}; or name another place: log.tracking_uri=ADDRESS")


def _database(place: Place, what: str, hint: str) -> TrackingProblem:
    return TrackingProblem(Kind.DATABASE, what, hint)


def _of_database(place: Place, text: str) -> TrackingProblem | None:
    """What a database says, by its words."""
    low, path = text.lower(), sqlite_path(place.uri)
    what = path or place
    if "database is locked" in low or "database table is locked" in low:
        return _away(place, "another process holds the database")
    if "malformed" in low or "not a database" in low or "file is encrypted" in low:
        quoted = shlex.quote(str(what))
        return _database(
            place,
            f"the database {what} is corrupt",
            f"restore it from a copy; or put it aside (mv {quoted} {quoted}.corrupt), and {place.anew}",
        )
    if "out-of-date database schema" in low or "locate revision" in low:
        return _database(place, f"{what} has another schema than the installed MLflow", place.typed("mlflow db upgrade {}"))
    if "no such table" in low or "no such column" in low or "has no column" in low or ("already exists" in low and "table" in low):
        return _database(place, f"the database {what} is half made", f"restore it from a copy, or put it aside, and {place.anew}")
    if "does not support ssl" in low:
        return _database(place, f"{place} has no TLS, which the address asks for", "leave sslmode out of it, or let the server have TLS")
    if path is None and "permission denied" in low:
        return _not_allowed(place, 403)
    if "unable to open database" in low or "readonly database" in low or "permission denied" in low or "read-only file system" in low:
        return _database(place, f"{what} cannot be opened for writing", "see who owns the file and its folder, or name another place")
    if "database or disk is full" in low or "no space left" in low:
        return _database(place, f"the disk of {what} is full", "free some space")
    if "authentication failed" in low or "access denied" in low or "no password supplied" in low or "no pg_hba.conf entry" in low:
        return _not_allowed(place, 401)
    if re.search(r'(database|role) ".*" does not exist|unknown database', low):
        return _database(place, f"there is no such database: {place}", "see its name in the address, or make it first")
    return None
