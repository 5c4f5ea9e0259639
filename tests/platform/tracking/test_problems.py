"""Away is not broken: what does not answer heals by itself; what refuses is told with what mends it, before training."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from heads import WAIT
from sqlalchemy.exc import OperationalError, ProgrammingError

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.core.paths import sqlite_uri
from sightline.platform.tracking.client import check_tracking, checked_uri
from sightline.platform.tracking.database import prepare_database, schema_revisions
from sightline.platform.tracking.problems import Kind, Place, _ask_sql_server, explain, find_problem
from sightline.platform.tracking.quiet import quiet_mlflow

HEAD = schema_revisions()[0]


class Answers(ThreadingHTTPServer):
    """A server that answers what a test says."""

    status, body, asked = 200, "{}", 0

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_GET(self) -> None:
        self.server.asked += 1
        self.server.may_answer.wait(WAIT)
        with suppress(ConnectionError):  # the client has hung up
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(self.server.body.encode())

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Answers]:
    with Answers() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def of_mlflow(**answer: Any) -> str:
    return json.dumps(answer)


@pytest.mark.parametrize(
    ("status", "body", "kind", "hint"),
    [
        (200, of_mlflow(experiment={"lifecycle_stage": "active"}), None, ""),
        (404, of_mlflow(error_code="RESOURCE_DOES_NOT_EXIST", message="no experiment"), None, ""),
        (200, of_mlflow(experiment={"lifecycle_stage": "deleted"}), Kind.EXPERIMENT_DELETED, "log.experiment=NAME"),
        (401, "You are not authenticated.", Kind.NOT_ALLOWED, "MLFLOW_TRACKING_PASSWORD"),
        (401, of_mlflow(detail="Not authenticated"), Kind.NOT_ALLOWED, "MLFLOW_TRACKING_PASSWORD"),
        (403, of_mlflow(error_code="PERMISSION_DENIED"), Kind.NOT_ALLOWED, "right to write"),
        (403, "Invalid Host header - possible DNS rebinding attack detected", Kind.NOT_ALLOWED, "--allowed-hosts"),
        (404, "<html>nginx</html>", Kind.NO_MLFLOW, "mlflow server"),
        (200, "<html>please log in</html>", Kind.NO_MLFLOW, "mlflow server"),
        (500, "oh", Kind.AWAY, ""),
        (502, "<html>bad gateway</html>", Kind.AWAY, ""),
        (503, "", Kind.AWAY, ""),
        (504, "", Kind.AWAY, ""),
        (429, "", Kind.AWAY, ""),
        (400, of_mlflow(error_code="INVALID_PARAMETER_VALUE", message="no"), Kind.OTHER, "log"),
    ],
)
def test_what_a_server_answers(server: Answers, status: int, body: str, kind: Kind | None, hint: str) -> None:
    server.status, server.body, server.asked = status, body, 0
    found = find_problem(Place(server.uri, "sightline"))
    assert (found.kind if found else None) == kind and (found is None or hint in found.hint), found
    assert server.asked == 1, "nothing is tried again"


def test_a_run_that_a_server_does_not_have_or_has_deleted(server: Answers) -> None:
    server.status, server.body = 404, of_mlflow(error_code="RESOURCE_DOES_NOT_EXIST")
    found = find_problem(Place(server.uri, "sightline", "abc", "first"))
    assert found is not None and found.kind is Kind.RUN_UNKNOWN and "sightline resume first --new-mlflow-run" in found.hint
    server.status, server.body = 200, of_mlflow(experiment={}, run={"info": {"lifecycle_stage": "deleted"}})
    found = find_problem(Place(server.uri, "sightline", "abc", "first"))
    assert found is not None and found.kind is Kind.RUN_DELETED and "mlflow runs restore --run-id abc" in found.hint


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "http://no-such-host.invalid:5000"])
def test_who_does_not_answer_is_away(uri: str) -> None:
    found = find_problem(Place(uri, "sightline"))
    assert found is not None and found.away


def test_a_server_that_hangs_is_away(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sightline.platform.tracking.problems.ASK_SECONDS", 0.1)
    server.may_answer.clear()
    found = find_problem(Place(server.uri, "sightline"))
    server.may_answer.set()
    assert found is not None and found.away


def test_https_to_a_server_without_it_is_refused(server: Answers) -> None:
    found = find_problem(Place(server.uri.replace("http:", "https:"), "sightline"))
    assert found is not None and found.kind is Kind.NOT_ALLOWED and "http://" in found.hint


def database(path: Path, *statements: str, revision: str | None = HEAD) -> str:
    """A database with the tables that are looked at."""
    with sqlite3.connect(path) as made:
        if revision:
            made.execute("CREATE TABLE alembic_version (version_num TEXT)")
            made.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        made.execute("CREATE TABLE experiments (experiment_id INTEGER, name TEXT, artifact_location TEXT, lifecycle_stage TEXT)")
        made.execute("CREATE TABLE runs (run_uuid TEXT, experiment_id INTEGER, artifact_uri TEXT, lifecycle_stage TEXT)")
        for table in ("metrics", "params", "tags", "registered_models", "model_versions"):
            made.execute(f"CREATE TABLE {table} (x TEXT)")
        for statement in statements:
            made.execute(statement)
    made.close()
    return sqlite_uri(path)


ACTIVE = "INSERT INTO experiments VALUES (1, 'sightline', '', 'active')"
DELETED = "INSERT INTO experiments VALUES (1, 'sightline', '', 'deleted')"


@pytest.mark.parametrize(
    ("statements", "revision", "run_id", "kind"),
    [
        ([ACTIVE, "INSERT INTO runs VALUES ('abc', 1, '', 'active')"], HEAD, "abc", None),
        ([ACTIVE], HEAD, None, None),
        ([DELETED], HEAD, None, Kind.EXPERIMENT_DELETED),
        ([DELETED, "INSERT INTO runs VALUES ('abc', 1, '', 'deleted')"], HEAD, "abc", Kind.EXPERIMENT_DELETED),
        ([ACTIVE, "INSERT INTO runs VALUES ('abc', 1, '', 'deleted')"], HEAD, "abc", Kind.RUN_DELETED),
        ([ACTIVE], HEAD, "abc", Kind.RUN_UNKNOWN),
        ([], "feedfacecafe", None, Kind.DATABASE),
        ([], "451aebb31d03", None, Kind.DATABASE),
        (["INSERT INTO runs VALUES ('abc', 1, '', 'active')"], None, None, Kind.DATABASE),
        ([], None, None, None),
    ],
)
def test_what_a_database_says(tmp_path: Path, statements: list[str], revision: str | None, run_id: str | None, kind: Kind | None) -> None:
    uri = database(tmp_path / "mlflow.db", *statements, revision=revision)
    found = find_problem(Place(uri, "sightline", run_id, "first"))
    assert (found.kind if found else None) == kind, found
    assert found is None or found.hint


def test_a_file_that_is_no_database_a_folder_and_one_that_is_held(tmp_path: Path) -> None:
    corrupt, folder, held = tmp_path / "a%b?.db", tmp_path / "folder.db", tmp_path / "held.db"
    corrupt.write_bytes(b"SQLite format 4" * 100)
    folder.mkdir()
    uri = database(held)
    for path in (corrupt, folder):
        found = find_problem(Place(sqlite_uri(path), "sightline"))
        assert found is not None and found.kind is Kind.DATABASE and str(path) in found.what
    assert find_problem(Place(sqlite_uri(tmp_path / "absent.db"), "sightline")) is None and not (tmp_path / "absent.db").exists()
    error = RuntimeError("(sqlite3.OperationalError) database is locked")
    assert explain(error, Place(uri, "sightline")).away


@pytest.mark.parametrize(
    ("scheme", "said", "kind", "hint"),
    [
        ("postgresql", 'failed: FATAL:  password authentication failed for user "ann"', Kind.NOT_ALLOWED, "in the address"),
        ("postgresql", "fe_sendauth: no password supplied", Kind.NOT_ALLOWED, "in the address"),
        ("postgresql", 'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "ann"', Kind.NOT_ALLOWED, "let in from this machine"),
        ("postgresql", "permission denied for schema public", Kind.NOT_ALLOWED, "GRANT ALL"),
        ("postgresql", 'FATAL:  database "x" does not exist', Kind.DATABASE, "make it first"),
        ("postgresql", "failed: server does not support SSL, but SSL was required", Kind.DATABASE, "sslmode"),
        ("postgresql", 'connection to server at "10.0.0.1", port 5432 failed: Connection refused', Kind.AWAY, ""),
        ("mysql+pymysql", "(1045, \"Access denied for user 'ann'@'localhost' (using password: YES)\")", Kind.NOT_ALLOWED, "in the address"),
        ("mysql+pymysql", "(1049, \"Unknown database 'x'\")", Kind.DATABASE, "make it first"),
        ("mysql+pymysql", "(2003, \"Can't connect to MySQL server on 'h' ([Errno 111] Connection refused)\")", Kind.AWAY, ""),
        ("mysql+pymysql", "(1040, 'Too many connections')", Kind.AWAY, ""),
    ],
)
def test_what_a_database_server_answers(scheme: str, said: str, kind: Kind, hint: str) -> None:
    """In the words of PostgreSQL 15 and MariaDB 10.11, by psycopg, psycopg2 and PyMySQL."""
    place = Place(f"{scheme}://ann:geheim@h/x", "sightline")
    found = explain(OperationalError("", None, RuntimeError(said)), place)
    assert found.kind == kind and hint in found.hint and "MLFLOW_TRACKING" not in found.hint
    assert "geheim" not in found.what + found.hint


@pytest.mark.parametrize(
    ("uri", "package"),
    [
        ("postgresql+psycopg2://ann:geheim@h/x", "psycopg2-binary"),
        ("postgresql+psycopg://ann:geheim@h/x", "'psycopg[binary]'"),
        ("mysql://ann:geheim@h/x", "pip install pymysql"),
        ("mysql+pymysql://ann:geheim@h/x", "pip install pymysql"),
        ("mssql+pyodbc://ann:geheim@h/x", "pyodbc"),
        ("mysql+foo://ann:geheim@h/x", "leave it out of the address: mysql://"),
    ],
)
def test_a_driver_that_is_missing_is_named_as_pip_knows_it(uri: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("psycopg", "psycopg2", "MySQLdb", "pymysql", "pyodbc"):
        monkeypatch.setattr(sys, "meta_path", [Without(module), *sys.meta_path])
        monkeypatch.delitem(sys.modules, module, raising=False)
    found = find_problem(Place(uri, "sightline"))
    assert found is not None and package in found.hint and "geheim" not in found.what


class Without:
    """Finds no module of this name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: Any) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_an_option_that_a_driver_does_not_know_is_not_away() -> None:
    error = ProgrammingError("", None, RuntimeError('invalid connection option "bogus"'))
    error.__cause__ = ConnectionError()
    found = explain(error, Place("postgresql://ann:geheim@h/x?bogus=1", "sightline"))
    assert found.kind is Kind.OTHER and "bogus" in found.what


def test_tables_of_an_older_mlflow_on_a_server_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the question that a database server is asked, here put to SQLite."""
    place = Place(database(tmp_path / "mlflow.db", ACTIVE, revision="451aebb31d03"), "sightline")
    engine = sqlalchemy.create_engine(place.uri)
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda *_, **__: engine)
    found = _ask_sql_server(place)
    assert found is not None and "older MLflow" in found.what and found.hint.endswith(f"mlflow db upgrade {place}")
    found = _ask_sql_server(Place("postgresql://ann:geheim@h/x", "sightline"))
    assert found is not None and found.hint.endswith(
        "mlflow db upgrade 'postgresql://***@h/x' (with user and password in the place of ***)"
    )


@pytest.mark.parametrize(
    "uri",
    [
        "file:///home/ann/mlruns",
        "./mlruns",
        "mlruns",
        "sqlite://",
        "sqlite:///:memory:",
        "ftp://host",
        "http://",
        "http://[::1",
        "http://host:99999",
        "host:5000",
    ],
)
def test_an_address_that_mlflow_cannot_take_is_refused_by_where_it_stands(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(CallError, match="MLFLOW_TRACKING_URI = ") as raised:
        checked_uri(uri, "$MLFLOW_TRACKING_URI")
    assert raised.value.hint


def test_a_relative_database_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert checked_uri("sqlite:///mlflow.db", "log.tracking_uri") == f"sqlite:///{tmp_path}/mlflow.db"


def test_an_address_is_taken_as_it_was_meant() -> None:
    assert checked_uri(" HTTP://Host:5000/\n", "log.tracking_uri") == "http://Host:5000/"
    assert checked_uri("postgresql://u:p/w@h@db/x", "log.tracking_uri") == "postgresql://u:p%2Fw%40h@db/x"
    assert checked_uri("mysql+pymysql://u:p%2Fw@db:3306/x?a=b", "log.tracking_uri") == "mysql+pymysql://u:p%2Fw@db:3306/x?a=b"


def test_a_database_that_cannot_be_made_or_is_none_of_mlflow_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(path: Path, to_write: bool = True, run: str | None = None) -> str:
        found = find_problem(Place(sqlite_uri(path), "sightline", run, "first"), to_write)
        return found.what if found else ""

    with closing(sqlite3.connect(tmp_path / "django.db")) as database, database:
        database.execute("CREATE TABLE auth_user (id INTEGER)")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    assert "another program's" in told(tmp_path / "django.db")
    prepare_database(sqlite_uri(tmp_path / "django.db"))
    assert not list(tmp_path.glob("*.incomplete")), "what is not ours is not put aside"
    assert "no file" in told(tmp_path / "pipe")
    assert "cannot be opened for writing" in told(tmp_path / "file" / "mlflow.db")
    (tmp_path / "empty.db").touch()
    assert told(tmp_path / "empty.db") == "" and "half made" in told(tmp_path / "empty.db", run="1")
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)  # the tests may run as root
    assert "cannot be opened for writing" in told(tmp_path / "empty.db") and told(tmp_path / "empty.db", to_write=False) == ""
    assert "cannot be opened for writing" in told(tmp_path / "absent" / "mlflow.db")


def test_variables_of_a_program_around_this_one_move_no_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow would record every metric as that of this model, too, or refuse it."""
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", "m-1")
    quiet_mlflow()
    from mlflow.tracking.fluent import get_active_model_id

    assert get_active_model_id() is None


def test_training_goes_on_where_it_was_asked_for(tmp_path: Path, server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status, server.body = 401, ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    said: list[str] = []
    with pytest.raises(CallError, match="401") as raised:
        check_tracking(config.load("croco-tiny"), said.append)
    assert "log.on_tracking_error=continue" in raised.value.hint and not said
    check_tracking(config.load("croco-tiny", {"log.on_tracking_error": "continue"}), said.append)
    assert "401" in said.pop()
    server.status = 503
    check_tracking(config.load("croco-tiny"), said.append)
    assert "is away" in said.pop()


def test_the_place_of_a_record_moves_with_its_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from sightline.platform.tracking.client import place_of

    old, new = tmp_path / "old", tmp_path / "new home %"
    (old / "runs" / "first").mkdir(parents=True)
    database(old / "mlflow.db", ACTIVE, "INSERT INTO runs VALUES ('abc', 1, '', 'active')")
    shutil.copytree(old, new)
    record = SimpleNamespace(name="first", folder=new / "runs" / "first", tracking_uri="", mlflow_run_id="abc", earlier_mlflow_runs=[])
    assert place_of(record) == sqlite_uri(new / "mlflow.db")
    record.tracking_uri = sqlite_uri(old / "mlflow.db")
    assert place_of(record) == sqlite_uri(new / "mlflow.db"), "a record of an older version names the place by its path"
    record.mlflow_run_id = "of another database"
    assert place_of(record) == sqlite_uri(old / "mlflow.db")
    record.tracking_uri = "http://host:5000"
    assert place_of(record) == "http://host:5000"


def test_a_variable_of_mlflow_that_is_none_is_told_before_training(server: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status, server.body = 200, of_mlflow(experiment={"lifecycle_stage": "active"})
    assert find_problem(Place(server.uri, "sightline")) is None
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "abc")
    found = find_problem(Place(server.uri, "sightline"))
    assert found is not None and not found.away and found.hint == "correct the variable MLFLOW_HTTP_REQUEST_TIMEOUT, or unset it"
