"""Find the frames of a Zstandard file without decompressing it (RFC 8878, section 3.1).

A file that was written in parallel or for random access (pzstd, the seekable format, concatenated
files) has many frames, each of which can be decompressed alone. Block headers give the lengths,
so the scan reads 3 bytes for each 128 KiB of text: 50 GB in seconds on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from penstock.errors import InputError
from penstock.storage import AnyPath

__all__ = ["Frame", "frames_of"]

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
