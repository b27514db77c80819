"""Files of rows: a unit's scores, and rows by group, of which a reader fetches single groups.

The latter are the scratch of a shuffle (:mod:`penstock.pipeline.shuffle`). A file has the number
of groups, the offset of each, and the rows, in little-endian bytes. Reading a group takes two small
reads, also of a remote file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import FileRecord
from penstock.columnar import read_parquet
from penstock.storage import AnyPath, Sink, atomic_file, store_of

__all__ = ["packed", "read_groups", "read_scores", "write_groups", "write_scores"]

Item = TypeVar("Item")

_WIDTH = 8


def packed(items: Iterable[Item], size: Callable[[Item], int], limit: int) -> Iterator[list[Item]]:
    """Divide items into runs of neighbours whose sizes sum to ``limit`` at most; a larger one is
    alone."""
    group: list[Item] = []
    room = limit
    for item in items:
        if group and size(item) > room:
            yield group
            group, room = [], limit
        group.append(item)
        room -= size(item)
    if group:
        yield group


def write_groups(where: AnyPath, rows: np.ndarray, groups: np.ndarray, count: int) -> Sink:
    """Write a file of rows sorted by group.

    Args:
        where: The file.
        rows: (n,) of any record type, sorted by group.
        groups: (n,) integer group of each row, ascending.
        count: Groups in all.
    """
    starts = np.searchsorted(groups, np.arange(count + 1))
    with atomic_file(where) as sink:
        sink.write(np.array([count, *starts], dtype="<u8").tobytes())
        sink.write(np.ascontiguousarray(rows).view(np.uint8))
    return sink


def read_groups(where: AnyPath, dtype: np.dtype, first: int, last: int | None = None) -> np.ndarray:
    """Read the rows of groups ``first`` up to but not including ``last``; one by default."""
    last = first + 1 if last is None else last
    width = (last - first + 1) * _WIDTH
    offset = (1 + first) * _WIDTH
    head = b"".join(store_of(where).read_ranges(where, [(0, _WIDTH), (offset, offset + width)]))
    count, *starts = np.frombuffer(head, dtype="<u8").tolist()
    base = (2 + count) * _WIDTH
    start, end = (base + row * dtype.itemsize for row in (starts[0], starts[-1]))
    [rows] = store_of(where).read_ranges(where, [(start, end)])
    return np.frombuffer(rows, dtype=dtype)


def read_scores(columns: AnyPath, record: FileRecord) -> np.ndarray:
    """Read a unit's scores, after comparing the checksum: (n,) float32, NaN where excluded."""
    return read_parquet(record.verified(columns), ["score"]).column("score").to_numpy()


def write_scores(
    directory: AnyPath, unit: str, scores: np.ndarray, infinite: int = 0
) -> FileRecord:
    """Write a unit's scores, (n,) float32; those that are not finite become NaN: never taken.

    The record has the facts ``documents``, ``excluded``, and ``infinite``, the infinite ones among
    those excluded, where there are any. ``infinite`` is the number of those that are NaN already.
    """
    infinite += int(np.isinf(scores).sum())
    scores = np.where(np.isfinite(scores), scores, np.float32(np.nan))
    name = f"{unit}.parquet"
    with atomic_file(directory / name) as sink:
        pq.write_table(
            pa.table({"score": pa.array(scores, pa.float32(), from_pandas=False)}),
            sink,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )
    excluded = int(np.isnan(scores).sum())
    facts = {"infinite": infinite} if infinite else {}
    return FileRecord.of(name, sink, documents=len(scores), excluded=excluded, **facts)
