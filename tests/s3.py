"""An S3 API on loopback: moto's server in a process of its own, and a proxy that adds faults."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUCKET = "pool"

_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Trouble:
    """Faults to add, and a count of those that were added."""

    errors: float = 0.0
    """Share of requests answered with 500 or 503."""
    slow: float = 0.0
    """Share of requests that are delayed by ``delay`` seconds."""
    delay: float = 0.3
    seed: int = 0
    requests: int = 0
    failed: int = 0
    delayed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    """Requests by method; a listing is a GET."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, kind: str = "GET") -> tuple[int | None, float]:
        """Return a status to answer with instead, or None, and seconds to wait."""
        with self._lock:
            self.requests += 1
            self.kinds[kind] += 1
            chance = random.Random(self.seed * 1_000_003 + self.requests)
            if chance.random() < self.errors:
                self.failed += 1
                return chance.choice([500, 503]), 0.0
            if chance.random() < self.slow:
                self.delayed += 1
                return None, self.delay
            return None, 0.0


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[str]:
    """Start a server with an empty bucket; set its address and credentials in the environment."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(address)
        with environment(AWS_ENDPOINT_URL=address, **_ENVIRONMENT):
            request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")
            urllib.request.urlopen(request).close()
            yield address
    finally:
        server.terminate()
        server.wait(10)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def troubled(address: str, trouble: Trouble) -> Iterator[str]:
    """Start a proxy before ``address`` that adds faults, and set its address in the environment."""
    handler = type("Handler", (_Proxy,), {"address": address, "trouble": trouble})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxy = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with environment(AWS_ENDPOINT_URL=proxy):
            from s3fs import S3FileSystem  # only here: the GPU script's machine has no s3fs

            S3FileSystem.clear_instance_cache()  # an existing instance keeps its address
            yield proxy
    finally:
        S3FileSystem.clear_instance_cache()
        server.shutdown()
        server.server_close()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    address: str
    trouble: Trouble

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, delay = self.trouble.next(self.command)
        time.sleep(delay)
        if status is not None:
            code = {500: "InternalError", 503: "SlowDown"}[status]
            text = f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()
            self._answer(status, {"Content-Type": "application/xml"}, text)
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() != "content-length"}
        # With urllib's default, a form, the server parses the body and stores nothing.
        headers.setdefault("Content-Type", "application/octet-stream")
        request = urllib.request.Request(
            self.address + self.path, body or None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request) as answer:
                self._answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, dict(error.headers), error.read())

    def _answer(self, status: int, headers: dict[str, Any], body: bytes) -> None:
        self.send_response(status)
        dropped = ("transfer-encoding", "connection", "server", "date")
        if self.command != "HEAD":
            dropped = (*dropped, "content-length")
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            if name.lower() not in dropped:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _forward

    def log_message(self, *args: Any) -> None:
        pass


def _wait_for(address: str) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(address)
