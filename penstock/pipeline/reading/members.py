"""Read a file whose compressed members are independent, as web archives are, past damaged members.

A gzip file may be a sequence of members, a zstd file a sequence of frames (called members here,
too). Web archives have one for each record, so a damaged one costs one record. A member up to 4 MiB
is decompressed to its end, and its checksum compared, before any of its bytes are used.

After a damaged gzip member the next one is looked for from the byte behind its beginning: a member
that was cut off runs into the one that follows. Such searches inflate bytes again, four times
the size of the file and 16 MiB in all; after that they begin where the damage was noticed. So the
cost is linear for any content.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

from zlib_ng import zlib_ng as zlib

from penstock.errors import InputError
from penstock.pipeline.reading.frames import MOST_WINDOW, frames_of
from penstock.pipeline.reading.streams import compression_of, readable
from penstock.pipeline.reading.unchanged import open_input
from penstock.storage import AnyPath

__all__ = ["Part", "parts_of"]

_CHUNK = 64 << 10
_LEAST = 256
"""Compressed bytes that the inflater gets at a time, at least, where more are left of a chunk: each
time costs about a microsecond."""
_MAGIC = b"\x1f\x8b\x08"
_HELD = 4 << 20
"""Bytes of a part, about; a member with more is several parts."""

_AGAIN_TIMES, _AGAIN_PLUS = 4, 16 << 20
"""Bytes that searches may inflate in vain: this many times the file, and these more."""

_GZIP = re.compile(rb"\x1f\x8b\x08[\x00-\x1f].{5}[\x00-\x1f\xff]", re.DOTALL)
"""Ten bytes that a member begins with (RFC 1952); the last is the operating system."""

_BEGINNING = 4 << 10
"""Bytes of a candidate that are inflated to see whether a member begins as wanted."""


class Part(NamedTuple):
    """Decompressed bytes of a member, all of them or some."""

    data: bytes
    offset: int
    """The byte of the file at which the member begins."""
    begins: bool
    """True for the first part of a member."""
    error: str = ""
    """The damage of the member; ``data`` is then its first bytes as they are in the file."""


def parts_of(where: AnyPath, prefix: bytes) -> Iterator[Part]:
    """Yield the parts of a file in order; a plain file is one member.

    Args:
        where: The file; the ending of its name gives the compression.
        prefix: First bytes of what a member holds, by which one is found after damage.

    Raises:
        InputError: The file cannot be opened.
    """
    compression = compression_of(where)
    with readable(where, "file"), open_input(where) as file:
        if compression == "gzip":
            yield from _gzip(_ByteFeed(file), prefix)
        elif compression == "zstd":
            yield from _zstd(file, where)
        else:
            begins = True
            while data := file.read(_HELD):
                yield Part(data, 0, begins)
                begins = False


class _ByteFeed:
    """The bytes of a file from a position that can be moved."""

    def __init__(self, file: Any) -> None:
        self.size = file.seek(0, 2)
        self.position = file.seek(0)
        self._file = file
        self._chunk = b""
        self._at = 0

    def read(self, of_member: bool = False) -> bytes:
        """Return the next bytes, up to 64 KiB; none at the end.

        Args:
            of_member: End where another member seems to begin: the inflater copies what it does
                not need.
        """
        if self._at == len(self._chunk):
            self._chunk, self._at = self._file.read(_CHUNK), 0
        begin = self._at
        end = self._chunk.find(_MAGIC, begin + _LEAST) if of_member else -1
        self._at = len(self._chunk) if end < 0 else end
        self.position += self._at - begin
        return self._chunk[begin : self._at]

    def unread(self, count: int) -> None:
        """Give back the last bytes of what was read last."""
        self._at -= count
        self.position -= count

    def seek(self, position: int) -> None:
        self._chunk, self._at = b"", 0
        self.position = self._file.seek(position)


def _gzip(feed: _ByteFeed, prefix: bytes) -> Iterator[Part]:
    again = 0
    if not feed.size:
        yield Part(b"", 0, True, "0 bytes, which is no gzip file")
    while feed.position < feed.size:
        start = feed.position
        error = yield from _member(feed)
        if not error:
            continue
        again += feed.position - start
        if again <= _AGAIN_TIMES * feed.size + _AGAIN_PLUS:
            feed.seek(start + 1)
        _seek_member(feed, prefix)
        end = feed.position
        feed.seek(start)
        yield Part(feed.read()[: end - start], start, False, error)
        feed.seek(end)


def _member(feed: _ByteFeed) -> Generator[Part, None, str]:
    """Yield the parts of the member at the feed's position; returns its damage."""
    start = feed.position
    begins = True
    inflater = zlib.decompressobj(31)
    held: list[bytes] = []
    size = 0
    chunk = feed.read(True)
    if start and chunk[:1] == b"\0":  # zeros behind a member pad a file to a multiple of a block
        feed.unread(len(chunk.lstrip(b"\0")))
        return ""
    while not inflater.eof:
        if not chunk:
            return "the file ends inside a gzip member"
        try:
            data = inflater.decompress(chunk, _HELD)
        except zlib.error:
            return "damaged gzip member"
        held.append(data)
        size += len(data)
        if size >= _HELD:
            yield Part(b"".join(held), start, begins)
            held, size, begins = [], 0, False
        chunk = inflater.unconsumed_tail or (b"" if inflater.eof else feed.read(True))
    if held or begins:
        yield Part(b"".join(held), start, begins)
    feed.unread(len(inflater.unused_data))
    return ""


def _seek_member(feed: _ByteFeed, prefix: bytes) -> None:
    """Move to the next member that begins with ``prefix``, or to the end of the file."""
    data = b""
    while chunk := feed.read():
        data += chunk
        base = feed.position - len(data)
        last = feed.position >= feed.size
        stop = len(data) if last else len(data) - _BEGINNING
        at = 0
        while (found := _GZIP.search(data, at)) and found.start() < stop:
            at = found.start()
            if _inflates_to(data[at : at + _BEGINNING], prefix):
                feed.seek(base + at)
                return
            at += 1
        data = data[max(0, stop) :]


def _inflates_to(data: bytes, prefix: bytes) -> bool:
    try:
        return zlib.decompressobj(31).decompress(data, len(prefix)) == prefix
    except zlib.error:
        return False


def _zstd(file: Any, where: AnyPath) -> Iterator[Part]:
    """Yield the parts of each frame; headers of blocks give its end, whatever its content is."""
    import zstandard

    reader: Callable[..., Any] = zstandard.ZstdDecompressor(
        max_window_size=MOST_WINDOW
    ).stream_reader
    end = 0
    try:
        for frame in frames_of(where):
            end, begins, size = frame.end, True, frame.end - frame.start
            file.seek(frame.start)
            if frame.window > MOST_WINDOW:
                problem = (
                    f"a zstd frame with a window of {frame.window:,} bytes, more than the "
                    f"{MOST_WINDOW:,} that are held in memory; compress it again without --long"
                )
                yield Part(_FrameSource(file, size).read(_CHUNK), frame.start, begins, problem)
                continue
            source = _FrameSource(file, size)
            try:
                with reader(source, read_across_frames=False, closefd=False) as stream:
                    while data := stream.read(_HELD):
                        yield Part(data, frame.start, begins)
                        begins = False
            except zstandard.ZstdError as error:
                file.seek(frame.start)
                head = _FrameSource(file, size).read(_CHUNK)
                yield Part(head, frame.start, begins, f"damaged zstd frame ({error})")
    except InputError as error:
        file.seek(end)
        yield Part(file.read(_CHUNK), end, True, f"{error.problem}; the rest cannot be read")


class _FrameSource:
    """Bytes of a file from its position on, as a source that ends after ``length``."""

    def __init__(self, file: Any, length: int) -> None:
        self._file = file
        self._left = length

    def read(self, size: int) -> bytes:
        data: bytes = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data
