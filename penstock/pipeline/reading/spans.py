"""Spans: parts of an input file that can be read by themselves, each about as large as a unit.

The unit of a span's ``start`` and ``end`` depends on the format: bytes of a file of lines,
compressed bytes at frame boundaries, row groups, record batches, or rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Extent", "Span", "gathered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From ``start`` up to but not including ``end``; the whole input by default."""

    start: int = 0
    end: int | None = None
    size: int = 0
    """Bytes when uncompressed, or an estimate of them."""
    rows: int = 0
    """Lines or rows of the input before it."""
    bytes: int = 0
    """Decompressed bytes of the input before it; 0 where rows are counted."""
    counted: bool = True
    """True if ``rows`` and ``bytes`` are known: lines before a span are counted by reading."""
    file: str = ""
    """The file that this part was written to, where the input has no random access."""

    def place(self, noun: str, number: int) -> str:
        """Name the position of record ``number``, counted over the whole input: ``line 17``."""
        return f"{noun} {number}" if self.counted else f"{noun} {number} after byte {self.start:,}"


@dataclass(slots=True)
class Extent:
    """Counts of a span of lines, as it is read."""

    lines: int = 0
    bytes: int = 0


def gathered(parts: Iterable[Span], size: int) -> Iterator[Span]:
    """Merge neighbouring spans up to ``size`` uncompressed bytes; a larger one stays alone."""
    held: Span | None = None
    for part in parts:
        if held is not None and held.size + part.size <= size:
            held = Span(
                start=held.start,
                end=part.end,
                size=held.size + part.size,
                rows=held.rows,
                counted=held.counted,
            )
            continue
        if held is not None:
            yield held
        held = part
    if held is not None:
        yield held
