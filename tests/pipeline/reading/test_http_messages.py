"""Shortcuts of the reader of web archives, against plain definitions."""

from __future__ import annotations

import json
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.pipeline.reading.batches import Row, gather_rows
from penstock.pipeline.reading.messages import decode_text, encodings_of, fields_of, is_utf8
from penstock.pipeline.reading.records import Bad, Span
from penstock.pipeline.reading.warc import _header_end
from penstock.recipe import CorpusSource

LINES = st.lists(
    st.sampled_from([b"\n", b"\r\n", b" ", b"\t", b":", b": ", b"a", b"Content-Type", b"gzip\r\n",
                     b"\r\ncontent-encoding", b"\nTRANSFER-ENCODING", b"chunked", b"\r", b"\v"]),
    max_size=25,
).map(b"".join)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(LINES)
def test_the_fields_of_encodings_are_those_of_all_fields(head: bytes) -> None:
    for name in (b"content-type", b"content-encoding", b"transfer-encoding"):
        assert encodings_of(head).get(name) == fields_of(head).get(name)


@settings(max_examples=150, deadline=None)
@given(LINES, st.integers(0, 8))
def test_a_header_ends_at_the_first_empty_line(held: bytes, begin: int) -> None:
    found = re.compile(rb"\r?\n\r?\n").search(held, begin)
    assert _header_end(held, begin) == (found.span() if found else (-1, -1))


@settings(max_examples=150, deadline=None)
@given(st.one_of(
    st.binary(max_size=20),
    st.text(max_size=20).map(str.encode),
    st.lists(st.sampled_from([b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\x80", b"\xe2\x82\xac",
                              b"\xf0\x9f\x98\x80", b"\xff\xfe", b"\xef\xbb\xbf", b"a", b"\0",
                              b"\x1b", b"\x80" ]), max_size=4).map(b"".join),
))  # fmt: skip
def test_utf8_that_is_left_as_it_is(body: bytes) -> None:
    """Surrogates, codes over U+10FFFF and long forms are none; marks and escapes are decided."""
    try:
        valid = body.decode() is not None and not any(mark in body for mark in (b"\0", b"\x1b"))
    except UnicodeDecodeError:
        valid = False
    valid &= body[:1] not in (b"\xef", b"\xff", b"\xfe")
    assert is_utf8(body) == valid
    if valid:
        assert decode_text(body, "", False) == (body.decode(), "utf-8", 0)


def test_a_row_that_is_no_text_costs_itself() -> None:
    rows = [
        Row(b"a\xc3\xa4", {"id": "1", "url": "u"}, 1),
        Bad("record 2", "damaged", b"x", 2),
        Row("lone \ud800", {"id": "3"}, 3),
        Row("b", {"id": "4", "status": 200}, 4),
    ]
    (batch,) = gather_rows(rows, CorpusSource(path="x", source={"name": "s"}), Span(), "record")
    assert [batch.document(row).text for row in range(2)] == ["aä", "b"]
    assert [batch.document(row).id for row in range(2)] == ["1", "4"]
    assert json.loads(batch.document(1).meta) == {"status": 200}
    assert [(bad.number, bad.id) for bad in batch.bad] == [(2, None), (3, "3")]
    assert "not Unicode" in batch.bad[1].error and batch.bad[1].place == "record 3"
