"""Read the bytes of an input file, local or remote, plain or compressed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import PurePath

import pyarrow as pa

from penstock.errors import InputError
from penstock.storage import (
    AnyPath,
    store_of,
)

__all__ = ["EXPANSION", "blocks", "compression_of", "open_bytes", "readable"]

EXPANSION = 4
"""Bytes of text for each compressed byte, where a file has no count: 3.0 to 4.5 in web text."""

_BLOCK = 4 << 20

_FIRST = "the first 4 MiB of text"

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def compression_of(where: AnyPath | PurePath) -> str | None:
    """Return the compression by the ending of a file's name, or None."""
    return _COMPRESSIONS.get(where.suffix.lower())


def open_bytes(where: AnyPath) -> pa.NativeFile:
    """Open a file for random access."""
    return store_of(where).open(where)


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
