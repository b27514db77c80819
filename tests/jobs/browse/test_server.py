"""The server on a real port: who is answered, what it reads, and that it writes nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.errors import StorageError
from penstock.jobs.browse.server import listen
from tests.jobs.browse.conftest import BrowsedProject

ROOT = Path(__file__).resolve().parents[3]


class Serving:
    """The command in a process of its own."""

    def __init__(self, project: BrowsedProject) -> None:
        self.recipe = project.path
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "browse", str(project.path), "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        self.told: dict[str, Any] = json.loads(line)
        self.url: str = self.told["url"]
        host, _, token = self.url.removeprefix("http://").partition("/?token=")
        self.port, self.token = int(host.partition(":")[2]), token

    def raw(self, request: str) -> tuple[int, dict[str, str], bytes]:
        """Send a request as it is; returns status, headers and body."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request.encode("latin-1"))
            data = b""
            while chunk := connection.recv(2**16):
                data += chunk
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(": ") for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body

    def get(self, target: str, *headers: str, host: str | None = None) -> Any:
        host = f"127.0.0.1:{self.port}" if host is None else host
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *headers, "Connection: close"]
        return self.raw("\r\n".join([*lines, "", ""]))

    def post(self, path: str, value: Any, *headers: str, token: str | None = None) -> Any:
        body = value if isinstance(value, str) else json.dumps(value)
        lines = [
            f"POST /api/{path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"X-Penstock-Token: {self.token if token is None else token}",
            f"Content-Length: {len(body)}",
            *headers,
            "Connection: close",
        ]
        return self.raw("\r\n".join([*lines, "", body]))


def files_of(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(directory.rglob("*"))
    }


@pytest.fixture(scope="module")
def serving(project: BrowsedProject) -> Iterator[Serving]:
    project.curate({})
    before = files_of(project.path.parent / "out")
    found = Serving(project)
    try:
        yield found
        found.process.send_signal(signal.SIGINT)
        out, err = found.process.communicate(timeout=30)
        assert found.process.returncode == 0, err
        assert out == "" and found.token not in err.replace(found.url, "")
        assert files_of(project.path.parent / "out") == before
    finally:
        found.process.kill()
        found.process.wait()


def test_the_page_is_whole_and_its_policy_names_its_own_parts_alone(serving: Serving) -> None:
    assert serving.told["documents"] == 960
    status, headers, body = serving.get(f"/?token={serving.token}")
    assert status == 200 and b"page.js" not in body and b"NONCE" not in body
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    nonce = policy["script-src"].removeprefix("'nonce-").removesuffix("'")
    assert policy["style-src"] == policy["script-src"]
    assert body.count(f'nonce="{nonce}"'.encode()) == 2
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert headers["referrer-policy"] == "no-referrer" and headers["cache-control"] == "no-store"
    assert "server" not in headers and "set-cookie" not in headers
    assert (
        serving.get(f"/?token={serving.token}")[1]["content-security-policy"]
        != headers["content-security-policy"]
    )


def refused(answer: tuple[int, dict[str, str], bytes]) -> bool:
    status, headers, body = answer
    return status == 403 and body == b"" and "access-control-allow-origin" not in headers


def test_without_the_token_there_is_nothing(serving: Serving) -> None:
    own, other = f"/?token={serving.token}", "x" * len(serving.token)
    for target in ("/", f"/?token={other}", "/?token=", "/api/recipe", "/nothing", "/page.js",
                   f"/api/recipe?token={serving.token}", f"/?token={serving.token}x",
                   "/?token=%ff%fe", f"//?token={serving.token}"):  # fmt: skip
        assert refused(serving.get(target)), target
    for path in ("recipe", "preview", "count", "documents"):
        assert refused(serving.post(path, {}, token=""))
        assert refused(serving.post(path, {}, token=other))
        assert refused(serving.post(path, {}, f"Cookie: token={serving.token}", token="é"))
    assert serving.get(own)[0] == 200


def test_another_host_or_origin_gets_nothing(serving: Serving) -> None:
    own = f"/?token={serving.token}"
    port = serving.port
    for host in ("attacker.example", f"attacker.example:{port}", "127.0.0.1", "", f"[::1]:{port}",
                 f"127.0.0.1:{port + 1}", f"127.0.0.1.attacker.example:{port}"):  # fmt: skip
        assert refused(serving.get(own, host=host)), host
    twice = serving.get(own, "Host: attacker.example")  # h11 refuses it before the guard
    assert twice[0] in (400, 403) and b"script" not in twice[2]
    for origin in ("https://attacker.example", "null", f"http://127.0.0.1:{port + 1}",
                   f"https://127.0.0.1:{port}", f"http://localhost:{port}"):  # fmt: skip
        assert refused(serving.get(own, f"Origin: {origin}")), origin
        assert refused(serving.post("recipe", {}, f"Origin: {origin}")), origin
    for site in ("cross-site", "same-site", "none"):
        assert refused(serving.post("recipe", {}, f"Sec-Fetch-Site: {site}")), site
    good = f"Origin: http://127.0.0.1:{port}"
    assert serving.post("recipe", {}, good, "Sec-Fetch-Site: same-origin")[0] == 200
    preflight = serving.raw(
        f"OPTIONS /api/recipe HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        "Origin: https://attacker.example\r\nAccess-Control-Request-Method: POST\r\n"
        "Connection: close\r\n\r\n"
    )
    assert refused(preflight)


def test_requests_are_bounded_and_checked(serving: Serving) -> None:
    assert serving.post("preview", "x" * 70_000)[0] == 413
    for body in ("", "[1]", "{", '{"change": 3}', '{"change": {"budget": {"tokens": "many"}}}',
                 "[" * 30_000):  # fmt: skip
        status, _, answer = serving.post("preview", body)
        assert status == 400 and isinstance(json.loads(answer)["error"], str), body[:50]
    for asked in ({"side": "'; DROP TABLE marks"}, {"side": "above", "source": 3}, {"side": []}):
        assert serving.post("documents", asked)[0] == 400
    status, _, answer = serving.post("preview", {"change": {"clean": {"dedup": {}}}})
    assert status == 400
    assert f"run `penstock curate {serving.recipe}`" in json.loads(answer)["error"]
    assert serving.post("nothing", {})[0] == 404
    assert serving.get("/api/recipe", f"X-Penstock-Token: {serving.token}")[0] == 405


def test_documents_are_those_on_both_sides_of_the_line(serving: Serving) -> None:
    def listed(**asked: Any) -> list[dict[str, Any]]:
        status, _, body = serving.post("documents", asked)
        assert status == 200, body
        found: list[dict[str, Any]] = json.loads(body)["documents"]
        return found

    above, below = listed(side="above"), listed(side="below")
    assert len(above) == len(below) == 20
    assert all(own["taken"] for own in above) and not any(own["taken"] for own in below)
    scores = [own["score"] for own in [*above[::-1], *below]]
    assert scores == sorted(scores, reverse=True)
    first = listed(side="first")
    assert first[0]["score"] >= above[-1]["score"]
    wiki = listed(side="below", source="wiki")
    assert {own["source"] for own in wiki} == {"wiki"}
    assert listed(side="below", source="' OR 1=1 --") == []
    word = below[3]["text"].split()[5]
    found = listed(side="below", text=word.upper())
    assert below[3]["id"] in [own["id"] for own in found]
    assert all(word in own["text"].lower() + own["id"] for own in found)
    assert [own["id"] for own in listed(side="below", text=below[7]["id"])] == [below[7]["id"]]
    dropped = listed(side="dropped")
    assert all(own["reason"] and not own["taken"] for own in dropped)
    change = {"budget": {"tokens": 12_000}}
    went = listed(side="went", change=change)
    assert went and not listed(side="came", change=change)


def test_histograms_count_every_document_once(serving: Serving) -> None:
    _, _, body = serving.post("recipe", {})
    told = json.loads(body)
    preview = told["answer"]["preview"]
    assert [own["name"] for own in told["columns"][:3]] == ["drawn", "length", "bytes"]
    for column, counts in zip(told["columns"], told["answer"]["histograms"], strict=True):
        assert len(counts["kept"]) == len(column["labels"] or column["edges"][1:])
        if column["name"] != "drawn":  # has documents without a score
            assert sum(counts["kept"]) == preview["kept"], column["name"]
        assert sum(counts["taken"]) == preview["taken"]
        assert (column["lowest"] is None) == bool(column["labels"])
    documents = penstock.open(serving.recipe).documents()
    values = [size for batch in documents.batches() for size in batch["bytes"].to_pylist()]
    bytes_of = told["columns"][2]
    assert (bytes_of["lowest"], bytes_of["highest"]) == (min(values), max(values))
    numbers = [(own["column"], own["value"]) for own in told["controls"]["numbers"]]
    assert numbers == [("meta.stars", 3), ("words", 4)]


def test_a_port_in_use_is_one_line(serving: Serving) -> None:
    with pytest.raises(StorageError) as caught:
        listen(serving.port)
    assert caught.value.key == "--port"
