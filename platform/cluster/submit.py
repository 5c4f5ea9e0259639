"""Runs Sightline's commands as jobs of a running Ray cluster: connects, checks, sends the code, follows the log."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import secrets
import shlex
import shutil
import string
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.loopback import loopback_without_proxy
from sightline.platform.core.paths import home
from sightline.platform.core.ray_checks import TOKEN_HINT
from sightline.platform.core.redaction import redact

from .code_wheel import DIGEST, Code, pack, running_code

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
POLL_SECONDS = 1.0
STOP_SECONDS = 900
"""Between SIGTERM and SIGKILL of a stopped job: enough for a step, a checkpoint and its upload. Ray's default of 3 s is not."""
ARRIVES = 4
"""How often a job server is asked for a job that it may still be taking."""
RECONNECTS = 30
"""How often in a row a job server that does not answer is asked again."""


def find_address(given: str | None) -> str:
    """The job server's address: as given, else from the environment variables that Ray reads, else this machine's."""
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or DEFAULT_ADDRESS
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CallError(
            f"{redact(address)!r} is no address of a job server", f"give the dashboard's, for example --address {DEFAULT_ADDRESS}"
        )
    if parts.username or parts.password:
        raise CallError("the address holds a password, which would be shown in logs", TOKEN_HINT)
    return address.rstrip("/")


def connect(address: str, insecure: bool = False) -> JobSubmissionClient:
    """A client of the job server at `address`.

    `insecure` accepts plain HTTP to other machines, and clusters that take jobs from anybody. Raises `CallError` where the server is not
    safe or has another version of Ray, and `SightlineError` where it does not answer.
    """
    parts = urlsplit(address)
    if parts.scheme == "http" and not _is_loopback(str(parts.hostname)) and not insecure:
        raise CallError(
            f"{address} is plain HTTP to another machine: the token and the code would travel readable and changeable",
            "use https://, or a tunnel (`ray dashboard cluster.yaml`, or ssh -L 8265:127.0.0.1:8265 HEAD) and its loopback address; "
            "--insecure sends them all the same",
        )
    loopback_without_proxy()
    mode = _authentication(address)
    if mode != "token" and not insecure:
        raise CallError(
            f"the cluster at {address} has no authentication: whoever reaches it runs code there",
            "start its nodes with RAY_AUTH_MODE=token (cluster.yaml does), or accept it with --insecure",
        )
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it to the argument below
    os.environ["RAY_AUTH_MODE"] = mode
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # uploads, and each connection of a log that ends; both set their level when imported
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    try:
        client = JobSubmissionClient(address)
        found = client._do_request("GET", "/api/version").json()["ray_version"]
    except AuthenticationError as error:
        raise CallError(f"the cluster at {address} does not take this machine's token: {str(error).splitlines()[0]}", TOKEN_HINT) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise SightlineError(f"no job server answers at {address}: {error}", "is `ray start --head` running there?") from error
    _check_ray(found, address)
    return client


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _authentication(address: str) -> str:
    """`token` or `disabled`. A server too old to answer has no authentication."""
    import requests

    try:
        answer = requests.get(f"{address}/api/authentication_mode", timeout=30, allow_redirects=False)
    except requests.RequestException as error:
        raise SightlineError(
            f"no job server answers at {address}: {type(error).__name__}",
            "start one with `ray start --head` (docs/clusters.md), open the tunnel to it, or name another with --address",
        ) from error
    try:
        return str(answer.json()["authentication_mode"]) if answer.ok else "disabled"
    except (ValueError, KeyError, TypeError):
        raise SightlineError(f"what answers at {address} is no Ray dashboard", "name the cluster's dashboard with --address") from None


def _check_ray(found: str, address: str) -> None:
    from packaging.requirements import Requirement

    asked = next(r for r in map(Requirement, running_code().requirements) if r.name == "ray").specifier
    if not asked.contains(found, prereleases=True):
        raise CallError(
            f"the cluster at {address} runs Ray {found}; Sightline asks for ray{asked}",
            f"install ray=={version('ray')} on every node (setup_commands in cluster.yaml) and restart Ray there",
        )


def new_job() -> str:
    """An id as Ray makes them. Made here, so that a job whose submission is interrupted can be named."""
    return f"raysubmit_{''.join(secrets.choice(string.ascii_letters + string.digits) for _ in range(16))}"


def name_of(words: Sequence[str]) -> str:
    """What the dashboard calls the job: the command and the name that it gives or works on, `pretrain first`."""
    for place, word in enumerate(words):
        if word == "--name" and place + 1 < len(words):
            return f"{words[0]} {words[place + 1]}"
        if word.startswith("--name="):
            return f"{words[0]} {word.removeprefix('--name=')}"
    plain = [word for word in words[1:2] if not word.startswith("-")]
    return " ".join([words[0], *(PurePath(word).stem if word.endswith(".yaml") else word for word in plain)])


def submit(client: JobSubmissionClient, job: str, words: Sequence[str], folder: str | None = None) -> str:
    """Start `sightline WORDS` as the job of this id, with the code that runs here. Returns the code's digest. Raises `CallError`.

    `folder` is the job's $SIGHTLINE_HOME. On a cluster whose head is this machine the job starts in this working folder and with this
    $SIGHTLINE_HOME; to others recipe files are sent along, and other relative paths are refused. Environment variables are not sent.
    """
    for word in words:
        if redact(word) != word:
            raise CallError(
                f"{redact(word)!r} holds a password: Ray shows a job's words in its log and on the dashboard",
                "set MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, where `ray start` runs",
            )
    code = running_code()
    here = _is_here(client)
    with tempfile.TemporaryDirectory() as scratch:
        environment: dict[str, Any] = {"py_modules": [str(pack(code, Path(scratch)))], "env_vars": _variables(code, folder, here)}
        if not here:
            words = _portable(words, carried := Path(scratch) / "recipes")
            environment |= {"working_dir": str(carried)} if carried.exists() else {}
        command = shlex.join(["python", "-m", "sightline.pipelines", *words])
        try:
            client.submit_job(
                submission_id=job,
                entrypoint=f"cd {shlex.quote(str(Path.cwd()))} && exec {command}" if here else f"exec {command}",
                runtime_env=environment,
                metadata={"job_name": name_of(words), "sightline": f"{code.release}+{code.digest}"},
            )
        except RuntimeError as error:
            raise SightlineError(f"the cluster did not take the job: {error}") from error
    return code.digest


def _variables(code: Code, folder: str | None, here: bool) -> dict[str, str]:
    variables = {DIGEST: code.digest, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    if folder is not None and not here and not Path(folder).is_absolute():
        raise CallError(f"--home {folder} is relative to this machine", "name it as the cluster's nodes see it: an absolute path")
    if folder is not None or here:
        variables["SIGHTLINE_HOME"] = str(Path(folder).expanduser().absolute()) if folder else str(home())
    return variables


def _is_here(client: JobSubmissionClient) -> bool:
    """Whether the head is this machine: whether its session's folder exists. A loopback address does not show it; it may be a tunnel."""
    nodes = client._do_request("GET", "/nodes?view=summary").json()["data"]["summary"]
    sessions = [node["raylet"].get("sessionDir") for node in nodes if node["raylet"].get("isHeadNode")]
    return any(session and Path(session).is_dir() for session in sessions)


def _portable(words: Sequence[str], folder: Path) -> list[str]:
    """The words for another machine. YAML files of this one are copied to `folder`, in which the job starts."""
    taken = []
    for word in words:
        key, equals, value = word.rpartition("=")
        path = Path(value).expanduser()
        if path.suffix in (".yaml", ".yml") and path.is_file():
            folder.mkdir(exist_ok=True)
            if (folder / path.name).exists():
                raise CallError(f"two files named {path.name}", "rename one")
            shutil.copy(path, folder)
            word = f"{key}{equals}{path.name}"
        elif value.startswith(("./", "../")) or (not path.is_absolute() and path.exists()):
            raise CallError(f"{word!r} names a path of this machine", "name it as the cluster's nodes see it: an absolute path or a URI")
        taken.append(word)
    return taken


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], None]) -> JobDetails:
    """Pass the job's log to `write` until the job ends, reconnecting where needed. Raises `CallError` for an unknown job."""
    retrying = Retrying(retry=retry_if_exception_type(OSError), stop=stop_after_attempt(RECONNECTS + 1), wait=wait_fixed(POLL_SECONDS))
    told = 0
    while True:
        try:
            details = retrying(details_of, client, job)
            log = retrying(client.get_job_logs, job) if details.status.is_terminal() else None
        except RetryError as failed:
            error = failed.last_attempt.exception()
            raise SightlineError(f"{client.get_address()} does not answer any more: {type(error).__name__}", _again(job)) from error
        if log is not None:
            write(log[told:])
            return details
        told = asyncio.run(_tail(client, job, write, told))
        time.sleep(POLL_SECONDS)


async def _tail(client: JobSubmissionClient, job: str, write: Callable[[str], None], told: int) -> int:
    """Write what follows the first `told` characters of the log while the connection lasts; return how many are written then."""
    import aiohttp

    seen = 0
    try:
        async for text in client.tail_job_logs(job):
            write(text[max(0, told - seen) :])
            seen += len(text)
            told = max(told, seen)
    except (OSError, RuntimeError, aiohttp.ClientError):
        pass
    return told


def details_of(client: JobSubmissionClient, job: str) -> JobDetails:
    """Raises `CallError` for an unknown job."""
    from ray.job_submission import JobDetails

    answer = client._do_request("GET", f"/api/jobs/{job}")
    if answer.status_code == 404:
        raise CallError(f"no job {job!r} at {client.get_address()}", "`ray job list` names the cluster's jobs")
    if not answer.ok:
        raise SightlineError(f"the cluster does not tell of {job}: status code {answer.status_code}: {answer.text}")
    return JobDetails(**answer.json())


def details_of_sent(client: JobSubmissionClient, job: str) -> JobDetails:
    """Of a job whose submission was interrupted: the request may still be on its way. Raises `CallError` where none arrived."""
    asking = Retrying(
        retry=retry_if_exception_type(CallError), stop=stop_after_attempt(ARRIVES), wait=wait_fixed(POLL_SECONDS), reraise=True
    )
    return asking(details_of, client, job)


def ask_to_end(client: JobSubmissionClient, job: str) -> None:
    """Send SIGTERM to the job, at which a training run writes a checkpoint."""
    if not details_of(client, job).status.is_terminal():
        client.stop_job(job)


def wait_for_end(client: JobSubmissionClient, job: str) -> JobDetails:
    """Of a job that was asked to end."""
    limit = time.monotonic() + STOP_SECONDS + 60
    while not (details := details_of(client, job)).status.is_terminal():
        if time.monotonic() > limit:
            raise SightlineError(f"{job} has not ended after {STOP_SECONDS} s", "see its log and its nodes on the dashboard")
        time.sleep(POLL_SECONDS)
    return details


def check_end(job: str, details: JobDetails) -> None:
    """Raise where the job did not succeed, with the exit code that the command would have had here."""
    from ray.job_submission import JobStatus

    if details.status == JobStatus.SUCCEEDED:
        return
    if details.status == JobStatus.STOPPED:
        raise SightlineError(f"{job} was stopped", "a training run left a checkpoint: go on with `sightline submit -- resume RUN`")
    message = details.message or ""
    if "requires a different Python" in message:  # pip's own text is all that Ray tells of it
        reason = next(line for line in message.splitlines() if "requires a different Python" in line)
        raise CallError(
            f"the cluster's Python does not fit: {reason.strip()}",
            "install a Python that fits on every node, and put the bin folder of its environment first on PATH where `ray start` runs",
        )
    if details.driver_exit_code is None:
        raise SightlineError(
            f"{job} did not start: {message.strip()[-1500:]}", "look at the job and its nodes on the dashboard, and at docs/clusters.md"
        )
    kind = CallError if details.driver_exit_code == 2 else SightlineError
    raise kind(f"{job} ended with exit code {details.driver_exit_code}", "its log says why")


def result_in(log: str) -> dict[str, Any] | None:
    """The JSON document that a command with `--json` printed last."""
    for line in reversed(log.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            return found if isinstance(found, dict) else None
    return None


def _again(job: str) -> str:
    return f"follow it again with: sightline submit --follow {job}"
