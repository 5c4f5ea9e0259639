"""A real S3-compatible server on loopback (moto's), whose answers can be throttled, fail or break off, by a seed."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BUCKET = "bucket"
ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
FAULTS = {"throttled": ("503 Slow Down", "SlowDown"), "failed": ("500 Internal Server Error", "InternalError")}


class ObjectStore:
    """The server's application between the network and moto, with what goes wrong."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self.application = application
        self.rng = random.Random(0)
        self.share = 0.0
        """Of requests that fail, each in one of the ways of `FAULTS` or by an answer that breaks off."""
        self.away = False
        self.counts = dict.fromkeys((*FAULTS, "cut", "answered"), 0)
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self.lock:
            fault = self.rng.choice((*FAULTS, "cut")) if self.rng.random() < self.share else ""
            fault = "throttled" if self.away else fault
        if fault in FAULTS:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            status, code = FAULTS[fault]
            self.counts[fault] += 1
            body = ERROR.format(code=code).encode()
            start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
            return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]
        body = b"".join(self.application(environ, start_response))
        if fault and environ["REQUEST_METHOD"] == "GET" and len(body) > 1:
            self.counts["cut"] += 1
            return [body[: len(body) // 2]]  # the header has told the whole length
        self.counts["answered"] += 1
        return [body]


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """The server, and its address and keys in the environment of this process and of those that it starts."""
    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *args: Any) -> None:
            pass

    store = ObjectStore(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("MOTO_S3_CUSTOM_ENDPOINTS", "")
        try:
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            yield store
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
