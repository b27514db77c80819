"""Read JSON lines as batches, without Python objects of the texts.

A compiled loop copies the text of each line into an Arrow buffer, and the rest of the line, with a
mark in place of the text, into another. msgspec decides what is JSON: it decodes the rests of a
batch in one call. Where as many objects come out as lines went in, each with its own mark as text,
every line is a document: the loop saw the member that counts, the last of equal names, and the
line is JSON if its text is, which the loop has checked. Otherwise each half of the lines is tried.
A line that fails alone, or whose text the loop left alone, is decoded whole by msgspec, whose error
it gets.

The marks are drawn anew in each process, so no line has one but by guessing 64 bits. A line begins
with a brace and holds one mark, so an object cannot reach into the next line and keep the count:
the mark of that line would not be the text of an object of its own.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from penstock.arrow_text import read_only
from penstock.errors import InputError
from penstock.pipeline.reading.arrays import content_of
from penstock.pipeline.reading.batches import (
    BATCH_ROWS,
    Batches,
    ParsedBatch,
    batch_of,
    gathered,
    merged,
)
from penstock.pipeline.reading.lines import Line, Lines, lines_of, long_line, unmarked
from penstock.pipeline.reading.records import (
    Bad,
    Extent,
    Record,
    Span,
    as_id,
    labels_of,
    record_of,
)
from penstock.pipeline.reading.scanning import (
    BLANK,
    FOUND,
    UNKNOWN,
    Copies,
    find_member,
    find_texts,
)
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["json_lines"]

_ENOUGH_WITHOUT_TEXT = 10
"""Records without the text field at a file's beginning that are taken for a wrong recipe."""

_decode = msgspec.json.Decoder().decode
_decode_lines = msgspec.json.Decoder().decode_lines
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_SECRET = secrets.token_hex(8)
_TEXTS = [f"{_SECRET}{row:03x}" for row in range(BATCH_ROWS)]
_MARKS = read_only(
    np.frombuffer("".join(f'"{text}"' for text in _TEXTS).encode(), np.uint8).reshape(
        BATCH_ROWS, -1
    )
)
"""What stands for the text in the rest of a line, by the number of the text in its batch."""


def json_lines(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read a JSON object from each line, or from each element of arrays; blank lines are skipped.

    Raises:
        InputError: The file is damaged, or no object at its beginning has the text field.
    """
    content = None if span.start or span.file else content_of(where, span.end)
    elements = content.elements if content else span.elements
    extent.noun = "element" if elements else "line"
    reader = _LineParser(spec, span, cap, extent)
    for lines in lines_of(where, span, cap, extent, content and content.blocks):
        if isinstance(lines, Line):
            yield reader.long(lines.start, lines.length, lines.joined())
        else:
            yield from reader.batches(lines)
    reader.check(where)


_LENIENT = 1 << 20
"""Bytes of a line up to which Python's decoder is asked for its id: it takes NaN and halves of
surrogate pairs, and holds a line in up to fifty times its bytes."""


def _id_of(line: bytes, name: str) -> str | None:
    """Find the id in a line that is not JSON, or is too long to be decoded; None without one."""
    raw = unmarked(line)
    if len(raw) <= _LENIENT:
        try:
            fields = json.loads(raw.decode("utf-8", "backslashreplace"), strict=False)
            return as_id(fields.get(name)) if isinstance(fields, dict) else None
        except (ValueError, RecursionError):
            pass
    data = np.frombuffer(raw + b"\n", np.uint8)
    key = np.frombuffer(name.encode("utf-8", "replace"), np.uint8)
    begin, end = find_member(read_only(data), read_only(key))
    whole = raw[begin : begin + 1] == b'"' or raw[end : end + 1] in (b",", b"}")
    if begin < 0 or end - begin > _LENIENT or not whole:
        return None
    try:
        return as_id(json.loads(raw[begin:end].decode("utf-8", "backslashreplace"), strict=False))
    except (ValueError, RecursionError):
        return None


class _LineParser:
    """Parses the lines of one span.

    Args:
        spec: Names the fields of text, id and source.
        span: The span.
        cap: Most bytes of a line.
        extent: Its ``lines`` are counted.
    """

    def __init__(self, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> None:
        self._spec = spec
        self._span = span
        self._cap = cap
        self._extent = extent
        self._begins = not (span.start or span.rows)
        self._key = read_only(np.frombuffer(spec.text.encode("utf-8", "replace"), np.uint8))
        self._places = np.empty((BATCH_ROWS, 3), np.int64)
        self._without_text = 0
        """Records without the text field, while there are no others."""
        self._others = False
        self._fields: dict[str, Any] = {}
        """The fields of the last record without text."""

    def batches(self, lines: Lines) -> Batches:
        """Yield the records of whole lines."""
        data = read_only(np.frombuffer(lines.data, np.uint8))
        at = lines.start
        while at < lines.stop:
            room = lines.stop - at
            texts = Copies(np.empty(room, np.uint8), np.empty(BATCH_ROWS + 1, np.int64))
            room += BATCH_ROWS * _MARKS.shape[1]
            rests = Copies(np.empty(room, np.uint8), np.empty(BATCH_ROWS + 1, np.int64))
            count, found, at = find_texts(
                *(data, at, lines.stop, self._cap, self._key, _MARKS, self._places, texts, rests)
            )
            buffers = [None, pa.py_buffer(texts.ends), pa.py_buffer(texts.data)]
            own = pa.Array.from_buffers(pa.large_string(), found, buffers)
            batch = self._batch(lines, self._places[:count], own, rests)
            if len(batch.documents) or batch.bad:
                yield batch

    def long(self, start: int, length: int, head: bytes) -> ParsedBatch:
        """Return a long line as a batch."""
        self._extent.lines += 1
        self._others = True
        number = self._span.rows + self._extent.lines
        return gathered([self._long_line(start, length, head, number)])

    def _long_line(self, start: int, length: int, head: bytes, number: int) -> Bad:
        bad = long_line(start, length, head, number, self._span, self._cap, self._extent.noun)
        return replace(bad, id=_id_of(bad.raw, self._spec.id))

    def check(self, where: AnyPath) -> None:
        """Refuse a file all of whose records lack the text field, if they are enough to tell."""
        if self._begins and not self._others and self._without_text >= _ENOUGH_WITHOUT_TEXT:
            raise InputError(
                file=where,
                expected=f"a field {self._spec.text!r} (corpus.text)",
                got=f"{', '.join(map(repr, self._fields))} in the last of the first "
                f"{self._without_text:,} records, and none with it",
            )

    def _batch(
        self, lines: Lines, places: np.ndarray, texts: pa.Array, rests: Copies
    ) -> ParsedBatch:
        """Make a batch of the lines at ``places``, and of what :func:`find_texts` copied."""
        before = self._span.rows + self._extent.lines + 1
        self._extent.lines += len(places)
        fields = self._fields_of(rests, 0, len(texts))
        good = np.array([one is not None for one in fields], np.bool_)
        found = np.flatnonzero(places[:, 2] == FOUND)
        try:
            labels = labels_of([one for one in fields if one is not None], self._spec)
            own = texts if good.all() else texts.filter(pa.array(good))
            made = batch_of(own, labels, found[good] + before)
            left = np.union1d(found[~good], np.flatnonzero(places[:, 2] == UNKNOWN))
        except (RecursionError, UnicodeEncodeError):  # which line it is comes out one by one
            made = gathered([])
            left = np.flatnonzero(places[:, 2] != BLANK)
        self._others |= len(made.documents) > 0
        decoded = [
            self._record(lines, int(places[row, 0]), int(places[row, 1]), before + row)
            for row in left.tolist()
        ]
        return merged(made, [record for record in decoded if record is not None])

    def _fields_of(self, rests: Copies, begin: int, end: int) -> list[dict[str, Any] | None]:
        """Decode the rests of lines; None for a line that has to be decoded whole."""
        if begin == end:
            return []
        try:
            part = rests.data[rests.ends[begin] : rests.ends[end]]
            fields = _decode_lines(part.data)
            if set(map(type, fields)) == {dict}:
                marks = [own.pop(self._spec.text, None) for own in fields]
                if marks == _TEXTS[begin:end]:
                    return fields
        except _ERRORS:
            pass
        if end - begin == 1:
            return [None]
        half = (begin + end) // 2
        return self._fields_of(rests, begin, half) + self._fields_of(rests, half, end)

    def _record(self, lines: Lines, begin: int, stop: int, number: int) -> Record | Bad | None:
        """Decode a whole line; None where it is blank."""
        line = lines.data[begin:stop]
        if len(line) > self._cap:
            self._others = True
            return self._long_line(lines.position + begin, len(line), line, number)
        text = unmarked(line)
        if not text or text.isspace():
            return None
        noun = self._extent.noun
        place = self._span.place(noun, number)
        try:
            fields = _decode(text)
        except _ERRORS as error:
            self._others = True
            own = _id_of(line, self._spec.id)
            return Bad(place, f"not JSON in UTF-8: {error}", line, number, own)
        if isinstance(fields, dict) and self._spec.text not in fields:
            self._without_text += 1
            self._fields = fields
        else:
            self._others = True
        if isinstance(fields, dict):
            return record_of(fields, self._spec, self._span, noun, number, line)
        came = type(fields).__name__
        return Bad(place, f"expected an object, got {came}", line, number)
