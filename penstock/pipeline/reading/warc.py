"""Read web archives: WARC 1.0 and 1.1 (ISO 28500) and WET, texts of pages in the same format.

Documents are the pages of records of type ``response``, ``resource`` and ``conversion``. Records of
other types and content that is neither a page nor plain text are counted
(:attr:`~penstock.pipeline.reading.records.Extent.others`). Every other record is a :class:`Bad`
with the reason and its first 64 KiB, and the file is read on.

The length of a record is believed only where another record, or the end, follows. Otherwise the
record ends where a member of the file begins with ``WARC/``, or another header begins, which may be
inside of its own header where that is cut off. Headers inside of bad records are looked at four
times the size of the file and 16 MiB in all, and passed over after that: the cost is linear.
FastWARC 2.0.1 returns the records that follow a length that is too large as part of its page, and a
page that is cut off as if it were whole.

A file is read by one task: bytes that look like the beginning of a member may be content, so where
members begin is known only from the beginning of the file on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from zlib_ng import zlib_ng as zlib

from penstock.pipeline.reading.batches import Batches, Row, gather_rows
from penstock.pipeline.reading.members import Part, parts_of
from penstock.pipeline.reading.messages import agrees, fields_of
from penstock.pipeline.reading.records import HEAD, Bad, Extent, Span, too_long
from penstock.pipeline.reading.streams import compression_of
from penstock.pipeline.reading.web_pages import PageReader
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["RawRecord", "raw_records", "warc"]

_MAX_HEADER = 64 << 10

_WARC = b"WARC/"
_BEGIN = re.compile(rb"WARC/1\.\d\r?\n[A-Za-z-]{1,40}:")
_BEGIN_BYTES = 50
"""Most bytes of a match, less one."""
_GZIP = b"\x1f\x8b"
_BETWEEN = b"\r\n\r\n"
_NEXT = _BETWEEN + _WARC
_CR = 13
_line_ends = re.compile(rb"[\r\n]*").match

_AGAIN_TIMES, _AGAIN_PLUS = 4, 16 << 20
"""Bytes of bad records that may be looked at in vain: this many times those before, and more."""


def warc(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read the pages of an archive.

    A page's id is its WARC-Record-ID, else its URL. ``meta`` has ``url``, ``date``,
    ``content_type``, ``charset``, ``language``, ``status`` and ``truncated``, where given, and
    ``replaced``, the number of characters that could not be decoded.
    """
    return gather_rows(_pages(where, spec, cap, extent), spec, span, "record")


def _pages(where: AnyPath, spec: CorpusSource, cap: int, extent: Extent) -> Iterator[Row | Bad]:
    reader = PageReader(spec, cap, extent)
    at = "byte" if compression_of(where) is None else "member at byte"
    for number, raw in enumerate(raw_records(where, cap, extent), 1):
        extent.lines = number
        error, data = raw.error, raw.data
        if not error:
            found = reader.row(raw.fields, data, number)
            if not isinstance(found, str):
                if found is not None:
                    yield found
                continue
            head = b"".join(b"%s: %s\r\n" % field for field in raw.fields.items())
            error, data = found, (head + b"\r\n" + data[:HEAD])[:HEAD]
        place = f"record {number}, {at} {raw.offset:,}"
        name = reader.id_of(raw.fields)
        if raw.claimed:
            yield too_long(place, raw.claimed, cap, "record", data, number, name)
        else:
            yield Bad(place, error, data, number, name)


class RawRecord(NamedTuple):
    """A record of an archive, or bytes that are none."""

    offset: int
    """Of its member in a compressed file, of itself in a plain one."""
    data: bytes
    """Its block; with an error the first 64 KiB of header and block."""
    fields: dict[bytes, bytes]
    """Of its header, names in lower case; none where it cannot be read."""
    error: str = ""
    claimed: int = 0
    """Its Content-Length where that is over the cap."""


def raw_records(where: AnyPath, cap: int, extent: Extent) -> Iterator[RawRecord]:
    """Divide a file into records.

    Args:
        where: The file.
        cap: Most bytes of a block that is held.
        extent: Its ``bytes`` are counted.
    """
    return _Framer(cap, extent, compression_of(where) is None).records(parts_of(where, _WARC))


def _is_cut_off(header: bytes) -> bool:
    """Return whether another record begins inside of a header: it is cut off there.

    A value may end with ``WARC/1.0``, as that of a URL may. Fields behind it are others then than
    those before it; the fields of another record are the same.
    """
    found = _BEGIN.search(header, 1)
    if found is None:
        return False
    before = header[: found.start()]
    line = before[before.rfind(b"\n") + 1 :]
    if b":" not in line:
        return True
    return not fields_of(before).keys().isdisjoint(fields_of(header[found.start() :]))


def _is_proved(fields: dict[bytes, bytes], block: bytes) -> bool:
    """Return whether a block has a digest, and it agrees."""
    given = fields.get(b"warc-block-digest")
    return given is not None and agrees(given, block)


def _header_end(held: bytes, begin: int) -> tuple[int, int]:
    """Find an empty line; returns where the header that begins at ``begin`` ends, and its block
    begins; twice -1 where neither is within the most bytes of a header.

    Lines end with CRLF or LF. ``find`` takes a fifth of the time of a regular expression.
    """
    end = held.find(b"\n\r\n", begin, begin + _MAX_HEADER)
    start = end + 3
    bare = held.find(b"\n\n", begin, begin + _MAX_HEADER if end < 0 else end + 1)
    if bare >= 0:
        end, start = bare, bare + 2
    if end < 0:
        return -1, -1
    return end - (end > begin and held[end - 1] == _CR), start


def _fields_in(held: bytes) -> dict[bytes, bytes]:
    """Return the fields of the record that begins ``held``; none where its header is cut off."""
    end, _ = _header_end(held, 0) if held.startswith(_WARC) else (-1, -1)
    header = held[: max(0, end)]
    return {} if _is_cut_off(header) else fields_of(header)


def _decompressed(held: bytes) -> bytes:
    """Return the first bytes of a damaged member, where it is one of gzip."""
    if not held.startswith(_GZIP):
        return held
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(held[:HEAD], _MAX_HEADER)
    except zlib.error:
        return b""


class _Framer:
    """Divides parts into records."""

    def __init__(self, cap: int, extent: Extent, plain: bool) -> None:
        self._cap = cap
        self._extent = extent
        self._plain = plain
        self._held = b""
        self._at = 0
        """Where the next record begins in ``_held``."""
        self._more: list[bytes] = []
        """What follows ``_held``."""
        self._size = 0
        """Bytes in both."""
        self._need = 0
        """Bytes from which on it makes sense to look again."""
        self._offset = 0
        """Of the member; in a plain file, of ``_held``."""
        self._bad: RawRecord | None = None
        """The bad record that is passed over."""
        self._head = b""
        """Its first bytes."""
        self._done = 0
        """Bytes before ``_held``."""
        self._again = 0
        """Bytes that were looked at in vain."""

    def records(self, parts: Iterator[Part]) -> Iterator[RawRecord]:
        member = 0
        for part in parts:
            self._extent.bytes += len(part.data)
            ended = part.begins and part.data.startswith(_WARC)
            ended |= bool(part.error) and part.offset != member
            if ended and (self._size > self._at or self._bad is not None):
                yield from self._cut(True)
            member = part.offset
            if not self._plain and self._size == self._at and self._bad is None:
                self._offset = part.offset
            if not part.error or self._size == self._at:  # what was decompressed tells more
                self._more.append(part.data)
                self._size += len(part.data)
            if part.error:
                yield self._damaged(part)
            elif self._size - self._at >= self._need:
                yield from self._cut(False)
        yield from self._cut(True)

    def _damaged(self, part: Part) -> RawRecord:
        """Take all that is held for one bad record."""
        self._join()
        bad = self._bad
        if bad is None:
            fields = _fields_in(_decompressed(self._held))
            bad = RawRecord(self._place(self._at), b"", fields)
        error = f"{bad.error}; {part.error}" if bad.error else part.error
        self._step_over(self._size)
        return self._closed(bad._replace(error=error))

    def _place(self, at: int) -> int:
        return self._offset + at if self._plain else self._offset

    def _join(self) -> None:
        if self._plain:
            self._offset += self._at
        self._done += self._at
        rest = [memoryview(self._held)[self._at :]] if self._at < len(self._held) else []
        self._held = b"".join([*rest, *self._more])
        self._at, self._more, self._size, self._need = 0, [], len(self._held), 0

    def _cut(self, ends: bool) -> Iterator[RawRecord]:
        """Yield the records that are held whole; with ``ends`` what is held is all."""
        self._join()
        while True:
            if self._bad is not None:
                if not self._pass_over(ends):
                    return
                yield self._closed(self._bad)
            self._at = _line_ends(self._held, self._at).end()  # type: ignore[union-attr]
            if self._at == self._size:
                return
            found = self._next(ends)
            if found is None:
                return
            if found.error:
                self._bad = found
            else:
                yield found

    def _pass_over(self, ends: bool) -> bool:
        """Go to the end of a bad record; returns False where it is not held."""
        found = _BEGIN.search(self._held, self._at + (not self._head))
        if found:
            self._step_over(found.start())
        else:
            self._step_over(self._size if ends else max(self._at, self._size - _BEGIN_BYTES))
        return ends or found is not None

    def _step_over(self, end: int) -> None:
        """Go to ``end``, and keep the first bytes on the way."""
        self._head += self._held[self._at : min(end, self._at + HEAD - len(self._head))]
        self._at = end

    def _closed(self, bad: RawRecord) -> RawRecord:
        head, self._head, self._bad = self._head, b"", None
        return bad._replace(data=head)

    def _may_look_again(self, size: int) -> bool:
        """Count bytes that were looked at and may be again; returns False where it is too many."""
        self._again += size
        return self._again <= _AGAIN_TIMES * (self._done + self._at) + _AGAIN_PLUS

    def _refuse(
        self,
        error: str,
        header: int = 0,
        claimed: int = 0,
        fields: dict[bytes, bytes] | None = None,
    ) -> RawRecord:
        """Make a bad record; the next may begin in its header, of so many bytes."""
        bad = RawRecord(self._place(self._at), b"", fields or {}, error, claimed)
        if not self._may_look_again(header):
            self._step_over(self._at + header)
        return bad

    def _next(self, ends: bool) -> RawRecord | None:
        """Return the record that begins here; None where more bytes are needed."""
        held, begin = self._held, self._at
        if not held.startswith(_WARC, begin):
            if not ends and len(held) - begin < len(_WARC):
                return None
            return self._refuse("expected WARC/1, where a record begins")
        end, start = _header_end(held, begin)
        if end >= 0:
            header = held[begin:end]
            if _is_cut_off(header):
                return self._refuse("ends inside its header", len(header))
            return self._block(fields_of(header), begin, start, ends)
        size = len(held) - begin
        if size >= _MAX_HEADER:
            return self._refuse(f"a header of more than {_MAX_HEADER:,} bytes", _MAX_HEADER)
        return self._refuse("ends inside its header", size) if ends else None

    def _block(
        self, fields: dict[bytes, bytes], begin: int, start: int, ends: bool
    ) -> RawRecord | None:
        """Return the record whose block begins at ``start``."""
        held = self._held
        given = fields.get(b"content-length")
        if given is None or not given.isdigit() or len(given) > 18:
            came = "nothing" if given is None else repr(given[:40].decode("latin-1"))
            return self._refuse(f"expected a Content-Length, got {came}", start - begin, 0, fields)
        length = int(given)
        if length > self._cap:
            return self._refuse("too long", start - begin, length, fields)
        end = start + length
        after = held[end : end + len(_NEXT)]
        if after in (_NEXT, _BETWEEN):  # the usual; others are decided below
            self._at = end + len(_BETWEEN)
            return RawRecord(self._place(begin), held[start:end], fields)
        if not ends and len(after) < len(_NEXT):
            self._need = end - begin + len(_NEXT)
            return None
        follows = after.lstrip(_BETWEEN)
        if len(held) < end:
            error = f"ends after {len(held) - start:,} of the {length:,} bytes"
        elif follows[: len(_WARC)] != _WARC[: len(follows)] and not (
            after.startswith(_BETWEEN)
            and self._may_look_again(length)
            and _is_proved(fields, held[start:end])
        ):
            error = f"no record follows the {length:,} bytes"
        else:
            self._at = end
            return RawRecord(self._place(begin), held[start:end], fields)
        return self._refuse(f"{error} of its Content-Length", start - begin, 0, fields)
