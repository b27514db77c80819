"""The bytes of an input file, wherever it lies and however it is compressed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import PurePath

import pyarrow as pa

from penstock.errors import InputError
from penstock.storage import AnyPath, is_remote

__all__ = ["EXPANSION", "blocks", "compression_of", "open_bytes", "readable"]

EXPANSION = 4
"""Bytes of text for each compressed one, where a file does not say: 3.0 to 4.5 in web text."""

_BLOCK = 4 << 20

_FIRST = "the first 4 MiB of text"

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def compression_of(where: AnyPath | PurePath) -> str | None:
    """The compression that a file's name says, or None."""
    return _COMPRESSIONS.get(where.suffix.lower())


def open_bytes(where: AnyPath) -> pa.NativeFile:
    """A file for reading at any place in it."""
    if is_remote(where):
        return pa.PythonFile(where.open("rb"), mode="r")
    return pa.OSFile(str(where))


def blocks(where: AnyPath, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Decompressed bytes from ``start`` to ``end`` of a file, about 4 MiB at a time.

    Args:
        where: Its name says how it is compressed.
        start: A byte of the file; of a compressed one, where a frame begins.
        end: Likewise; the end of the file by default.

    Raises:
        InputError: A compressed file is truncated or damaged.
    """
    compression = compression_of(where)
    count = 0
    with readable(where, "file"), open_bytes(where) as file:
        size = file.size()
        if compression and not size:
            raise InputError(f"{where}: 0 bytes, which no {compression} file has; fetch it again")
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
            raise InputError(
                f"{where}: truncated or damaged {after}{f' from byte {start:,}' if start else ''} "
                f"({error}); fetch the file again, or recompress what can be read of it"
            ) from None


@contextlib.contextmanager
def readable(where: AnyPath | str, kind: str) -> Iterator[None]:
    """Names the file where it cannot be opened, or Arrow finds that it cannot go on."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{where}: no such file") from None
    except PermissionError:
        raise InputError(f"{where}: permission denied; make it readable") from None
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"{where}: not a readable {kind}, or damaged: {error}; fetch or write it again"
        ) from None
