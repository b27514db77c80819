"""Read JSON lines as batches, without Python objects of the texts.

A compiled loop copies the text of each line into an Arrow buffer. The rest of the line, with a mark
in place of the text, goes to msgspec, which decides what is JSON. Where the decoded object has the
mark as its text, the line is a document: so the loop saw the member that counts, the last of equal
names, and the line is JSON if the text is, which the loop has checked. Any other line is decoded
whole by msgspec: one that is not JSON, that has no text, or whose text the loop left alone.

The mark is drawn anew in each process, so no line can hold it but by guessing 64 bits.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from penstock.arrow_text import read_only
from penstock.errors import InputError
from penstock.pipeline.reading.batches import BATCH_ROWS, Batches, ParsedBatch, batch_of
from penstock.pipeline.reading.lines import Line, Lines, lines_of, long_line, unmarked
from penstock.pipeline.reading.records import (
    Bad,
    Extent,
    Record,
    Span,
    labels_of,
    record_of,
)
from penstock.pipeline.reading.scanning import BLANK, find_texts
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["json_lines"]

_ENOUGH_WITHOUT_TEXT = 10
"""Records without the text field at a file's beginning that are taken for a wrong recipe."""

_decode = msgspec.json.Decoder().decode
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_MARK = secrets.token_hex(8)
_QUOTED = f'"{_MARK}"'.encode()


def json_lines(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read a JSON object from each line; blank lines are skipped.

    Raises:
        InputError: The file is damaged, or no object at its beginning has the text field.
    """
    reader = _LineParser(spec, span, cap, extent)
    for lines in lines_of(where, span, cap, extent):
        if isinstance(lines, Line):
            yield reader.long(lines.start, lines.length, lines.joined())
        else:
            yield from reader.batches(lines)
    reader.check(where)


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
        self._places = np.empty((BATCH_ROWS, 4), np.int64)
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
            texts = np.empty(lines.stop - at, np.uint8)
            offsets = np.empty(BATCH_ROWS + 1, np.int64)
            count, at = find_texts(
                data, at, lines.stop, self._cap, self._key, self._places, texts, offsets
            )
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(texts)]
            found = pa.Array.from_buffers(pa.large_string(), count, buffers)
            batch = self._batch(lines, self._places[:count].tolist(), found)
            if len(batch.documents) or batch.bad:
                yield batch

    def long(self, start: int, length: int, head: bytes) -> ParsedBatch:
        """Return a long line as a batch."""
        self._extent.lines += 1
        self._others = True
        number = self._span.rows + self._extent.lines
        bad = long_line(start, length, head, number, self._span, self._cap)
        return batch_of(pa.array([], pa.large_string()), [], [], [bad])

    def check(self, where: AnyPath) -> None:
        """Refuse a file all of whose records lack the text field, if they are enough to tell."""
        if self._begins and not self._others and self._without_text >= _ENOUGH_WITHOUT_TEXT:
            raise InputError(
                file=where,
                expected=f"a field {self._spec.text!r} (corpus.text)",
                got=f"{', '.join(map(repr, self._fields))} in the last of the first "
                f"{self._without_text:,} records, and none with it",
            )

    def _batch(self, lines: Lines, places: list[list[int]], texts: pa.Array) -> ParsedBatch:
        """Make a batch of lines.

        Args:
            lines: Holds their bytes.
            places: Of each line, as :func:`find_texts` gives them.
            texts: (lines,) large_string: the texts that were found.
        """
        data, text = lines.data, self._spec.text
        before = self._span.rows + self._extent.lines
        self._extent.lines += len(places)
        labels: list[tuple[str | None, str, str]] = []
        rows: list[int] = []
        numbers: list[int] = []
        decoded: list[str] = []
        bad: list[Bad] = []
        for row, (begin, first, end, stop) in enumerate(places):
            if first >= 0:
                try:
                    fields = _decode(data[begin:first] + _QUOTED + data[end:stop])
                    if type(fields) is dict and fields.pop(text, None) == _MARK:
                        labels.append(labels_of(fields, self._spec))
                        rows.append(row)
                        numbers.append(before + row + 1)
                        continue
                except (*_ERRORS, UnicodeEncodeError):
                    pass  # the whole line gives the error
            elif first == BLANK:
                continue
            record = self._record(lines, begin, stop, before + row + 1)
            if isinstance(record, Bad):
                bad.append(record)
            elif record is not None:
                labels.append((record.id, record.source, record.meta))
                rows.append(len(places) + len(decoded))
                numbers.append(record.number)
                decoded.append(record.text)
        self._others |= bool(rows)
        if decoded:
            texts = pa.concat_arrays([texts, pa.array(decoded, pa.large_string())])
        if len(rows) < len(texts):
            texts = texts.take(pa.array(rows, pa.int64()))
        return batch_of(texts, labels, numbers, bad)

    def _record(self, lines: Lines, begin: int, stop: int, number: int) -> Record | Bad | None:
        """Decode a whole line; None where it is blank."""
        line = lines.data[begin:stop]
        if len(line) > self._cap:
            self._others = True
            start = lines.position + begin
            return long_line(start, len(line), line, number, self._span, self._cap)
        text = unmarked(number, line) if self._begins else line
        if not text or text.isspace():
            return None
        place = self._span.place("line", number)
        try:
            fields = _decode(text)
        except _ERRORS as error:
            self._others = True
            return Bad(place, f"not JSON in UTF-8: {error}", line, number)
        if isinstance(fields, dict) and self._spec.text not in fields:
            self._without_text += 1
            self._fields = fields
            return Bad(place, f"expected text in {self._spec.text!r}, got nothing", line, number)
        self._others = True
        if isinstance(fields, dict):
            return record_of(fields, self._spec, self._span, "line", number, line)
        came = type(fields).__name__
        return Bad(place, f"expected an object, got {came}", line, number)
