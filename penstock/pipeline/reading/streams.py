"""Read the bytes of an input file, local or remote, plain or compressed, whole or in pieces.

A zstd file that was written in parallel or for random access (pzstd, the seekable format,
concatenated files) has many frames, each of which can be decompressed alone. :func:`frames_of`
finds them without decompressing (RFC 8878, section 3.1): block headers give the lengths, so it
reads 3 bytes for each 128 KiB of text: 50 GB in seconds on a disk.

A stream without random access (gzip, a single zstd frame) is decompressed once by one task, which
writes it to scratch as files of whole lines (:func:`cut_out`); many tasks then read those like any
other file. This costs a second copy of the text at zstd level 1 (a third to a quarter of its size)
while the corpus is made, and one pass at the speed of one core.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from penstock.errors import InputError
from penstock.pipeline.reading.records import Span
from penstock.storage import (
    AnyPath,
    atomic_file,
    store_of,
)

__all__ = [
    "EXPANSION",
    "Frame",
    "blocks",
    "compression_of",
    "cut_out",
    "frames_of",
    "open_bytes",
    "readable",
]

EXPANSION = 4
"""Bytes of text for each compressed byte, where a file has no count: 3.0 to 4.5 in web text."""

_BLOCK = 4 << 20

_FIRST = "the first 4 MiB of text"

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def compression_of(where: AnyPath | PurePath) -> str | None:
    """Return the compression by the ending of a file's name, or None."""
    return _COMPRESSIONS.get(where.suffix.lower())


def open_bytes(where: AnyPath) -> pa.NativeFile:
    """Open a file for Arrow, which reads ranges of it."""
    here = store_of(where).local(where)
    return (
        pa.PythonFile(where.open("rb"), mode="r") if here is None else pa.OSFile(os.fsencode(here))
    )


def blocks(where: AnyPath, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the decompressed bytes from ``start`` to ``end`` of a file, about 4 MiB at a time.

    Args:
        where: The file; the ending of its name gives the compression.
        start: Offset in the file, in bytes; in a compressed file, the beginning of a frame.
        end: Likewise; the end of the file by default.

    Raises:
        InputError: A compressed file is truncated or damaged.
    """
    compression = compression_of(where)
    count = 0
    with readable(where, "file"), open_bytes(where) as file:
        size = file.size()
        if compression and not size:
            raise InputError(
                f"0 bytes, which is no {compression} file", file=where, fix="fetch it again"
            )
        stream = file.get_stream(start, max(0, (size if end is None else end) - start))
        if start < size and compression:
            stream = pa.CompressedInputStream(stream, compression)
        try:
            while block := stream.read(_BLOCK):
                count += len(block)
                yield block
        except OSError as error:
            if error.errno is not None:  # the disk or the network, not the bytes
                raise
            after = f"after {count:,} decompressed bytes" if count else f"within {_FIRST}"
            begin = f" from byte {start:,}" if start else ""
            raise InputError(
                f"truncated or damaged {after}{begin} ({error})",
                file=where,
                fix="fetch the file again, or recompress the part that can be read",
            ) from None


@contextlib.contextmanager
def readable(where: AnyPath | str, kind: str) -> Iterator[None]:
    """Turn errors of opening and of Arrow into InputError with the file's path."""
    try:
        yield
    except FileNotFoundError:
        raise InputError("no such file", file=where) from None
    except PermissionError:
        raise InputError("permission denied", file=where, fix="make it readable") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"not a readable {kind}, or damaged: {error}",
            file=where,
            fix="fetch or write it again",
        ) from None


_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_BLOCK_HEADER = 3
_RLE, _RESERVED = 1, 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its byte range in the file and, where its header has it, its size of content."""

    start: int
    end: int
    content: int | None


def frames_of(where: AnyPath) -> Iterator[Frame]:
    """Yield the frames of a file in order, without skippable ones, which hold no content.

    Raises:
        InputError: There is no frame where one should begin, or the file ends inside one.
    """
    with where.open("rb") as file:
        size = file.seek(0, 2)
        start = 0
        while start < size:
            file.seek(start)
            magic = _number(file, 4)
            if magic in _SKIPPABLE:
                start += 8 + _number(file, 4)
                continue
            if magic != _MAGIC:
                raise InputError(
                    f"no zstd frame at byte {start:,}", file=where, fix="fetch the file again"
                )
            end, content = _scan(file, start, where)
            if end > size:
                raise InputError("ends inside a zstd frame", file=where, fix="fetch the file again")
            yield Frame(start, end, content)
            start = end


def _scan(file: Any, start: int, where: AnyPath) -> tuple[int, int | None]:
    """Find the end of the frame at ``start``, and the size of its content if the header has it."""
    descriptor = _number(file, 1)
    single = descriptor >> 5 & 1
    window = 1 - single
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    file.seek(window + dictionary, 1)
    content = _number(file, width) + (256 if width == 2 else 0) if width else None
    position = start + 5 + window + dictionary + width
    while True:
        file.seek(position)
        raw = file.read(_BLOCK_HEADER)
        header = int.from_bytes(raw, "little")
        kind, length = header >> 1 & 3, header >> 3
        if len(raw) < _BLOCK_HEADER or kind == _RESERVED:
            raise InputError(
                f"truncated or damaged at byte {position:,}",
                file=where,
                fix="fetch the file again",
            )
        position += _BLOCK_HEADER + (1 if kind == _RLE else length)
        if header & 1:
            return position + 4 * (descriptor >> 2 & 1), content


def _number(file: Any, width: int) -> int:
    return int.from_bytes(file.read(width), "little")


def cut_out(where: AnyPath, root: AnyPath, directory: str, size: int) -> list[Span]:
    """Cut a file of lines into files of about ``size`` bytes that end where a line ends.

    A piece that an earlier attempt finished is not written again.

    Args:
        where: The compressed file.
        root: Directory that holds ``directory``.
        directory: Relative to ``root``.
        size: Decompressed bytes after which a piece ends with its line.

    Returns:
        A span for each piece, in order; its ``file`` is relative to ``root``.
    """
    spans: list[Span] = []
    piece: _PieceWriter | None = None
    rows = done = 0
    ending = PurePath(where.stem).suffix  # a piece is read like the file that it is cut from
    with contextlib.ExitStack() as stack:
        for block in blocks(where):
            view = memoryview(block)
            while view:
                if piece is None:
                    name = f"{directory}/{len(spans):05d}{ending}.zst"
                    piece = stack.enter_context(_PieceWriter(root, name))
                end = _end(block, len(block) - len(view), size - piece.bytes)
                taken = view[: (end or len(block)) - (len(block) - len(view))]
                piece.write(taken)
                view = view[len(taken) :]
                if end is not None:
                    stack.close()
                    spans.append(piece.span(rows, done))
                    rows, done, piece = rows + piece.lines, done + piece.bytes, None
    return spans if piece is None else [*spans, piece.span(rows, done)]


def _end(block: bytes, start: int, room: int) -> int | None:
    """Find where in ``block`` the piece at ``start`` ends: after the line feed that fills it."""
    if start + room > len(block):
        return None
    found = block.find(b"\n", max(start, start + room - 1))
    return None if found < 0 else found + 1


class _PieceWriter:
    """Counts the bytes and lines of a piece, and writes it unless an earlier attempt has."""

    def __init__(self, root: AnyPath, name: str) -> None:
        self._place = root / name
        self._name = name
        self._stack = contextlib.ExitStack()
        self._stream: Any = None
        self.bytes = self.lines = 0

    def __enter__(self) -> _PieceWriter:
        if not self._place.exists():
            target = pa.PythonFile(self._stack.enter_context(atomic_file(self._place)), mode="w")
            self._stream = self._stack.enter_context(pa.CompressedOutputStream(target, "zstd"))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, data: memoryview) -> None:
        self.bytes += len(data)
        self.lines += bytes(data).count(b"\n")
        if self._stream is not None:
            self._stream.write(data)

    def span(self, rows: int, done: int) -> Span:
        return Span(size=self.bytes, rows=rows, bytes=done, file=self._name)
