"""A shuffle: rows from first tasks to second tasks, divided by group.

Each first task, a *source*, writes one file of rows sorted by group (:mod:`.grouped`); a second
task reads one range of groups from the file of every source, and nothing else. Groups are whatever
the second tasks work on: ranges of a hash (:func:`range_of`), partitions, units. Results often go
back by a second shuffle, whose groups are units, so that they can be written row by row.

A file depends on its source alone, and rows are read in the order of sources, so results depend
neither on workers nor on the order of completion. No task holds more than a source's rows, or those
of its groups. The cost is sources x second tasks small reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.artefact import FileRecord
from penstock.pipeline.grouped import read_groups, write_groups
from penstock.storage import AnyPath

__all__ = ["TASK_BYTES", "Shuffle", "range_of", "range_of_number", "ranges_for"]

TASK_BYTES = 128 * 2**20
"""Bytes of rows that a second task reads, about; it needs several times as much to sort them."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio: its multiples are spread evenly (Knuth 1973, 6.4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shuffle:
    """The files of one shuffle: small, and known to every task."""

    directory: AnyPath
    """The draft."""
    name: str
    """Folder of the files, below ``scratch`` of the draft."""
    dtype: np.dtype
    """Record type of a row."""
    groups: int
    sources: int
    """Number of files."""

    def file(self, source: int) -> str:
        """Return the name of a source's file, below the draft."""
        return f"scratch/{self.name}/{source:05d}"

    def write(self, source: int, rows: np.ndarray, groups: np.ndarray, **facts: int) -> FileRecord:
        """Write the rows of a source.

        Args:
            source: Its number.
            rows: (n,) of :attr:`dtype`, in any order; rows of one group stay in theirs.
            groups: (n,) integers below :attr:`groups`.
            facts: Values for the record; ``rows`` is added.

        Returns:
            The record of the file.
        """
        if len(groups) > 1 and (groups[1:] < groups[:-1]).any():
            order = np.argsort(groups, kind="stable")
            rows, groups = rows[order], groups[order]
        name = self.file(source)
        sink = write_groups(self.directory / name, rows, groups, self.groups)
        return FileRecord.of(name, sink, rows=len(rows), **facts)

    def read(self, first: int, last: int | None = None) -> np.ndarray:
        """Read the rows of groups ``first`` up to but not including ``last``; one by default.

        Returns:
            (n,) of :attr:`dtype`, writeable: by source, and of each by group.
        """
        return np.concatenate([np.empty(0, self.dtype), *self.parts(first, last)])

    def parts(self, first: int, last: int | None = None) -> Iterator[np.ndarray]:
        """Yield the same rows by source, read-only."""
        for source in range(self.sources):
            yield read_groups(self.directory / self.file(source), self.dtype, first, last)

    def read_source(self, source: int) -> np.ndarray:
        """Read all rows of a source: (n,) of :attr:`dtype`, by group."""
        return read_groups(self.directory / self.file(source), self.dtype, 0, self.groups)


def ranges_for(rows: int, dtype: np.dtype, limit: int | None = None) -> int:
    """Return the number of ranges, so that each has about ``limit`` bytes of rows at most.

    By default :data:`TASK_BYTES`.
    """
    return max(1, -(-rows * dtype.itemsize // (limit or TASK_BYTES)))


def range_of(keys: np.ndarray, ranges: int) -> np.ndarray:
    """Return the range of each key: ranges divide the 64-bit integers evenly.

    Args:
        keys: (n,) uint64, uniform, such as hashes.
        ranges: Their number, below 2^32.

    Returns:
        (n,) int64, ascending with the key.
    """
    high = keys >> np.uint64(32)
    return (high * np.uint64(ranges) >> np.uint64(32)).astype(np.int64)


def range_of_number(numbers: np.ndarray, ranges: int) -> np.ndarray:
    """Return the range of each number by a hash of it: (n,) integers to (n,) int64."""
    return range_of(numbers.astype(np.uint64) * _GOLDEN, ranges)
