"""Decompress gzip files: any number of members, with zeros between and behind them.

Tapes and block devices leave zeros behind the last member. ``gzip`` and Python's ``gzip`` read such
files; Arrow's stream refuses them. This loop knows the byte at which a file is damaged. zlib-ng
inflates 2.4 times as fast as zlib, which Arrow has, and refuses what zlib refuses (docs/lab.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from zlib_ng import zlib_ng as zlib

from penstock.errors import InputError
from penstock.storage import AnyPath

__all__ = ["gunzip"]

_READ = 1 << 20
"""Compressed bytes that are read at a time."""

_FIRST_STEP = 1 << 10
"""Compressed bytes of a member that zlib gets first, then twice as many each time: it copies what
it does not need, which would take quadratic time in a file of many small members."""

_GZIP = 16 + zlib.MAX_WBITS

_zeros = re.compile(rb"\0*").match


def gunzip(where: AnyPath, stream: Any, block: int) -> Iterator[bytes]:
    """Yield the content of a gzip file (RFC 1952), about ``block`` bytes at a time.

    Args:
        where: The file, for messages.
        stream: Its bytes, with a method ``read(size)``.
        block: Bytes to yield at a time; twice as many are held.

    Raises:
        InputError: The file is truncated or damaged, or something else follows a member.
    """
    member: Any = None
    begin = read = count = size = 0
    step = _FIRST_STEP
    found: list[bytes] = []
    while data := stream.read(_READ):
        at = 0
        while at < len(data):
            if member is None:
                at = _zeros(data, at).end()  # type: ignore[union-attr]
                member, begin, step = zlib.decompressobj(_GZIP), read + at, _FIRST_STEP
            part = data[at : at + step]
            try:
                text = member.decompress(part, block)
            except zlib.error as error:
                raise _damaged(where, begin, count, str(error)) from None
            at += len(part) - len(member.unused_data or member.unconsumed_tail)
            step = min(2 * step, _READ)
            count += len(text)
            size += len(text)
            found.append(text)
            if member.eof:
                member = None
            if size >= block:
                yield b"".join(found)
                found, size = [], 0
        read += len(data)
    if member is not None and read > begin:
        raise _damaged(where, begin, count, "the file ends")
    if size:
        yield b"".join(found)


def _damaged(where: AnyPath, begin: int, count: int, problem: str) -> InputError:
    """Make the error of the gzip member at byte ``begin``, after ``count`` bytes of text in all."""
    if begin and "header" in problem:
        return InputError(
            f"the bytes after the gzip member that ends at byte {begin:,} are no member",
            file=where,
            fix=f"fetch the file again, or cut it there: head -c {begin}",
        )
    return InputError(
        f"truncated or damaged: {problem} in the gzip member at byte {begin:,}, after {count:,} "
        "bytes of text",
        file=where,
        fix="fetch the file again, or compress again what can be read",
    )
