"""Read files of lines, from any byte on and in bounded memory; plain text.

A span owns the lines that follow a line feed inside it, and the file's first line where it begins
the file. So a line that crosses the end of its span is read to its end, and a line that begins
exactly at the end belongs to the span before. No span needs the byte in front of it, which cannot
be read in a compressed frame. A line over the cap is counted and not held in memory.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from penstock.pipeline.reading.batches import Batches, gather
from penstock.pipeline.reading.records import (
    HEAD,
    Bad,
    Extent,
    Record,
    Records,
    Span,
    labels_of,
    too_long,
    undecodable,
)
from penstock.pipeline.reading.streams import blocks
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = [
    "Line",
    "Lines",
    "content_of_file",
    "decoded",
    "lines_of",
    "long_line",
    "plain_text",
    "unmarked",
]


_marks = re.compile(rb"(?:%b)*" % codecs.BOM_UTF8).match


class Lines(NamedTuple):
    """Whole lines, each with its line feed; the last line of a file gets one."""

    data: bytes
    """Bytes that hold the lines, from ``start`` up to but not including ``stop``."""
    start: int
    stop: int
    position: int
    """Decompressed bytes of the span before ``data``."""


class Line:
    """A line that crosses blocks: its bytes, or once it is over the cap its first 64 KiB."""

    __slots__ = ("_cap", "_held", "_parts", "length", "start")

    def __init__(self, start: int, cap: int) -> None:
        self.start = start
        """Decompressed bytes of the span before it."""
        self.length = 0
        self._cap = cap
        self._held = max(cap, HEAD)
        self._parts: list[bytes] = []

    def add(self, part: bytes) -> None:
        """Append bytes."""
        if self.length <= self._held:
            self._parts.append(part)
            if self.length + len(part) > self._held:
                self._parts = [b"".join(self._parts)[:HEAD]]
        self.length += len(part)

    @property
    def long(self) -> bool:
        """True if it is over the cap."""
        return self.length > self._cap

    def joined(self) -> bytes:
        """Return the line, or its first 64 KiB where it is long."""
        return b"".join(self._parts)

    def ended(self) -> Lines | Line:
        """Return itself where it is long, and its bytes otherwise."""
        if self.long:
            return self
        parts, self._parts = self._parts, []  # so that a document is not held twice
        return Lines(b"".join([*parts, b"\n"]), 0, self.length + 1, self.start)


def lines_of(
    where: AnyPath,
    span: Span,
    cap: int,
    extent: Extent,
    content: Iterable[bytes] | None = None,
) -> Iterator[Lines | Line]:
    """Yield the lines that a span owns; a :class:`Line` where it is long and crosses blocks.

    Lines within a block may be over the cap. ``extent`` gets the bytes of the span; the caller
    counts its lines. ``content`` is the text of the span, where it is open already.
    """
    first = not span.start
    line = Line(0, cap)
    for block in blocks(where, span.start, span.end) if content is None else content:
        position = extent.bytes
        extent.bytes += len(block)
        stop = block.rfind(b"\n") + 1
        if not stop:
            if first:
                line.add(block)
            continue
        begin = 0
        if not first or line.length:
            begin = block.index(b"\n") + 1
            if first:
                line.add(block[: begin - 1])
                yield line.ended()
            first = True
        if begin < stop:
            yield Lines(block, begin, stop, position)
        line = Line(position + stop, cap)
        line.add(block[stop:])
    if not first:
        return
    for block in blocks(where, span.end) if span.end is not None else ():
        part, feed, _ = block.partition(b"\n")
        line.add(part)
        if feed:
            yield line.ended()
            return
    if line.length:
        yield line.ended()


def unmarked(raw: bytes) -> bytes:
    """Remove the byte order marks that begin a line: files are concatenated with theirs."""
    marks = _marks(raw)
    return raw[marks.end() :] if marks else raw


def decoded(raw: bytes, spec: CorpusSource) -> str:
    """Decode a text, without the byte order marks that begin one in UTF-8.

    Raises:
        UnicodeDecodeError: It is not of the item's encoding.
    """
    return (unmarked(raw) if spec.encoding == "utf-8" else raw).decode(spec.encoding)


def long_line(
    start: int, length: int, head: bytes, number: int, span: Span, cap: int, noun: str = "line"
) -> Bad:
    """Make the bad record of a line over the cap that begins ``start`` bytes after the span."""
    place = f"{span.place(noun, number)}, from byte {span.bytes + start:,}"
    return too_long(place, length, cap, noun, head[:HEAD], number)


def plain_text(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read each line, or the whole file, as a document."""
    read = _each_line if spec.per == "line" else _whole
    return gather(read(where, spec, span, cap, extent))


def _each_line(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Records:
    for lines in lines_of(where, span, cap, extent):
        if isinstance(lines, Line):
            extent.lines += 1
            number = span.rows + extent.lines
            yield long_line(lines.start, lines.length, lines.joined(), number, span, cap)
            continue
        start = lines.start
        for text in lines.data[start : lines.stop - 1].split(b"\n"):
            extent.lines += 1
            number = span.rows + extent.lines
            if len(text) > cap:
                yield long_line(lines.position + start, len(text), text, number, span, cap)
            else:
                yield _document(text, spec, span.place("line", number), number)
            start += len(text) + 1


def _whole(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Records:
    content = content_of_file(where, cap, extent)
    yield content if isinstance(content, Bad) else _document(content, spec, "file", 1)


def content_of_file(where: AnyPath, cap: int, extent: Extent) -> bytes | Bad:
    """Read a file that is one document; return a bad record if it is over the cap."""
    content = Line(0, cap)
    extent.lines = 1
    for block in blocks(where):
        content.add(block)
        extent.bytes += len(block)
    if content.long:
        return too_long("file", content.length, cap, "file", content.joined(), 1)
    return content.joined()


def _document(text: bytes, spec: CorpusSource, place: str, number: int) -> Record | Bad:
    (source,), (meta,) = labels_of([{}], spec)[1:]
    try:
        content = decoded(text, spec)
    except UnicodeDecodeError as error:
        return Bad(place, f"{undecodable(spec.encoding, text)} ({error})", text, number)
    return Record(content.removesuffix("\r"), None, source, (meta or b"").decode(), number)
