"""Read the bytes of an input file, local or remote, plain or compressed, whole or in pieces.

A zstd file with many frames can be divided at them (:mod:`penstock.pipeline.reading.frames`). A
stream without random access (gzip, a single zstd frame, a JSON array) is decompressed once by one
task, which writes it to scratch as files of whole lines (:func:`cut_out`); many tasks then read
those like any other file. This costs a second copy of the text at zstd level 1 (a third to a
quarter of its size) while the corpus is made, and one pass at the speed of one core.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from penstock.errors import InputError
from penstock.pipeline.reading.frames import MAGIC, SKIPPABLE, explain_zstd
from penstock.pipeline.reading.gunzip import gunzip
from penstock.pipeline.reading.records import Span
from penstock.pipeline.reading.unchanged import open_input, open_local
from penstock.storage import AnyPath, atomic_file

__all__ = [
    "EXPANSION",
    "blocks",
    "compression_of",
    "cut_out",
    "open_bytes",
    "readable",
]

EXPANSION = 4
"""Bytes of text for each compressed byte, where a file has no count: 3.0 to 4.5 in web text."""

_BLOCK = 4 << 20

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}

_MAGICS = {
    "gzip": (b"\x1f\x8b",),
    "zstd": tuple(magic.to_bytes(4, "little") for magic in (MAGIC, *SKIPPABLE)),
    "bzip2": (b"BZh",),
    "xz": (b"\xfd7zXZ",),
    "lz4": (b"\x04\x22\x4d\x18",),
    "zip": (b"PK\x03\x04",),
}
"""The first bytes of compressed files."""

_HEAD = 6


def compression_of(where: AnyPath | PurePath) -> str | None:
    """Return the compression by the ending of a file's name, or None."""
    return _COMPRESSIONS.get(where.suffix.lower())


def open_bytes(where: AnyPath) -> pa.NativeFile:
    """Open a file for Arrow, which reads ranges of it."""
    if not isinstance(where, Path):
        return pa.PythonFile(open_input(where), mode="r")
    with open_local(where) as name:
        return pa.OSFile(name)


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
    with readable(where, "file"), open_bytes(where) as file:
        size = file.size()
        end = size if end is None else end
        if compression and not start:
            _check_magic(where, file.read_at(_HEAD, 0), compression)
        stream = file.get_stream(start, max(0, end - start))
        if compression == "gzip":
            yield from gunzip(where, stream, _BLOCK)
        elif compression and start < size:
            yield from _unzstd(where, stream, start)
        else:
            while block := stream.read(_BLOCK):
                yield block


def _check_magic(where: AnyPath, head: bytes, compression: str) -> None:
    """Check that a compressed file begins as one."""
    if not head:
        raise InputError(
            f"0 bytes, which is no {compression} file", file=where, fix="fetch it again"
        )
    if any(head.startswith(magic) or magic.startswith(head) for magic in _MAGICS[compression]):
        return
    others = (name for name, magics in _MAGICS.items() if head.startswith(magics))
    raise InputError(
        file=where,
        expected=f"a {compression} file",
        got=next(others, f"one that begins with {head!r}"),
        fix="rename it after what it is: a file that is not compressed ends in .jsonl or .txt",
    )


def _unzstd(where: AnyPath, stream: Any, start: int) -> Iterator[bytes]:
    """Yield the content of zstd frames, the first of which is ``start`` bytes into the file."""
    count = 0
    stream = pa.CompressedInputStream(stream, "zstd")
    try:
        while block := stream.read(_BLOCK):
            count += len(block)
            yield block
    except OSError as error:
        if error.errno is not None:  # the disk or the network, not the bytes
            raise
        after = f"after {count:,} decompressed bytes" if count else "within the first 4 MiB of text"
        begin = f" from byte {start:,}" if start else ""
        raise explain_zstd(where, start) or InputError(
            f"truncated or damaged {after}{begin} ({error})",
            file=where,
            fix="fetch the file again, or compress again what can be read",
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


def cut_out(
    where: AnyPath, content: Iterable[bytes], root: AnyPath, directory: str, size: int
) -> list[Span]:
    """Cut a file of lines into files of about ``size`` bytes that end where a line ends.

    A piece that an earlier attempt finished is not written again.

    Args:
        where: The file.
        content: Its lines, in parts of any size.
        root: Directory that holds ``directory``.
        directory: Relative to ``root``.
        size: Decompressed bytes after which a piece ends with its line.

    Returns:
        A span for each piece, in order; its ``file`` is relative to ``root``.
    """
    spans: list[Span] = []
    piece: _PieceWriter | None = None
    rows = done = 0
    name = where.stem if compression_of(where) else where.name
    ending = PurePath(name).suffix  # a piece is read like the file that it is cut from
    with contextlib.ExitStack() as stack:
        for block in content:
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
