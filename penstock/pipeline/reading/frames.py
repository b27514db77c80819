"""The frames of a zstd file, found without decompressing them.

A zstd file that was written in parallel or for random access (pzstd, the seekable format,
concatenated files) has many frames, each of which can be decompressed alone. Block headers give
the lengths (RFC 8878, section 3.1), so :func:`frames_of` reads 3 bytes for each 128 KiB of text:
50 GB in seconds on a disk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from penstock.errors import InputError
from penstock.pipeline.reading.unchanged import open_input
from penstock.storage import AnyPath

__all__ = ["MAGIC", "MOST_WINDOW", "SKIPPABLE", "Frame", "explain_zstd", "frames_in", "frames_of"]

MOST_WINDOW = 128 << 20
"""Bytes of text that a decoder holds of a frame, at most: those of ``zstd --long=27``."""

MAGIC = 0xFD2FB528
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_BLOCK_HEADER = 3
_RLE, _RESERVED = 1, 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its byte range in the file, and what its header says."""

    start: int
    end: int
    content: int | None
    """Decompressed bytes, where the header has them."""
    window: int
    """Decompressed bytes that a decoder has to hold."""
    dictionary: int
    """The id of the dictionary that it was compressed with; 0 without one."""


def frames_of(where: AnyPath, start: int = 0) -> Iterator[Frame]:
    """Yield the frames from ``start`` on, in order, without skippable ones, which hold no content.

    Raises:
        InputError: There is no frame where one should begin, or the file ends inside one.
    """
    with open_input(where) as file:
        yield from frames_in(file, where, start)


def frames_in(file: Any, where: AnyPath | str, start: int = 0) -> Iterator[Frame]:
    """Yield the frames of an open file, as :func:`frames_of`; ``where`` is for messages."""
    size = file.seek(0, 2)
    while start < size:
        file.seek(start)
        magic = _number(file, 4)
        if magic in SKIPPABLE:
            end = start + 8 + _number(file, 4)
        elif magic == MAGIC:
            frame = _scan(file, start, where)
            end = frame.end
        else:
            raise InputError(
                f"no zstd frame at byte {start:,}", file=where, fix="fetch the file again"
            )
        if end > size:
            raise InputError("ends inside a zstd frame", file=where, fix="fetch the file again")
        if magic == MAGIC:
            yield frame
        start = end


def _scan(file: Any, start: int, where: AnyPath | str) -> Frame:
    """Read the header of the frame at ``start``, and find its end by the headers of its blocks."""
    descriptor = _number(file, 1)
    single = descriptor >> 5 & 1
    exponent, eighths = divmod(0 if single else _number(file, 1), 8)
    names = (0, 1, 2, 4)[descriptor & 3]
    dictionary = _number(file, names)
    width = (single, 2, 4, 8)[descriptor >> 6]
    content = _number(file, width) + (256 if width == 2 else 0) if width else None
    window = content if single else (8 + eighths) << (7 + exponent)
    position = start + 6 - single + names + width
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
            end = position + 4 * (descriptor >> 2 & 1)
            return Frame(start, end, content, window or 0, dictionary)


def _number(file: Any, width: int) -> int:
    return int.from_bytes(file.read(width), "little")


def explain_zstd(where: AnyPath, start: int) -> InputError | None:
    """Find out why a file cannot be decompressed from ``start`` on, by its frames; None: unknown.

    Returns:
        The error of :func:`frames_of`, or that a frame needs a larger window than is held in
        memory, or a dictionary.
    """
    try:
        for frame in frames_of(where, start):
            at = f"the frame at byte {frame.start:,}"
            if frame.window > MOST_WINDOW:
                log = (frame.window - 1).bit_length()
                return InputError(
                    f"{at} needs a window of {frame.window:,} bytes, more than the "
                    f"{MOST_WINDOW:,} that are held in memory",
                    file=where,
                    fix=f"compress it again: zstd -d --long={log} -c {where.name} | zstd -o NEW",
                )
            if frame.dictionary:
                return InputError(
                    f"{at} was compressed with the dictionary {frame.dictionary}",
                    file=where,
                    fix=f"compress it again: zstd -d -D DICTIONARY -c {where.name} | zstd -o NEW",
                )
    except InputError as error:
        return error
    return None
