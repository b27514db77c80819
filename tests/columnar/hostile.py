"""Arrow files whose metadata is sound and whose offsets, indices or strings are not."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["ATTACKS", "TEXTS", "arrow_bytes", "attack", "replaced", "write"]

TEXTS = ["a" * 77, "b" * 22, "c" * 33]
"""Their offsets, 0, 77, 99, 132, are found by their bytes in a file."""


def arrow_bytes(
    columns: dict[str, Any], stream: bool = False, compression: str | None = None
) -> bytes:
    """Return the bytes of a file of one batch."""
    batch = pa.record_batch(columns)
    sink = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with make(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def replaced(data: bytes, old: Any, new: Any, dtype: str) -> bytes:
    """Replace numbers that occur once in the bytes."""
    before, after = (np.array(numbers, dtype).tobytes() for numbers in (old, new))
    assert data.count(before) == 1, data.count(before)
    return data.replace(before, after)


def _views() -> pa.Array:
    return pa.array([text * 2 for text in TEXTS], pa.string_view())


def _dictionary(index: pa.DataType) -> pa.Array:
    indices = pa.array([0, 1, 1, 0, 1, 0, 0, 1], index)
    return pa.DictionaryArray.from_arrays(indices, pa.array(["yes", "no"]))


def _list_view() -> pa.Array:
    return pa.ListViewArray.from_arrays(
        pa.array([0, 21, 43], pa.int32()), pa.array([21, 22, 23], pa.int32()), pa.array(range(66))
    )


_FIRST, _SECOND = (int.from_bytes(text[:4].encode(), "little") for text in TEXTS[:2])
"""The beginnings of texts, which views repeat."""

ATTACKS: dict[str, tuple[Any, Any, Any, str]] = {
    "offset past the buffer": (pa.array(TEXTS), [0, 77, 99, 132], [0, 77, 99, 1 << 20], "<i4"),
    "offset inside, past": (pa.array(TEXTS), [0, 77, 99, 132], [0, 1 << 28, 99, 132], "<i4"),
    "negative offset": (pa.array(TEXTS), [0, 77, 99, 132], [0, -4096, 99, 132], "<i4"),
    "first offset negative": (pa.array(TEXTS), [0, 77, 99, 132], [-65536, 77, 99, 132], "<i4"),
    "descending offsets": (pa.array(TEXTS), [0, 77, 99, 132], [0, 99, 77, 132], "<i4"),
    "large offsets": (
        pa.array(TEXTS, pa.large_string()),
        [0, 77, 99, 132],
        [0, 77, 2**62, 132],
        "<i8",
    ),
    "length of a view": (_views(), [154, _FIRST], [1 << 30, _FIRST], "<i4"),
    "buffer of a view": (
        _views(),
        [44, _SECOND, 0, 154],
        [44, _SECOND, 9, 154],
        "<i4",
    ),
    "place of a view": (
        _views(),
        [44, _SECOND, 0, 154],
        [44, _SECOND, 0, -9999],
        "<i4",
    ),
    "index of a dictionary": (_dictionary(pa.int32()), [0, 1, 1, 0], [0, 1, 99_999_999, 0], "<i4"),
    "negative index": (_dictionary(pa.int64()), [0, 1, 1, 0], [0, 1, -70_000, 0], "<i8"),
    "list past its values": (
        pa.ListArray.from_arrays([0, 77, 99, 132], pa.array(range(132))),
        [0, 77, 99, 132],
        [0, 77, 99, 99_999],
        "<i4",
    ),
    "view of a list": (_list_view(), [21, 22, 23], [21, 1 << 26, 23], "<i4"),
    "list of texts": (
        pa.ListArray.from_arrays([0, 1, 2, 3], pa.array(TEXTS)),
        [0, 77, 99, 132],
        [0, 77, 1 << 28, 132],
        "<i4",
    ),
    "structure of texts": (
        pa.StructArray.from_arrays([pa.array(TEXTS)], ["inner"]),
        [0, 77, 99, 132],
        [0, 77, 1 << 28, 132],
        "<i4",
    ),
    "ends of runs": (
        pa.RunEndEncodedArray.from_arrays(pa.array([3, 5, 8], pa.int32()), pa.array(TEXTS)),
        [3, 5, 8],
        [3, -5, 8],
        "<i4",
    ),
    "place in a union": (
        pa.UnionArray.from_dense(
            pa.array([0] * 8, pa.int8()),
            pa.array([0, 0, 1, 1, 2, 2, 3, 3], pa.int32()),
            [pa.array([*"wxyz"])],
        ),
        [1, 1, 2, 2],
        [1, 1, 1 << 28, 2],
        "<i4",
    ),
}
"""By name: a column, numbers of its buffers, those in their place, and their type."""

_NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], "<i4")), pa.py_buffer(b"\xff\xfe")]
)


def attack(name: str, *, hidden: bool = False, text: bool = False, **how: Any) -> bytes:
    """Return the bytes of a file with one of the attacks.

    Args:
        name: Of :data:`ATTACKS`.
        hidden: Whether a text that is not UTF-8 lies before it in the same column, at which
            Arrow's own full validation ends.
        text: Whether the column is that of the texts.
        how: Of :func:`arrow_bytes`.
    """
    column, old, new, dtype = ATTACKS[name]
    if hidden:
        bad = pa.concat_arrays([_NOT_UTF8] * len(column))
        column = pa.StructArray.from_arrays([bad, column], ["first", "second"])
    count = len(column)
    columns = {"text": column} if text else {"text": ["t"] * count, "meta": column}
    return replaced(arrow_bytes(columns, **how), old, new, dtype)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
