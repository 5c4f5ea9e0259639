"""`submit` against a job server that is stood in for: what it refuses, with the hint, and what exactly it sends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asking import Ask
from heads import as_person, until

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.cluster import submit

JOB = "raysubmit_toy"
PRETRAIN = ("pretrain", "croco-tiny", "data.train=/shared/pairs")


class Server:
    """A Ray dashboard's job server: what it says, and what it was sent."""

    def __init__(self) -> None:
        self.mode, self.ray, self.session, self.token = "token", "2.60.0", "/nowhere/session", "right"
        self.end: dict[str, Any] = {"status": "SUCCEEDED", "driver_exit_code": 0}
        self.log = 'training\n{"run": "first"}\n'
        self.jobs: list[dict[str, Any]] = []
        self.packages: list[str] = []
        self.asked: list[str] = []
        self.interrupts = ""
        """Ctrl-C comes while a request of this method and path is answered."""

    def answer(self, method: str, path: str, body: bytes, token: str) -> tuple[int, Any]:
        self.asked.append(path)
        if self.interrupts and f"{method} {path}".startswith(self.interrupts):
            self.interrupts = ""
            asked = len(self.asked)
            os.kill(os.getpid(), signal.SIGINT)
            until(lambda: len(self.asked) > asked, 0.01)  # the job is taken after the client has gone, and asks
        if path == "/api/authentication_mode":
            return 200, {"authentication_mode": self.mode}
        if self.mode == "token" and token != f"Bearer {self.token}":
            return 403, {}
        if path == "/api/version":
            return 200, {"version": "4", "ray_version": self.ray, "ray_commit": "", "session_name": ""}
        if path.startswith("/nodes"):
            return 200, {"data": {"summary": [{"raylet": {"isHeadNode": True, "sessionDir": self.session}}]}}
        if path.startswith("/api/packages"):
            self.packages += [path] if method == "PUT" else []
            return (200, {}) if method == "PUT" else (404, {})
        if path == "/api/jobs/":
            self.jobs.append(json.loads(body))
            return 200, {"job_id": None, "submission_id": self.jobs[-1]["submission_id"]}
        job, _, what = path.removeprefix("/api/jobs/").partition("/")
        if job in (JOB, *(one["submission_id"] for one in self.jobs)):
            return 200, {"logs": self.log} if what else {"type": "SUBMISSION", "submission_id": job, "entrypoint": "", **self.end}
        return 404, {}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, document = state.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            with contextlib.suppress(ConnectionError):  # the client was interrupted
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

        do_GET = do_PUT = do_POST = handle_any  # noqa: N815

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http, as_person({}) as patch:
        threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
        patch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        patch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{http.server_address[1]}")
        patch.chdir(tmp_path)
        yield state
        http.shutdown()


@pytest.fixture
def connected(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """Ray keeps the token that a process read first; the one for this server is put in beside it."""
    from ray.dashboard.modules import dashboard_sdk

    monkeypatch.setattr(dashboard_sdk, "get_auth_headers_if_auth_enabled", lambda headers: {"Authorization": "Bearer right"})
    return server


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        ((), "name a command", "sightline submit --"),
        (("--stop", "a", "--", "inspect", "x"), "name a command", ""),
        (("--", "pretrian", "croco-tiny"), "did you mean 'pretrain'?", ""),
        (("--", "pretrain", "croco-tiny", "--nam", "x", "--out", "y"), "unrecognized arguments", "sightline pretrain --help"),
        (("--", "submit", "--", "inspect", "x"), "does not submit", ""),
        (("--address", "http://10.0.0.9:8265", "--", *PRETRAIN), "plain HTTP to another machine", "--insecure"),
        (("--address", "ray://head:10001", "--", *PRETRAIN), "no address of a job server", "http://127.0.0.1:8265"),
        (("--address", "http://127.0.0.1:9", "--", *PRETRAIN), "no job server answers", "ray start --head"),
        (("--address", "https://ann:secret@host", "--", *PRETRAIN), "holds a password", "RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_a_wrong_call_is_answered_before_anything_is_sent(words: tuple[str, ...], says: str, hint: str, ask: Ask, server: Server) -> None:
    code, _, err = ask("submit", *words)
    assert code == (1 if "no job server" in says else 2)
    assert says in err and hint in err and "secret" not in err
    assert server.asked == []


def test_a_cluster_that_takes_jobs_from_anybody_is_refused(ask: Ask, server: Server) -> None:
    server.mode = "disabled"
    code, _, err = ask("submit", "--", *PRETRAIN)
    assert code == 2 and "no authentication" in err and "RAY_AUTH_MODE=token" in err
    assert server.asked == ["/api/authentication_mode"]


@pytest.mark.slow
def test_insecure_takes_it_all_the_same(ask: Ask, server: Server) -> None:
    server.mode = "disabled"
    assert ask("submit", "--insecure", "--no-wait", "--", *PRETRAIN)[0] == 0
    assert len(server.jobs) == 1


@pytest.mark.slow
def test_a_wrong_token_and_a_ray_that_does_not_fit_are_refused_with_the_hint(ask: Ask, connected: Server) -> None:
    connected.ray = "2.40.0"
    code, _, err = ask("submit", "--", *PRETRAIN)
    assert code == 2 and "runs Ray 2.40.0" in err and ">=2.59" in err and "install ray==" in err
    connected.token = "another"
    code, _, err = ask("submit", "--", *PRETRAIN)
    assert code == 2 and "token" in err and "RAY_AUTH_TOKEN_PATH" in err
    assert connected.jobs == []


def test_a_job_is_called_what_it_does_and_to_what() -> None:
    for words, name in (
        ("resume first", "resume first"),
        ("pretrain croco-tiny --name=first", "pretrain first"),
        ("sweep /shared/my.yaml data.train=/shared/pairs", "sweep my"),
        ("clean --yes", "clean"),
        ("quickstart", "quickstart"),
    ):
        assert submit.name_of(words.split()) == name


@pytest.mark.slow
def test_what_is_sent_is_the_exact_words_the_code_and_nothing_of_this_environment(
    ask: Ask, connected: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    (tmp_path / "my.yaml").write_text("method: croco\n")
    words = ("pretrain", "my.yaml", "data.train=s3://bucket/my pairs", "--name", "first")
    code, out, _ = ask("submit", "--json", "--home", "/shared/runs", "--", *words)
    assert code == 0 and json.loads(out)["result"] == {"run": "first"}
    (job,) = connected.jobs
    assert job["entrypoint"] == "exec python -m sightline.pipelines pretrain my.yaml 'data.train=s3://bucket/my pairs' --name first --json"
    environment = job["runtime_env"]
    assert job["metadata"]["job_name"] == "pretrain first"
    digest = json.loads(out)["code"]
    assert environment["py_modules"] == [f"gcs://sightline_pretext-0.1.0+{digest}-py3-none-any.whl"]
    assert environment["env_vars"] == {
        "SIGHTLINE_SHIPPED": digest,
        "SIGHTLINE_HOME": "/shared/runs",
        "RAY_JOB_STOP_WAIT_TIME_S": str(submit.STOP_SECONDS),
    }
    assert len(connected.packages) == 2 and "hunter2" not in json.dumps(connected.jobs)


@pytest.mark.slow
def test_on_this_machine_the_job_starts_here_and_files_like_here(ask: Ask, connected: Server, home: Path, tmp_path: Path) -> None:
    connected.session = str(tmp_path)
    (tmp_path / "pairs").mkdir()
    assert ask("submit", "--no-wait", "--", "pretrain", "croco-tiny", "data.train=pairs")[0] == 0
    (job,) = connected.jobs
    assert job["entrypoint"] == f"cd {tmp_path} && exec python -m sightline.pipelines pretrain croco-tiny data.train=pairs"
    assert job["runtime_env"]["env_vars"]["SIGHTLINE_HOME"] == str(home)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pretrain", "croco-tiny", "data.train=pairs"), "a path of this machine"),
        (("pretrain", "croco-tiny", "data.train=./elsewhere"), "a path of this machine"),
        (("pretrain", "croco-tiny", "log.tracking_uri=https://ann:hunter2@mlflow"), "holds a password"),
        (("--home", "runs", "--", *PRETRAIN), "--home runs is relative"),
    ],
)
def test_what_another_machine_cannot_take_is_refused(
    words: tuple[str, ...], says: str, ask: Ask, connected: Server, tmp_path: Path
) -> None:
    (tmp_path / "pairs").mkdir()
    code, _, err = ask("submit", *(words if words[0].startswith("--") else ("--", *words)))
    assert code == 2 and says in err and "hunter2" not in err
    assert connected.jobs == []


@pytest.mark.slow
def test_the_jobs_end_is_the_calls_end(ask: Ask, connected: Server) -> None:
    connected.end = {"status": "FAILED", "driver_exit_code": 2}
    code, out, err = ask("submit", "--", *PRETRAIN)
    assert code == 2 and "training" in out and "exit code 2" in err
    connected.end = {"status": "FAILED", "driver_exit_code": 1}
    assert ask("submit", "--follow", JOB)[0] == 1
    connected.end = {"status": "STOPPED"}
    code, _, err = ask("submit", "--follow", JOB)
    assert code == 1 and "was stopped" in err and "resume" in err
    code, _, err = ask("submit", "--follow", "raysubmit_other")
    assert code == 2 and "no job 'raysubmit_other'" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "words", "says"),
    [
        ("PUT /api/packages", ("--", *PRETRAIN), "stopped before the cluster had raysubmit_"),
        ("POST /api/jobs/", ("--", *PRETRAIN), " goes on. Follow it: sightline submit --follow raysubmit_"),
        ("GET /api/jobs/raysubmit_", ("--", *PRETRAIN), " goes on. Follow it: sightline submit --follow raysubmit_"),
        ("GET /api/jobs/raysubmit_", ("--follow", JOB), f"{JOB} goes on. Follow it: sightline submit --follow {JOB}"),
        ("POST /api/jobs/", ("--no-wait", "--", *PRETRAIN), " goes on. Follow it: sightline submit --follow raysubmit_"),
    ],
)
def test_ctrl_c_at_any_moment_says_what_becomes_of_the_job(
    when: str, words: tuple[str, ...], says: str, ask: Ask, connected: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "POLL_SECONDS", 0.1)
    connected.end, connected.interrupts = {"status": "RUNNING"}, when
    code, _, err = ask("submit", *words)
    assert code == 130 and says in err and err.endswith("sightline: stopped\n")
    assert all(job["submission_id"] in err for job in connected.jobs) and len(connected.jobs) == ("goes on" in says and JOB not in words)


@pytest.mark.parametrize(
    ("status", "typed", "code", "says"),
    [
        ("RUNNING", "y", 0, f"{JOB}: stopped"),
        ("RUNNING", "", 130, f"{JOB} goes on"),
        ("RUNNING", EOFError, 130, f"{JOB} goes on"),
        ("RUNNING", KeyboardInterrupt, 130, f"{JOB} goes on"),
        ("FAILED", "y", 130, f"{JOB} has ended: failed"),
        (OSError, "y", 130, f"http://head does not answer: {JOB} runs there if it was sent. Follow it:"),
        ("STOPPING", "y", 130, f"{JOB} was asked to end"),
    ],
)
def test_ctrl_c_in_a_terminal_asks(status: Any, typed: Any, code: int, says: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def details(status: str) -> Any:
        return SimpleNamespace(status=SimpleNamespace(value=status, is_terminal=lambda: status in ("FAILED", "STOPPED")))

    def give(result: Any) -> Callable[..., Any]:
        def call(*_: Any) -> Any:
            if isinstance(result, type):
                raise result
            return result

        return call

    client = SimpleNamespace(get_address=lambda: "http://head", get_job_logs=lambda job: "the end")
    monkeypatch.setattr(submit, "connect", give(client))
    monkeypatch.setattr(submit, "follow", give(KeyboardInterrupt))
    monkeypatch.setattr(submit, "details_of_sent", give(status if isinstance(status, type) else details(status)))
    monkeypatch.setattr(submit, "ask_to_end", give(None))
    monkeypatch.setattr(submit, "wait_for_end", give(KeyboardInterrupt if status == "STOPPING" else details("STOPPED")))
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", give(typed))
    found, _, err = ask("submit", "--follow", JOB)
    assert found == code and says in err and "report it" not in err


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("connect", f"{JOB} was not asked to end\n"),
        ("ask_to_end", f"{JOB} was asked to end perhaps, perhaps not."),
        ("wait_for_end", f"{JOB} was asked to end and does so."),
    ],
)
def test_ctrl_c_in_a_stop_says_whether_the_job_ends(where: str, says: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("connect", "ask_to_end", "wait_for_end"):
        monkeypatch.setattr(submit, name, interrupt if name == where else lambda *_: SimpleNamespace())
    code, _, err = ask("submit", "--stop", JOB)
    assert code == 130 and says in err


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        ("pip said\nERROR: Package 'sightline' requires a different Python: 3.9.2 not in '>=3.11'\n", CallError, "3.9.2 not in '>=3.11'"),
        ("no space left on device", SightlineError, "did not start: no space left"),
    ],
)
def test_a_job_that_never_started_says_why(message: str, error: type[SightlineError], says: str) -> None:
    details: Any = SimpleNamespace(status=SimpleNamespace(value="FAILED"), message=message, driver_exit_code=None)
    with pytest.raises(error, match=says):
        submit.check_end(JOB, details)
