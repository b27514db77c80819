"""The server of the page: an application of Starlette, run by uvicorn on loopback.

One answer is computed at a time, and the last few are kept: lists and searches are about the
change that is shown, and no answer waits for them. No request makes a file.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from penstock.errors import PenstockError, StorageError
from penstock.jobs.browse.changes import as_command, as_yaml
from penstock.jobs.browse.controls import controls_of
from penstock.jobs.browse.preview import BrowsedRecipe, Previewed
from penstock.jobs.browse.views import SIDES, DocumentViews
from penstock.recipe_file import command_words

__all__ = ["BrowseServer", "Listening", "listen"]

_ANSWERS = 4

_MOST_BODY = 2**16
"""Bytes of a request's body."""

_COUNTING_SECONDS = 1.5
"""Time after which a request that counts tokens returns how many are left."""

_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'nonce-{nonce}'; "
    "style-src 'nonce-{nonce}'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket on loopback, and the URL with the token."""

    socket: socket.socket
    port: int
    token: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={self.token}"


def listen(port: int = 0) -> Listening:
    """Open a socket on 127.0.0.1.

    Args:
        port: The port; 0 for a free one.

    Raises:
        StorageError: The port is in use.
    """
    own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        own.bind(("127.0.0.1", port))
    except OSError as error:
        own.close()
        raise StorageError(
            f"port {port} of 127.0.0.1: {error.strerror}", key="--port", fix="name another port"
        ) from None
    own.listen(64)
    return Listening(own, own.getsockname()[1], secrets.token_urlsafe(32))


class BrowseServer:
    """Answers the page of one recipe.

    Args:
        browsed: The recipe.
        name: The recipe's file, as the copied command names it.
        settings: Options ``--set`` that the recipe was read with.

    Raises:
        BadInput: A library of the extra is not installed.
    """

    def __init__(self, browsed: BrowsedRecipe, name: str, settings: Sequence[str] = ()) -> None:
        self._browsed = browsed
        self._name, self._settings = name, tuple(settings)
        self._views = DocumentViews(browsed)
        self._lock = threading.Lock()
        self._answers: OrderedDict[str, Previewed] = OrderedDict()

    @property
    def documents_read(self) -> int:
        """Documents of the corpus, kept or not."""
        return len(self._browsed.columns)

    def serve(self, listening: Listening) -> None:
        """Serve until the process is interrupted."""
        import uvicorn

        config = uvicorn.Config(
            self.application(listening),
            log_config=None,
            access_log=False,  # lines would have the token
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=32,
            timeout_graceful_shutdown=1,
        )
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn repeats the signal at its end
            uvicorn.Server(config).run(sockets=[listening.socket])

    def application(self, listening: Listening) -> Any:
        """Return the application, which answers requests with the token alone."""
        from starlette.applications import Starlette
        from starlette.concurrency import run_in_threadpool
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route

        from penstock.jobs.browse.guard import Guard

        async def page(request: Request) -> Response:
            nonce = secrets.token_urlsafe(16)
            return HTMLResponse(
                _page(nonce),
                headers={"content-security-policy": _POLICY.format(nonce=nonce)},
            )

        def route(path: str, work: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Route:
            async def endpoint(request: Request) -> Response:
                body = b""
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > _MOST_BODY:
                        return JSONResponse({"error": "the request is too long"}, 413)
                try:
                    asked = json.loads(body)
                    if not isinstance(asked, dict):
                        raise ValueError
                except (ValueError, RecursionError):
                    return JSONResponse({"error": "expected an object of JSON"}, 400)
                try:
                    found = await run_in_threadpool(work, asked)
                except PenstockError as error:
                    error.on_recipe(command_words(self._name, self._settings))
                    return JSONResponse({"error": str(error)}, 400)
                return JSONResponse(found)

            return Route(path, endpoint, methods=["POST"])

        routes = [
            Route("/", page),
            route("/api/recipe", self.recipe),
            route("/api/preview", self.preview),
            route("/api/count", self.count),
            route("/api/documents", self.documents),
        ]
        return Guard(Starlette(routes=routes), listening.token, listening.port)

    def recipe(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the page is built of: controls, columns and the recipe as it is."""
        return {
            "name": self._name,
            "controls": controls_of(self._browsed),
            "columns": [asdict(own) for own in self._views.bins],
            "sides": list(SIDES),
            "answer": self.preview({}),
        }

    def preview(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return the counts and histograms of ``change``, and its lines to copy."""
        start = time.perf_counter()
        change = _change(asked)
        answer = self._answer(change)
        histograms = self._views.histograms(answer)
        return {
            "preview": answer.preview.summary(),
            "histograms": histograms,
            "yaml": as_yaml(change),
            "command": as_command(self._name, change, self._settings),
            "milliseconds": round(1000 * (time.perf_counter() - start), 1),
        }

    def count(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Count the tokens that the answer to ``change`` lacks; returns how many are ``left``."""
        change = _change(asked)
        answer = self._answer(change)
        end = time.monotonic() + _COUNTING_SECONDS
        left = answer.preview.uncounted
        while left and time.monotonic() < end:
            left = self._browsed.count_tokens(answer, 2**20)
        if answer.preview.uncounted:
            with self._lock:
                self._answers.clear()  # tokens of others may be known now, too
        return {"left": left}

    def documents(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """List the documents of a ``side`` under ``change``."""
        side, source, text = asked.get("side"), asked.get("source"), asked.get("text") or ""
        texts = isinstance(side, str) and isinstance(text, str) and isinstance(source, str | None)
        if not texts or side not in SIDES:
            raise StorageError("no such list of documents", key="side")
        answer = self._answer(_change(asked))
        found = self._views.documents(answer, side, source=source, text=text[:200])
        return found.summary()

    def _answer(self, change: Mapping[str, Any]) -> Previewed:
        key = json.dumps(change, sort_keys=True)
        with self._lock:
            if key not in self._answers:
                self._answers[key] = self._browsed.answer(change)
                while len(self._answers) > _ANSWERS:
                    self._answers.popitem(last=False)
            self._answers.move_to_end(key)
            return self._answers[key]


def _change(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    change = asked.get("change", {})
    return change if isinstance(change, dict) else {"change": None}


def _page(nonce: str) -> str:
    """Return the page, with its style and its script in it."""
    here = resources.files("penstock.jobs.browse")
    page = (here / "page.html").read_text("utf-8")
    for name in ("page.css", "page.js"):
        page = page.replace(f"<!-- {name} -->", (here / name).read_text("utf-8"))
    return page.replace("NONCE", nonce)
