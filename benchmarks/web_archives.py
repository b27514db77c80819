"""Web archives that are made: pages, and records that are wrong in known ways."""

from __future__ import annotations

import base64
import gzip
import hashlib
import random
import re
import uuid
from collections.abc import Callable, Iterator

__all__ = ["HOSTILE", "OTHERS", "members", "page", "record", "response"]

_draw = random.Random(17)
_WORDS = [
    "".join(_draw.choices("abcdefghijklmnopqrstuvwxyz", k=_draw.randint(2, 9))) for _ in range(4000)
]


def page(number: int, paragraphs: int = 20) -> str:
    """Make a page with a menu, paragraphs and a footer."""
    draw = random.Random(number)
    body = "".join(
        f'<p class="c{draw.randint(0, 9)}">{" ".join(draw.choices(_WORDS, k=draw.randint(20, 90)))}'
        ".</p>\n"
        for _ in range(paragraphs)
    )
    menu = "".join(
        f'<li><a href="/{draw.choice(_WORDS)}.html">{draw.choice(_WORDS)}</a></li>\n'
        for _ in range(15)
    )
    return (
        f"<!DOCTYPE html><html><head><title>{draw.choice(_WORDS)}</title>"
        "<script>if (a < b && b > c) {x = '<p>'}</script></head><body>"
        f"<nav><ul>{menu}</ul></nav><main><h1>Page {number}</h1>{body}</main>"
        "<footer>Imprint</footer></body></html>"
    )


def record(kind: str, block: bytes, **fields: str) -> bytes:
    """Make a record; names of fields are given with ``_`` for ``-``."""
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    length = f"Content-Length: {len(block)}\r\n"
    return f"WARC/1.0\r\nWARC-Type: {kind}\r\n{head}{length}\r\n".encode() + block + b"\r\n\r\n"


def response(number: int, body: bytes, http: str = "", status: str = "HTTP/1.1 200 OK") -> bytes:
    """Make the record of a page, with its digest."""
    block = f"{status}\r\nContent-Type: text/html; charset=utf-8\r\n{http}\r\n".encode() + body
    return record(
        "response",
        block,
        WARC_Record_ID=f"<urn:uuid:{uuid.UUID(int=number)}>",
        WARC_Date="2026-01-02T03:04:05Z",
        WARC_Target_URI=f"http://example.org/{number}",
        WARC_Block_Digest="sha1:" + base64.b32encode(hashlib.sha1(block).digest()).decode(),
        Content_Type="application/http; msgtype=response",
    )


OTHERS = {
    kind: record(kind, b"software: none\r\n", WARC_Record_ID=f"<urn:{kind}>")
    for kind in ("warcinfo", "request", "metadata", "revisit", "continuation")
}
"""Records that are not documents, by type."""


def _with_length(length: str) -> Callable[[bytes], bytes]:
    field = f"Content-Length: {length}\r\n".encode() if length else b""
    return lambda sound: re.sub(rb"Content-Length: \d+\r\n", field, sound, count=1)


def _damaged(sound: bytes) -> bytes:
    packed = bytearray(gzip.compress(sound, mtime=0))
    packed[len(packed) // 2] ^= 0xFF
    return bytes(packed)


def _of_body(change: Callable[[bytes], bytes], http: str) -> Callable[[bytes], bytes]:
    def remade(sound: bytes) -> bytes:
        found = re.search(rb"example\.org/(\d+)", sound)
        assert found
        body = sound[:-4].partition(b"charset=utf-8\r\n\r\n")[2]
        return response(int(found[1]), change(body), http)

    return remade


def _chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\nzz\r\n0\r\n\r\n" % (len(body), body)


HOSTILE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "length too large": ("ends after", _with_length("99999")),
    "length too small": ("no record follows", _with_length("700")),
    "length absurd": ("Content-Length, got '9", _with_length("9" * 30)),
    "length over the cap": ("more than the", _with_length("9" * 15)),
    "length negative": ("Content-Length, got '-5'", _with_length("-5")),
    "no length": ("Content-Length, got nothing", _with_length("")),
    "no type": ("WARC-Type, got nothing", lambda sound: sound.replace(b"WARC-Type", b"Type", 1)),
    "no version": ("expected WARC/1", lambda sound: sound.replace(b"WARC/1.0", b"WRAC/1.0", 1)),
    "no end of header": (
        "ends inside its header",
        lambda sound: sound.partition(b"Content-Length")[0],
    ),
    "wrong digest": (
        "another digest",
        lambda sound: re.sub(rb"sha1:\w{4}", b"sha1:AAAA", sound, count=1),
    ),
    "wrong digest of the payload": (
        "another digest",
        lambda sound: re.sub(rb"Block-(Digest: sha1:)\w{4}", rb"Payload-\1AAAA", sound, count=1),
    ),
    "no HTTP header": (
        "expected an HTTP response",
        lambda sound: record("response", b"<p>x</p>", Content_Type="application/http"),
    ),
    "HTTP header cut off": (
        "inside its header",
        lambda sound: record(
            "response", b"HTTP/1.1 200 OK\r\nA: b", Content_Type="application/http"
        ),
    ),
    "damaged chunks": ("chunked", _of_body(_chunked, "Transfer-Encoding: chunked\r\n")),
    "damaged gzip body": (
        "gzip or deflate",
        _of_body(lambda body: gzip.compress(body)[:-20], "Content-Encoding: gzip\r\n"),
    ),
    "damaged br body": ("br encoding", _of_body(bytes.upper, "Content-Encoding: br\r\n")),
    "unknown encoding": ("unknown content encoding", _of_body(bytes, "Content-Encoding: zip\r\n")),
    "attributes": (
        "attributes in one tag",
        _of_body(lambda body: b"<p %s>" % b" ".join(b"a%d" % k for k in range(5000)), ""),
    ),
    "nested": ("nested div", _of_body(lambda body: b"<div>" * 5000 + body, "")),
    "tags": ("tags, more than", _of_body(lambda body: b"<br>" * 500_001, "")),
    "damaged member": ("damaged gzip member", _damaged),
    "member cut off": (
        "gzip member",
        lambda sound: gzip.compress(sound, mtime=0)[: len(sound) // 5],
    ),
    "member without record": ("expected WARC/1", lambda sound: b"lorem ipsum " * 20),
}
"""Ways to spoil a record: a part of the reason in the quarantine, and the function that does it."""


def members(count: int, hostile: int, paragraphs: int = 20) -> Iterator[tuple[bytes, str]]:
    """Yield the members of an archive and, for those of hostile records, their kinds.

    Args:
        count: Pages, those that are spoilt included; one in ten has a request and a revisit, too.
        hostile: Of them spoilt, spread evenly, each kind in turn.
        paragraphs: Of each page.
    """
    kinds = list(HOSTILE)
    spoilt = 0
    yield gzip.compress(OTHERS["warcinfo"], mtime=0), ""
    for number in range(count):
        sound = response(number, page(number, paragraphs).encode())
        if (number + 1) * hostile // count > spoilt:
            kind = kinds[spoilt % len(kinds)]
            made = HOSTILE[kind][1](sound)
            spoilt += 1
            yield made if made[:2] == b"\x1f\x8b" else gzip.compress(made, mtime=0), kind
        else:
            yield gzip.compress(sound, 6, mtime=0), ""
        if number % 10 == 0:
            yield gzip.compress(OTHERS["request"], mtime=0), ""
            yield gzip.compress(OTHERS["revisit"], mtime=0), ""
