"""The MLflow client: quiet, and at the address that settings or environment name."""

from __future__ import annotations

import getpass
import os
import shlex
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from sightline.methods.errors import CallError
from sightline.platform import config
from sightline.platform.core.paths import ARTIFACTS, DATABASE, home, home_of, home_text, local_tracking_uri, sqlite_uri
from sightline.platform.core.printable import markdown
from sightline.platform.core.redaction import quoted_password, redact
from sightline.platform.runs.identity import identity

from .database import forget_stray, prepare_database, read_only, sqlite_path
from .problems import FILES_HINT, Kind, Place, TrackingProblem, find_problem
from .quiet import quiet_mlflow
from .sql_server import SERVERS, prepare_server

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_KEY = "sightline.id"
"""Tag of an MLflow run: the identity of the run, sweep or comparison that it records."""
NOTE, VERDICT = "mlflow.note.content", "sightline.verdict"
"""Tags of an MLflow run: its description, and the sentence that it began with when it was written here."""
LONGEST_TAG = 8000
"""Letters that MLflow takes."""
TRAINING_VIEW = "workflowType=machine_learning"
"""In addresses of MLflow's interface: shows runs and models, not traces of language models. Without it MLflow 3.17 shows what the person
chose last in its side bar, and other versions go by the tag of the experiment."""
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    NOTE: (
        "Self-supervised pre-training and fine-tuning with Sightline. The description of a run says what was found, its artifact "
        "`report.html` shows it. Models are ranked by `probe/...` in the tab Models. What is logged: docs/tracking.md of Sightline."
    ),
}
ADDRESS_HINT = "use for example http://127.0.0.1:5000 or sqlite:////folder/mlflow.db"


def connect(uri: str) -> MlflowClient:
    """A client of `uri`, whose database is made first; one of a home is also migrated. Raises what MLflow raises."""
    quiet_mlflow()
    from mlflow import MlflowClient

    prepare_database(uri)
    if uri.startswith(SERVERS):
        prepare_server(uri)
    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    finally:
        forget_stray(uri)


def end_run(client: MlflowClient, run_id: str, status: str = "FINISHED", seconds: float = 0.0) -> None:
    """End the MLflow run, at least `seconds` after its start: the clock may have been set back meanwhile."""
    started: int = client.get_run(run_id).info.start_time
    client.set_terminated(run_id, status=status, end_time=max(int(time.time() * 1000), started + int(seconds * 1000)))


def open_registry(to_write: bool) -> MlflowClient:
    """A client of `$MLFLOW_TRACKING_URI`, else of the home's database. Raises `CallError` where it is not there or does not take it."""
    place = default_uri()
    if place == local_tracking_uri() and not (home() / DATABASE).is_file():
        raise CallError(f"there is no registry under {home_text()}", "set MLFLOW_TRACKING_URI, or $SIGHTLINE_HOME")
    problem = find_problem(Place(place, "sightline"), to_write)
    if problem is not None and problem.kind is not Kind.EXPERIMENT_DELETED:
        raise problem.error()
    return connect(place)


def undelivered(problem: TrackingProblem, name: str) -> str:
    """The message for a person about what MLflow did not take. `name`: what to resume."""
    resume = f"`sightline resume {shlex.quote(name)}` delivers the rest"
    if problem.away:
        return f"MLflow was away ({problem.what}); nothing is lost: {resume}"
    return f"MLflow did not take the record: {problem.what}\n  hint: {problem.hint}; the run's folder has all of it, and then {resume}"


def experiment_of(client: MlflowClient, name: str, uri: str) -> str:
    """The id of the MLflow experiment of this name, which is created where there is none."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = sqlite_path(uri)  # explicit, because MLflow's default follows the current directory
        place = (path.parent / ARTIFACTS).as_uri() if path else None
        try:
            return str(client.create_experiment(name, artifact_location=place, tags=EXPERIMENT_TAGS))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another run may have created it meanwhile
            if found is None:
                raise
    for key in EXPERIMENT_TAGS.keys() - found.tags.keys():  # of an older version, or made by hand; what a person wrote stays
        client.set_experiment_tag(found.experiment_id, key, EXPERIMENT_TAGS[key])
    return str(found.experiment_id)


def describe_run(client: MlflowClient, run_id: str, verdict: str, more: str = "") -> None:
    """Let the page of an MLflow run begin with `verdict`, plain text, as its description. What a person wrote there stays."""
    tags = client.get_run(run_id).data.tags
    before = tags.get(VERDICT)
    if NOTE not in tags or (before and tags[NOTE].startswith(markdown(before))):
        client.set_tag(run_id, NOTE, markdown(f"{verdict}\n\n{more}".strip())[:LONGEST_TAG])
    client.set_tag(run_id, VERDICT, verdict[:LONGEST_TAG])


def origin() -> dict[str, str]:
    """MLflow's own tags that say where a run comes from, as `mlflow.start_run` sets them."""
    with suppress(OSError, KeyError):  # a user without an entry, as in some containers
        return {"mlflow.source.name": "sightline", "mlflow.user": getpass.getuser()}
    return {"mlflow.source.name": "sightline"}


def run_of_record(client: MlflowClient, record: Recorded, experiment: str, tags: Mapping[str, str]) -> str:
    """The id of the MLflow run of `record` in its place, which is created with `tags` where there is none."""
    key, earlier = identity(record.folder), record.earlier_mlflow_runs
    if earlier:
        key, tags = f"{key}-{len(earlier) + 1}", {**tags, "sightline.earlier_run": earlier[-1]}
    return run_of(client, experiment_of(client, experiment, place_of(record)), record.name, key, tags)


def run_of(client: MlflowClient, experiment_id: str, name: str, key: str, tags: Mapping[str, str]) -> str:
    """The id of the MLflow run whose tag `sightline.id` is `key`, which is created with `tags` where there is none.

    A kill between the creation and the note of its id leaves a run that is found here, so no second one is made.
    """
    found = client.search_runs([experiment_id], filter_string=f"tags.`{RUN_KEY}` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment_id, run_name=name, tags={**tags, RUN_KEY: key}).info.run_id)


class Recorded(Protocol):
    """A run, a sweep or a comparison."""

    name: str
    folder: Path
    tracking_uri: str
    mlflow_run_id: str | None
    earlier_mlflow_runs: list[str]


def place_of(record: Recorded) -> str:
    """Where MLflow records it. The database of a home belongs to the home, wherever that lies now."""
    own = home_of(record.folder) / DATABASE
    if not record.tracking_uri:
        return local_tracking_uri(own.parent)
    path = sqlite_path(record.tracking_uri)  # records of older versions name the home's database by its path
    if path is not None and path.name == DATABASE and path != own and own.is_file():
        if record.mlflow_run_id is None and not path.exists():
            return local_tracking_uri(own.parent)
        with suppress(sqlite3.Error), closing(read_only(own)) as database:
            if database.execute("SELECT 1 FROM runs WHERE run_uuid = ?", (record.mlflow_run_id,)).fetchone():
                return local_tracking_uri(own.parent)
    return record.tracking_uri


def to_record(uri: str) -> str:
    """`uri` as a record keeps it: empty for the database of the home."""
    return "" if uri == local_tracking_uri() else uri


def record_elsewhere(record: Recorded, uri: str, experiment: str, new_run: bool = False) -> str:
    """Let `record` be recorded in `uri` from now on; what to tell a person. The caller saves it.

    It stays in its MLflow run where the place has that; else, or with `new_run`, a new one is made later, which gets everything. Raises
    `CallError` where that cannot be told.
    """
    before, run_id = place_of(record), record.mlflow_run_id
    record.tracking_uri = "" if uri == local_tracking_uri(home_of(record.folder)) else uri
    if run_id is None or (not new_run and redact(uri).replace("***@", "") == redact(before).replace("***@", "")):
        return f"recorded in {redact(uri)} from here on"
    if not new_run:
        found = find_problem(Place(uri, experiment, run_id, record.name))
        if found is None:
            return f"recorded in {redact(uri)}, in the same MLflow run {run_id}"
        if found.kind is Kind.AWAY:
            raise CallError(
                f"whether it holds MLflow run {run_id} is not known: {found.what}",
                "try again when it answers, or record it in a new MLflow run there: --new-mlflow-run",
            )
        if found.kind is not Kind.RUN_UNKNOWN:
            raise found.error()
    record.mlflow_run_id = None
    record.earlier_mlflow_runs.append(f"{run_id} in {redact(before)}")
    return f"recorded in a new MLflow run in {redact(uri)}, linked to {run_id}"


def tracking_uri(experiment: config.Experiment) -> str:
    """Where MLflow records the run; the home's SQLite unless the settings or `MLFLOW_TRACKING_URI` say otherwise. Raises `CallError`."""
    if experiment.log.tracking_uri:
        return checked_uri(experiment.log.tracking_uri, "log.tracking_uri")
    return default_uri()


def default_uri() -> str:
    """`$MLFLOW_TRACKING_URI`, else the database of the home. Raises `CallError`."""
    if named := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return checked_uri(named, "$MLFLOW_TRACKING_URI")
    return local_tracking_uri()


def checked_uri(uri: str, where: str) -> str:
    """A tracking address that MLflow can take: a relative SQLite file as an absolute one, and a password quoted. Raises `CallError`."""
    said = f"{where} = {redact(uri)!r}"
    start, mark, rest = uri.strip().partition(":")
    uri = f"{start.lower() if '://' in uri else start}{mark}{rest}"
    if uri.startswith("sqlite:"):
        path = sqlite_path(uri)
        if path is None or path.name in ("", ":memory:"):
            raise CallError(f"{said} names no file", "write it as sqlite:////folder/mlflow.db")
        return sqlite_uri(path.expanduser().absolute())
    if uri.startswith("file:") or ("://" not in uri and uri != "databricks"):
        if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() != "true" or not uri.startswith("file:"):
            what = "is a folder of files, which MLflow does not take any more" if _names_a_folder(uri) else "is no MLflow address"
            raise CallError(f"{said} {what}", FILES_HINT if _names_a_folder(uri) else ADDRESS_HINT)
        return uri
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in ("http", "https"):
        uri = quoted_password(uri)
        try:
            address = urlsplit(uri)
            whole = bool(address.hostname) and not address.fragment and address.port != 0
        except ValueError:  # of a port, or of an IPv6 address
            whole = False
        if not whole:
            raise CallError(f"{said} is no address of a server", "leave out what follows the port (#/...): http://HOST:5000")
        return uri
    if scheme not in ("databricks", "postgresql", "mysql", "mssql"):
        raise CallError(f"{said} is no MLflow address", ADDRESS_HINT)
    return quoted_password(uri)


def _names_a_folder(uri: str) -> bool:
    return uri.startswith(("file:", ".", "/", "~")) or uri.rstrip("/").endswith("mlruns")


def check_tracking(experiment: config.Experiment, say: Callable[[str], None]) -> None:
    """Ask, before anything is made, whether MLflow would take the record. A place that does not answer is told of by `say`.

    Raises `CallError` where it refuses for good, unless `log.on_tracking_error=continue`: then that is told, too.
    """
    found = find_problem(Place(tracking_uri(experiment), experiment.log.experiment))
    if found is not None:
        raise_or_say(found, experiment, say)


def raise_or_say(problem: TrackingProblem, experiment: config.Experiment, say: Callable[[str], None]) -> None:
    if problem.away:
        say(f"MLflow is away ({problem.what}); what is to be recorded waits in the run's folder")
    elif experiment.log.on_tracking_error == "stop":
        raise CallError(problem.what, f"{problem.hint}; or go on unrecorded: log.on_tracking_error=continue")
    else:
        say(f"MLflow will not take the record: {problem.what}\n  hint: {problem.hint}")
