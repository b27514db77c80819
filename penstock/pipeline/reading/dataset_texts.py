"""Texts of a Hugging Face dataset's directory, bounded before `datasets` decodes them.

`datasets` holds a whole line, a whole field, and a whole file that is an array or has a damaged
line, with several times its bytes of memory. A file is therefore read once in parts before
`datasets` opens it, and decompressed as `datasets` would: by its name, else by its first bytes.
Trade-off: texts are read twice, and compressed ones decompressed twice.
"""

from __future__ import annotations

import bz2
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from zlib_ng import gzip_ng, zlib_ng

from penstock.display import numbered
from penstock.errors import InputError
from penstock.opening import open_plain
from penstock.pipeline.reading.frames import MOST_WINDOW, explain_zstd

__all__ = ["FORMATS", "check_text"]

FORMATS = ("arrow", "csv", "json", "parquet", "text")
"""Formats of `datasets` in which a directory may be; those that it has for code, pictures, archives
of archives and science are not checked before they are decoded."""

_DECODED, _RATIO = 64 << 20, 32
"""Bytes that a file's text may have, however few bytes it has, or times its bytes. Text compresses
3 to 10 times."""

_LINE = 64 << 20
"""Bytes that a line of text may have, compressed or not."""

_PART = 1 << 20

_ENDINGS = {
    "gz": "gzip",
    "gzip": "gzip",
    "bz2": "bzip2",
    "xz": "xz",
    "zst": "zstd",
    "zstd": "zstd",
    "lz4": "lz4",
    "zip": "zip",
}

_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PK\x07\x08": "zip",
}

_DAMAGE = (
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
    zlib_ng.error,
)

_FIX = "give the file by a path without hf:, which reads it in parts, or decompress it first"


def check_text(path: Path) -> None:
    """Check that the text of a file is in proportion to its bytes, and so are its lines.

    Args:
        path: A file of JSON, CSV or plain text, compressed or not, or a zip archive of such files.

    Raises:
        InputError: It is not, or it is compressed twice, or damaged, or compressed in a form that
            is not read here.
    """
    kind = _kind(path.name, _head(path))
    if kind is None:
        with open_plain(path) as plain:
            _check_stream(path, None, plain, path.stat().st_size)
        return
    most = max(_DECODED, _RATIO * path.stat().st_size)
    size = 0
    try:
        for name, stream in _streams(path, kind):
            with stream:
                size += _check_stream(path, name, stream, most - size)
    except InputError:
        raise
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(
            f"truncated or damaged {kind} file: {error}", file=path, fix="fetch the file again"
        ) from None


def _check_stream(path: Path, name: str | None, stream: Any, most: int) -> int:
    """Read a text in parts; returns its bytes. ``name`` is that in a compressed file."""
    stored = path.stat().st_size
    size = line = 0
    while part := stream.read(_PART):
        if not size and name is not None and (inner := _kind(name, part)):
            raise InputError(f"compressed twice: {inner} in a compressed file", file=path, fix=_FIX)
        size += len(part)
        if size > most:
            raise InputError(
                f"decodes from {numbered(stored, 'byte')} to more than "
                f"{max(_DECODED, _RATIO * stored):,}, which `datasets` may hold at once",
                file=path,
                fix=_FIX,
            )
        first, last = part.find(b"\n"), part.rfind(b"\n")
        line = line + len(part) if first < 0 else max(line + first, len(part) - last)
        if line > _LINE:
            raise InputError(f"a line of more than {_LINE:,} bytes", file=path, fix=_FIX)
        if first >= 0:
            line = len(part) - last - 1
    return size


def _head(path: Path) -> bytes:
    with open_plain(path) as file:
        return file.read(8)


def _kind(name: str, head: bytes) -> str | None:
    """Return the compression of a file by its name, else by its first bytes; None of plain ones."""
    ending = name.rpartition(".")[2]
    for mark in "?-_":
        ending = ending.partition(mark)[0]
    if ending in _ENDINGS:
        return _ENDINGS[ending]
    return next((kind for magic, kind in _MAGICS.items() if head.startswith(magic)), None)


def _streams(path: Path, kind: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the texts in a file, by the name that each has without its compression."""
    if kind == "zip":
        yield from _members(path)
        return
    if kind == "zstd":
        if error := explain_zstd(path, 0):
            raise error
        import zstandard

        reader: Callable[..., Any] = zstandard.ZstdDecompressor(
            max_window_size=MOST_WINDOW
        ).stream_reader
        with open_plain(path) as source:
            yield path.stem, reader(source, read_across_frames=True)
        return
    openers: dict[str, Callable[..., Any]] = {
        "gzip": gzip_ng.open,
        "bzip2": bz2.open,
        "xz": lzma.open,
    }
    if kind not in openers:
        raise InputError(
            f"compressed as {kind}, which is not read", file=path, fix="compress it as gzip or zstd"
        )
    yield path.stem, openers[kind](path, "rb")


def _members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(os.fspath(path)) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if member.flag_bits & 1 or member.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise InputError(
                    f"{member.filename!r} in it is encrypted, or not deflated", file=path, fix=_FIX
                )
            yield member.filename, archive.open(member)
