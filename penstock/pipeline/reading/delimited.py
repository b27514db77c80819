"""Read CSV and TSV by Python's ``csv``: a header, then a document for each row.

Fields in quotes may hold line feeds, so that a file cannot be divided and is read by one task, at
the speed of ``csv``. Where a quote is not closed within the cap, or at all, its first line is bad
and reading goes on at the next. Lines are read again for this four times as often as the file has
bytes, and 16 MiB; after that all that a quote holds is one bad record. So the cost is linear.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter, deque
from collections.abc import Iterator

from penstock.display import shortened
from penstock.errors import InputError
from penstock.pipeline.reading.batches import Batches, gather
from penstock.pipeline.reading.records import (
    HEAD,
    Bad,
    Extent,
    Record,
    Records,
    Span,
    as_id,
    record_of,
    too_long,
    undecodable,
)
from penstock.pipeline.reading.streams import blocks
from penstock.pipeline.reading.tables import require_text
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["comma_separated", "tab_separated"]

_AGAIN_TIMES, _AGAIN_PLUS = 4, 16 << 20

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def comma_separated(
    where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent
) -> Batches:
    """Read rows of CSV (RFC 4180)."""
    return gather(_rows(where, spec, span, cap, extent, ","))


def tab_separated(
    where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent
) -> Batches:
    """Read rows of TSV; fields may be quoted as in CSV."""
    return gather(_rows(where, spec, span, cap, extent, "\t"))


class _TooLong(Exception):
    """A row is over the cap."""


class _RowFeed:
    """The lines of a file for ``csv``, which takes as many as a row has."""

    def __init__(self, lines: Iterator[str], cap: int, extent: Extent) -> None:
        self._lines = lines
        self._cap = cap
        self._extent = extent
        self._again: deque[str] = deque()
        self._reread = 0
        self._size = 0
        self.row: list[str] = []
        """Lines of the row."""
        self.ended = False
        """True where the file ended inside the row."""

    def __iter__(self) -> _RowFeed:
        return self

    def __next__(self) -> str:
        if self._again:
            line = self._again.popleft()
        else:
            try:
                line = next(self._lines)
            except StopIteration:
                self.ended = bool(self.row)
                raise
        self._extent.lines += 1
        self.row.append(line)
        self._size += len(line)
        if self._size > self._cap:
            raise _TooLong
        return line

    def begin(self) -> int:
        """Begin a row; returns the number of its first line."""
        self.row, self._size, self.ended = [], 0, False
        return self._extent.lines + 1

    @property
    def raw(self) -> bytes:
        """The row in UTF-8; bytes that are not of the encoding as they are."""
        return "".join(self.row).encode("utf-8", "surrogateescape")

    def retreat(self) -> None:
        """Go back to the second line of the row, unless too much was read again."""
        rest = self.row[1:]
        self._reread += sum(map(len, rest))
        if self._reread <= _AGAIN_TIMES * self._extent.bytes + _AGAIN_PLUS:
            self._again.extendleft(reversed(rest))
            self._extent.lines -= len(rest)
            del self.row[1:]

    def skip_line(self) -> int:
        """Pass over the rest of a line that is over the cap; returns its characters."""
        count = 0
        while not self._again and not self.row[-1].endswith(("\n", "\r")):
            part = next(self._lines, "\n")
            count += len(part)
            self.row = [part]
        return count


def _lines(where: AnyPath, encoding: str, cap: int, extent: Extent) -> Iterator[str]:
    """Yield lines with their ends, as a text file with ``newline=""``; one over the cap in parts.

    Bytes that are not of the encoding become lone surrogates (``surrogateescape``).
    """
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    mark = codecs.BOM_UTF8 if encoding == "utf-8" else b""
    tail = ""
    for block in blocks(where):
        begins = not extent.bytes
        if begins and block.startswith(_UTF16):
            raise InputError("UTF-16", file=where, expected="UTF-8", fix="convert it (iconv)")
        extent.bytes += len(block)
        tail += decoder.decode(block.removeprefix(mark) if begins else block)
        lines = io.StringIO(tail, newline="").readlines()
        # A carriage return at the end may be the first half of a line's end.
        tail = "" if not lines or lines[-1].endswith("\n") else lines.pop()
        yield from lines
        if len(tail) > cap:
            yield tail
            tail = ""
    tail += decoder.decode(b"", True)
    yield from io.StringIO(tail, newline="")


def _rows(
    where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent, delimiter: str
) -> Records:
    csv.field_size_limit(2**31 - 1)  # of the process; the cap bounds a field
    feed = _RowFeed(_lines(where, spec.encoding, cap, extent), cap, extent)
    reader = csv.reader(feed, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        number = feed.begin()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            name = _id_in(feed.row[0], header, spec, delimiter)
            bad = Bad(f"line {number}", str(error), feed.raw[:HEAD], number, name)
        except _TooLong:
            name = _id_in(feed.row[0], header, spec, delimiter)
            bad = _over_the_cap(feed, number, cap, name)
        else:
            if not feed.ended:
                if header is None and row:
                    header = _checked(where, spec, row)
                elif header is not None and row:
                    yield _record(row, header, spec, span, feed, number)
                continue
            name = _id_in(feed.row[0], header, spec, delimiter)
            feed.retreat()
            bad = Bad(f"line {number}", _UNCLOSED, feed.raw[:HEAD], number, name)
        if header is None:  # the next line would be taken for it
            raise InputError(
                f"no names of columns: {bad.error}", file=f"{where}:{number}", fix="write them anew"
            )
        yield bad


_UNCLOSED = "a quote begins in this line and is not closed"


def _id_in(line: str, header: list[str] | None, spec: CorpusSource, delimiter: str) -> str | None:
    """Return the id of a bad row, where a whole field in the beginning of its first line has it."""
    try:
        fields = next(csv.reader([line[:HEAD]], delimiter=delimiter), [])
    except csv.Error:
        return None
    return _id_of(fields[:-1], header, spec)  # the last may be cut


def _id_of(row: list[str], header: list[str] | None, spec: CorpusSource) -> str | None:
    """Return the id of a row of any number of fields, or None; none that is not UTF-8."""
    named = dict(zip(header or [], row)).get(spec.id)
    try:
        (named or "").encode()
    except UnicodeEncodeError:
        return None
    return as_id(named)


def _over_the_cap(feed: _RowFeed, number: int, cap: int, name: str | None) -> Bad:
    """Make the bad record of a row over the cap: of one line, or of a quote that is not closed."""
    if len(feed.row) > 1:
        feed.retreat()
        return Bad(f"line {number}", _UNCLOSED, feed.raw[:HEAD], number, name)
    head, size = feed.raw[:HEAD], len(feed.row[0])
    return too_long(f"line {number}", size + feed.skip_line(), cap, "line", head, number, name)


def _checked(where: AnyPath, spec: CorpusSource, names: list[str]) -> list[str]:
    """Return the names of columns.

    Raises:
        InputError: One is not of the encoding, two are equal, or ``corpus.text`` is none of them.
    """
    for name in names:
        if not _is_utf8(name):
            raise InputError(
                f"the name of a column is {undecodable(spec.encoding, _bytes_of(name))}: "
                f"{shortened([name])}",
                file=where,
                fix="name the encoding of the file, or convert it (iconv)",
            )
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(
                file=where,
                expected="columns of different names in the first line",
                got=f"{count} named {shortened([name])!r}",
                fix="rename one",
            )
    require_text(where, spec, names)
    return names


def _bytes_of(name: str) -> bytes:
    """Return the bytes of a name that was decoded with escapes for those of no character."""
    return name.encode("utf-8", "surrogateescape")


def _is_utf8(value: str) -> bool:
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def _record(
    row: list[str],
    header: list[str],
    spec: CorpusSource,
    span: Span,
    feed: _RowFeed,
    number: int,
) -> Record | Bad:
    place = f"line {number}"
    if len(row) != len(header):
        error = f"expected {len(header)} fields, as in the first line, got {len(row)}"
        return Bad(place, error, feed.raw[:HEAD], number, _id_of(row, header, spec))
    if not all(map(_is_utf8, row)):
        return Bad(
            place,
            undecodable(spec.encoding, feed.raw),
            feed.raw[:HEAD],
            number,
            _id_of(row, header, spec),
        )
    return record_of(dict(zip(header, row)), spec, span, "line", number, None)
