"""A chat-completions API on loopback, with faults: busy, broken, slow or malformed answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answer a prompt with its capitals, or with the next fault in the prompt's list."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.seen.append((self.path, dict(self.headers), body, time.monotonic()))
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
            faults = self.server.faults.get(prompt, self.server.always)
            fault = faults.pop(0) if faults else None
        try:
            time.sleep(self.server.slowness)
            if fault is not None:
                fault(self)
            elif self.server.reply is not None:
                self.server.reply(self, prompt)
            else:
                own = self.server.answer_with
                self.answer(prompt.upper() if own is None else own)
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def answer(self, text: Any, finish: str = "stop", **message: Any) -> None:
        self.send(200, {
            "choices": [{"message": {"role": "assistant", "content": text, **message},
                         "finish_reason": finish}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 3},
        })  # fmt: skip

    def grade(self, text: str, *alternatives: Mapping[str, float]) -> None:
        """Answer with log-probabilities: for each token, those of the likeliest ones."""
        content = [
            {
                "token": max(own, key=lambda token: own[token]),
                "logprob": max(own.values()),
                "top_logprobs": [{"token": t, "logprob": p, "bytes": None} for t, p in own.items()],
            }
            for own in alternatives
        ]
        message = {"role": "assistant", "content": text}
        choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": content}}
        self.send(200, {"choices": [choice]})

    def send(self, status: int, body: Any, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.seen: list[tuple[str, dict[str, str], dict[str, Any], float]] = []
        self.faults: dict[str, list[Fault]] = {}
        self.always: list[Fault] = []
        self.slowness = 0.0
        self.answer_with: str | None = None
        self.reply: Callable[[Handler, str], None] | None = None
        self.under_way = self.most = 0

    def handle_error(self, *_: Any) -> None:
        """Print nothing: clients of these tests close connections."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [body["messages"][-1]["content"] for _, _, body, _ in self.seen]


@contextmanager
def chat_server() -> Iterator[Server]:
    """Run a server while the block runs."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
