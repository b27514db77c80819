"""Zstandard frames of several shapes, from Arrow's codec."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pyarrow as pa

from penstock.pipeline.reading.frames import frames_of


def frame(data: bytes, sized: bool = False) -> bytes:
    """Return one frame; its header has the size of its content if ``sized``."""
    if sized:
        return bytes(pa.compress(data, "zstd", asbytes=True))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def skippable(length: int, number: int = 0) -> bytes:
    """Return a skippable frame, which has no content."""
    return struct.pack("<II", 0x184D2A50 + number, length) + b"s" * length


def content_size(data: bytes) -> int | None:
    """Return the content size in the header of one frame; None where it has none."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "x.zst"
        path.write_bytes(data)
        (found,) = frames_of(path)
    return found.content
