"""Read files of lines as records, from any byte on and in bounded memory.

A span owns the lines that follow a line feed inside it, and the file's first line where it begins
the file. So a line that crosses the end of its span is read to its end, and a line that begins
exactly at the end belongs to the span before. No span needs the byte in front of it, which cannot
be read in a compressed frame. A line over the cap is counted and not held in memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator

import msgspec

from penstock.errors import InputError
from penstock.pipeline.reading.records import (
    HEAD,
    Bad,
    Extent,
    Record,
    Records,
    Span,
    record_of,
    too_long,
)
from penstock.pipeline.reading.streams import blocks
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["json_lines", "plain_text"]

_ENOUGH_WITHOUT_TEXT = 10
"""Records without the text field at a file's beginning that are taken for a wrong recipe."""

_decode = msgspec.json.Decoder().decode


class _Line:
    """A line being read: its bytes, or its beginning and its length once it is over the cap."""

    __slots__ = ("_cap", "_parts", "length", "start")

    def __init__(self, start: int, cap: int) -> None:
        self.start = start
        self.length = 0
        self._cap = cap
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        if self.length <= self._cap:
            self._parts.append(part)
            if self.length + len(part) > self._cap:
                self._parts = [b"".join(self._parts)[:HEAD]]
        self.length += len(part)

    @property
    def long(self) -> bool:
        return self.length > self._cap

    def joined(self) -> bytes:
        """Return the line, or its first 64 KiB where it is long."""
        return b"".join(self._parts)


def _lines(
    inside: Iterator[bytes], beyond: Iterator[bytes], first: bool, cap: int, extent: Extent
) -> Iterator[bytes | _Line]:
    """Yield the lines that ``inside`` owns, without line feeds; a ``_Line`` where one is long."""
    line = _Line(0, cap)
    for block in inside:
        *ended, rest = block.split(b"\n")
        position = extent.bytes
        for part in ended:
            if line.length or not first or len(part) > cap:
                line.add(part)
                whole: bytes | _Line = line if line.long else line.joined()
                line = _Line(0, cap)
            else:
                whole = part
            position += len(part) + 1
            line.start = position
            if first:
                extent.lines += 1
                yield whole
            first = True
        if first:
            line.add(rest)
        extent.bytes += len(block)
    if not first:
        return
    for block in beyond:
        part, feed, _ = block.partition(b"\n")
        line.add(part)
        if feed:
            extent.lines += 1
            yield line if line.long else line.joined()
            return
    if line.length:
        extent.lines += 1
        yield line if line.long else line.joined()


def _lines_of(where: AnyPath, span: Span, cap: int, extent: Extent) -> Iterator[bytes | _Line]:
    beyond = blocks(where, span.end) if span.end is not None else iter(())
    return _lines(blocks(where, span.start, span.end), beyond, not span.start, cap, extent)


def _unmarked(number: int, raw: bytes) -> bytes:
    """Remove the byte order mark that may begin a file from its line or text number ``number``."""
    return raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _long_line(line: _Line, place: str, span: Span, cap: int) -> Bad:
    place = f"{place}, from byte {span.bytes + line.start:,}"
    return too_long(place, line.length, cap, "line", line.joined())


def json_lines(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Records:
    """Read a JSON object from each line; blank lines are skipped.

    Raises:
        InputError: The file is damaged, or no object at its beginning has the text field.
    """
    begins = not (span.start or span.rows)
    records = without_text = 0
    fields: object = None
    for line in _lines_of(where, span, cap, extent):
        number = span.rows + extent.lines
        if isinstance(line, _Line):
            records += 1
            yield _long_line(line, span.place("line", number), span, cap)
            continue
        text = _unmarked(number, line) if begins else line
        if not text or text.isspace():
            continue
        records += 1
        try:
            fields = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield Bad(span.place("line", number), f"not JSON in UTF-8: {error}", line)
            continue
        if not isinstance(fields, dict):
            came = type(fields).__name__
            yield Bad(span.place("line", number), f"expected an object, got {came}", line)
            continue
        if spec.text in fields:
            yield record_of(fields, spec, span, "line", number, line)
        else:
            without_text += 1
            last = fields
            yield Bad(
                span.place("line", number), f"expected text in {spec.text!r}, got nothing", line
            )
    if begins and records == without_text >= _ENOUGH_WITHOUT_TEXT:
        raise InputError(
            file=where,
            expected=f"a field {spec.text!r} (corpus.text)",
            got=f"{', '.join(map(repr, last))} in the last of the first {records:,} records, "
            "and none with it",
        )


def plain_text(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Records:
    """Read each line, or the whole file, as a document."""
    source = "unknown" if isinstance(spec.source, str) else spec.source.name
    begins = not (span.start or span.rows)
    by_line = spec.per == "line"
    for text in _lines_of(where, span, cap, extent) if by_line else _whole(where, cap, extent):
        number = span.rows + extent.lines
        place = span.place("line", number) if by_line else "file"
        if isinstance(text, _Line):
            yield (
                _long_line(text, place, span, cap)
                if by_line
                else too_long(place, text.length, cap, "file", text.joined())
            )
            continue
        try:
            decoded = (_unmarked(number, text) if begins else text).decode("utf-8")
            yield Record(decoded.removesuffix("\r"), None, source, "", number)
        except UnicodeDecodeError as error:
            yield Bad(place, str(error), text)


def _whole(where: AnyPath, cap: int, extent: Extent) -> Iterator[bytes | _Line]:
    text = _Line(0, cap)
    extent.lines = 1
    for block in blocks(where):
        text.add(block)
        extent.bytes += len(block)
    yield text if text.long else text.joined()
