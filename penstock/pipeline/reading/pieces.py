"""Cut a compressed stream without random access (gzip, a single zstd frame) into files of lines.

One task decompresses the stream once and writes it to scratch as files of whole lines, which many
tasks then read like any other file. This costs a second copy of the text at zstd level 1 (a third
to a quarter of its size) while the corpus is made, and one pass at the speed of one core.
"""

from __future__ import annotations

import contextlib
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from penstock.pipeline.reading.spans import Span
from penstock.pipeline.reading.streams import blocks
from penstock.storage import AnyPath, atomic_file

__all__ = ["cut_out"]


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
            sink = self._stack.enter_context(atomic_file(self._place))
            target = pa.PythonFile(sink, mode="w")
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
