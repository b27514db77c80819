"""Sizes that the metadata of an Arrow file claims, before Arrow acts on them.

Arrow allocates the decompressed size that each compressed buffer states in its first eight bytes,
before it decompresses it: 44 bytes may ask for 70 TB, and 20 kB of zstd hold 600 MB. The sizes are
read here from the messages, which are FlatBuffers (``Message.fbs`` and ``File.fbs`` of Apache Arrow
1.0 and later). Other faults of metadata are left to Arrow's own checks.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from penstock.display import numbered

__all__ = ["ArrowClaims", "check_decoded_size", "check_rows", "most_decoded"]

_DECODED, _RATIO = 256 << 20, 64
"""Bytes that one part of a file may decode to, however few bytes it has, or times its bytes. Text
compresses 3 to 10 times; a column of one repeated value more, but it is small."""

_ROWS = 1 << 20
"""Rows that a file may have, however few bytes it has, or ``_RATIO`` times its bytes."""

_MAGIC = b"ARROW1"
_CONTINUATION = 0xFFFFFFFF
_DICTIONARY, _BATCH = 2, 3
"""Kinds of messages: ``MessageHeader``."""

_VERSION_5 = 4
_OLD_COMPRESSION = b"ARROW:experimental_compression"
"""Key of a message before version 5 of the metadata, by which Arrow 0.17 tells its compression."""


def most_decoded(stored: int) -> int:
    """Return the most bytes that a part of a file of ``stored`` bytes may decode to."""
    return max(_DECODED, _RATIO * stored)


def check_decoded_size(what: str, stored: int, decoded: int) -> None:
    """Check the size that a compressed part of a file claims.

    Raises:
        ArrowInvalid: It is more than :func:`most_decoded`.
    """
    if decoded > most_decoded(stored):
        raise pa.ArrowInvalid(
            f"{what} claims to decode from {numbered(stored, 'byte')} to {decoded:,}, more than "
            f"the {most_decoded(stored):,} that are allowed (a sound file can be written again in "
            "smaller parts)"
        )


def check_rows(rows: int, stored: int) -> None:
    """Check the rows of a file: nulls, runs and repeated batches take no bytes.

    Raises:
        ArrowInvalid: A file of ``stored`` bytes claims more than 2^20 rows and more than 64 a byte.
    """
    most = max(_ROWS, _RATIO * stored)
    if rows > most:
        raise pa.ArrowInvalid(
            f"{numbered(stored, 'byte')} claim to hold {rows:,} rows, more than the {most:,} that "
            "are allowed (a sound file can be written again in smaller parts)"
        )


class ArrowClaims:
    """Checks the messages of a mapped file or stream in the order in which Arrow reads them."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self._size = file.size()
        self.random_access = file.read_at(len(_MAGIC), 0) == _MAGIC
        """True for a file with a footer, False for a stream."""
        self._blocks: list[int] = []
        self._position = 0
        self._dictionaries = [0, 0]  # bytes stored and decoded, of all that are held

    def check_footer(self) -> None:
        """Check the dictionaries of a file with a footer, and find its batches.

        Raises:
            ArrowInvalid: A dictionary claims to be too large, or the footer is damaged.
        """
        with _damage_named("the footer"):
            tail = self._file.read_at(10, self._size - 10)
            length = int.from_bytes(tail[:4], "little")
            footer = self._read(self._size - 10 - length, length)
            root = _indirect(footer, 0)
            dictionaries, self._blocks = (_blocks(footer, root, field) for field in (2, 3))
        for start in dictionaries:
            self._check(start)

    def check_batch(self, number: int) -> None:
        """Check a batch of a file with a footer.

        Raises:
            ArrowInvalid: It claims to be too large, or its metadata is damaged.
        """
        if not 0 <= number < len(self._blocks):
            raise pa.ArrowInvalid(f"the footer has no batch {number}")
        self._check(self._blocks[number])

    def check_next(self) -> None:
        """Check the messages of a stream up to and with its next batch.

        Raises:
            ArrowInvalid: One claims to be too large, or its metadata is damaged.
        """
        kind = 0
        while kind != _BATCH:
            kind, end = self._check(self._position)
            if end <= self._position:
                return
            self._position = end

    def _check(self, start: int) -> tuple[int, int]:
        """Check the message at ``start``; returns its kind, and the position after its body."""
        with _damage_named(f"the metadata of the message at byte {start:,}"):
            head = self._read(start, min(8, self._size - start))
            if len(head) < 8:
                return 0, start
            first, second = struct.unpack("<II", head)
            at, length = (start + 8, second) if first == _CONTINUATION else (start + 4, first)
            if not length:
                return 0, start
            data = self._read(at, length)
            message = _indirect(data, 0)
            kind_at, header_at, size_at = (_field(data, message, field) for field in (1, 2, 3))
            kind = data[kind_at] if kind_at else 0
            compressed = _OLD_COMPRESSION in data and _version(data, message) < _VERSION_5
            body = at + length
            size = struct.unpack_from("<q", data, size_at)[0] if size_at else 0
            sizes: list[int] = []
            if header_at and kind in (_DICTIONARY, _BATCH):
                table = _indirect(data, header_at)
                if kind == _DICTIONARY:
                    inner = _field(data, table, 1)
                    table = _indirect(data, inner) if inner else 0
                if table and (compressed or _field(data, table, 3)):
                    sizes = list(self._decoded(data, table, body))
        if sizes:
            stored, decoded = min(size, self._size), sum(sizes)
            check_decoded_size(f"the batch at byte {start:,}", stored, decoded)
            if kind == _DICTIONARY:  # all are held, and several may be of the same bytes
                stored = min(self._dictionaries[0] + stored, self._size)
                decoded += self._dictionaries[1]
                check_decoded_size(
                    f"the sum of the dictionaries up to byte {start:,}", stored, decoded
                )
                self._dictionaries = [stored, decoded]
        return kind, body + max(0, size)

    def _decoded(self, data: bytes, table: int, body: int) -> Iterator[int]:
        """Yield the decoded sizes of a batch's compressed buffers."""
        buffers = _field(data, table, 2)
        if not buffers:
            return
        at = _indirect(data, buffers)
        count = struct.unpack_from("<I", data, at)[0]
        places = np.frombuffer(data, "<i8", 2 * count, at + 4).reshape(-1, 2)
        for offset, length in places.tolist():
            start = body + offset
            if length >= 8 and 0 <= start <= self._size - 8:
                yield max(0, int.from_bytes(self._file.read_at(8, start), "little", signed=True))

    def _read(self, start: int, length: int) -> bytes:
        if not 0 <= start <= start + length <= self._size:
            raise ValueError(f"{length:,} bytes at {start:,} of {self._size:,}")
        return bytes(self._file.read_at(length, start))


@contextlib.contextmanager
def _damage_named(what: str) -> Iterator[None]:
    """Turn errors of reading FlatBuffers into ArrowInvalid."""
    try:
        yield
    except pa.ArrowException:
        raise
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise pa.ArrowInvalid(f"{what} is damaged: {error}") from None


# -- FlatBuffers ------------------------------------------------------------------------------


def _indirect(data: bytes, at: int) -> int:
    """Follow the offset at ``at``."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Return the position of a field of a table; 0 where it is absent."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    if entries < 0:
        raise ValueError(f"a table of fields at {entries}")
    size = struct.unpack_from("<H", data, entries)[0]
    place = 4 + 2 * number
    offset = struct.unpack_from("<H", data, entries + place)[0] if place < size else 0
    return table + offset if offset else 0


def _version(data: bytes, message: int) -> int:
    """Return the version of the metadata of a message: 0 for version 1."""
    at = _field(data, message, 0)
    return int(struct.unpack_from("<h", data, at)[0]) if at else 0


def _blocks(data: bytes, table: int, number: int) -> list[int]:
    """Return where the messages begin that a vector of ``Block`` lists."""
    field = _field(data, table, number)
    if not field:
        return []
    at = _indirect(data, field)
    count = struct.unpack_from("<I", data, at)[0]
    found: list[int] = np.frombuffer(data, "<i8", 3 * count, at + 4).reshape(-1, 3)[:, 0].tolist()
    return found
