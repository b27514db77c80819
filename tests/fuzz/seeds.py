"""Small sound files of each format."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["ROWS", "compressed", "csv", "html", "json_lines", "tables", "warc", "written"]

ROWS = [
    {
        "id": "a",
        "text": "One line\nand another, of words.",
        "source": "web",
        "n": 1,
        "d": {"e": []},
    },
    {"id": 2, "text": "zwei: é 日本 \u202e x", "extra": [1, None, True, 1.5e-3], "source": "b"},
    {"text": "three \\ \" ' , ; \t", "language": "en"},
    {"text": "mail me at a@b.example or +49 30 1234567; key sk-abc", "deep": [[[[{"a": {}}]]]]},
]


def json_lines() -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def csv(separator: str) -> bytes:
    lines = [["id", "text", "source"], ["1", '"a ""quoted"", text\nof lines"', "s"], ["2", "b", ""]]
    return "\r\n".join(separator.join(line) for line in lines).encode() + b"\r\n"


def html() -> bytes:
    body = "<p>A paragraph &amp; <b>bold</b> words of it.</p><ul><li>one<li>two</ul>"
    table = "<table><tr><td>1<td>2</table><script>var a = '<p>';</script><!-- no -->"
    page = f"<!doctype html><html><head><title>T</title></head><body>{body}{table}</body></html>"
    return page.encode()


def warc(kind: str = "response") -> bytes:
    page = b"<html><body><p>Some words of a page, and more of them.</p></body></html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (page[:20], page[20:]))
    bodies = [
        head + b"Content-Length: %d\r\n\r\n" % len(page) + page,
        head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked + b"0\r\n\r\n",
        head + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(page, mtime=0),
    ]
    if kind == "conversion":
        bodies = [b"Plain text of a page.\nTwo lines.", b"Another one."]
    records = []
    for number, body in enumerate(bodies):
        media = b"text/plain" if kind == "conversion" else b"application/http; msgtype=response"
        records.append(
            b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Record-ID: <urn:uuid:%d>\r\n"
            b"WARC-Target-URI: http://a.example/%d\r\nContent-Type: %s\r\n"
            b"Content-Length: %d\r\n\r\n%s\r\n\r\n"
            % (kind.encode(), number, number, media, len(body), body)
        )
    return b"".join(records)


def compressed(content: bytes) -> dict[str, bytes]:
    """The content, by the ending of its name: plain, two members of gzip, two frames of zstd."""
    half = len(content) // 2
    parts = content[:half], content[half:]
    codec = pa.Codec("zstd")
    return {
        "": content,
        ".gz": b"".join(gzip.compress(part, mtime=0) for part in parts),
        ".zst": b"".join(codec.compress(part, asbytes=True) for part in parts),
    }


def tables() -> dict[str, list[bytes]]:
    """Files of Arrow and Parquet: plain, dictionary and nested columns, views, nulls."""
    texts = ["one", "zwei é", "", "x" * 40, "one"]
    columns: list[dict[str, pa.Array]] = [
        {"text": pa.array(texts), "id": pa.array(range(5))},
        {"text": pa.array(texts).dictionary_encode(), "id": pa.array(list("abcde"))},
        {"text": pa.array(texts, pa.large_string()), "m": pa.array([[1], None, [], [2, 3], [4]])},
        {
            "text": pa.array([*texts[:4], None]),
            "s": pa.array([{"a": i, "b": "x"} for i in range(5)]),
        },
        {"text": pa.array(texts, pa.string_view()), "l": pa.array([b"a"] * 5, pa.binary())},
    ]
    made: dict[str, list[bytes]] = {"arrow": [], "parquet": []}
    for own in columns:
        table = pa.table(own)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
        made["arrow"].append(bytes(sink.getvalue()))
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        made["arrow"].append(bytes(stream.getvalue()))
        if pa.types.is_string_view(table.schema.field("text").type):
            continue
        for settings in ({"compression": "zstd"}, {"compression": "none", "version": "1.0"}):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, row_group_size=3, **settings)
            made["parquet"].append(bytes(sink.getvalue()))
    return made


def written(write: Callable[[Path], object], paths: Iterable[Path]) -> list[bytes]:
    """Return the files that a function writes."""
    found = []
    for path in paths:
        write(path)
        found.append(path.read_bytes())
    return found
