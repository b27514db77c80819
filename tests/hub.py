"""The dataset API of a hub on loopback, with the commits of one dataset."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote


class Hub:
    """Commits of the dataset ``own/data``, and the requests that were made.

    Args:
        commits: The files of each commit, by name.
        branches: The commit of each branch or tag.
    """

    def __init__(
        self, commits: Mapping[str, Mapping[str, bytes]], branches: dict[str, str]
    ) -> None:
        self.commits = commits
        self.branches = branches
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Return the commit and the body of an answer; None where there is nothing."""
        path = unquote(path.partition("?")[0]).strip("/")
        for start in ("api/datasets/own/data", "datasets/own/data/resolve"):
            if path.startswith(start):
                return self._answer(start, path.removeprefix(start).strip("/"))
        return None

    def _answer(self, start: str, rest: str) -> tuple[str, bytes] | None:
        api = start.startswith("api")
        kind, _, rest = rest.partition("/") if api else ("resolve", "", rest)
        revision, _, name = rest.partition("/")
        commit = self.branches.get(revision or "main", revision)
        if commit not in self.commits:
            return None
        files = self.commits[commit]
        if kind in ("", "revision"):
            siblings = [{"rfilename": file} for file in files]
            body = {"id": "own/data", "sha": commit, "siblings": siblings, "private": False}
            return commit, json.dumps(body).encode()
        if kind == "tree" and name:  # there are no directories
            return None
        if kind in ("tree", "paths-info"):
            listed = [
                {"type": "file", "path": file, "size": len(data), "oid": commit}
                for file, data in files.items()
            ]
            return commit, json.dumps(listed).encode()
        return (commit, files[name]) if kind == "resolve" and name in files else None


@contextmanager
def hub_server(hub: Hub) -> Iterator[str]:
    """Serve a hub; give its address, which libraries take from ``HF_ENDPOINT`` when they start."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = hub.answer(self.path)
            commit, body = found or ("", b'{"error": "not found"}')
            status, total = (200 if found else 404), len(body)
            ranged = self.headers.get("Range")
            if found and ranged:
                first, _, last = ranged.removeprefix("bytes=").partition("-")
                body, status = body[int(first) : int(last or total) + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            if found:
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{commit}"')
                self.send_header("Accept-Ranges", "bytes")
            else:
                known = any(commit in self.path for commit in hub.commits)
                code = "EntryNotFound" if known else "RevisionNotFound"
                self.send_header("X-Error-Code", code)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_POST = do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield address
    finally:
        server.shutdown()
        server.server_close()
