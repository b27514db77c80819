"""Find documents that repeat an earlier one: a shuffle of hashes, 20 bytes for each document.

The task that reads a split writes the 128-bit hashes of its texts sorted by value. A task for each
range of values then reads its slice of every split and finds the repeats, and the second pass over
a split reads the results for its own documents. No task holds more than a range (20 million
documents, about 1 GB with the sort) or a split, and the driver holds no hashes. The cost is
splits x ranges small reads.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass

import numpy as np

from penstock.artefact import FileRecord
from penstock.pipeline.grouped import read_groups, write_groups
from penstock.storage import AnyPath

__all__ = ["Hashes", "Range", "Repeats", "find_repeats", "normalise", "ranges_for"]

_BUCKETS = 1024
"""Groups of a file of hashes, by the upper ten bits; a range is one or more groups."""

_ENTRY = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<u4")])
_REPEAT = np.dtype([("row", "<u4"), ("of_split", "<u4"), ("of_row", "<u4")])

_DOCUMENTS = 20_000_000
"""Most documents of a range, about."""


def normalise(text: str) -> str:
    """Normalise a text for comparison: lower case, runs of white space as one space."""
    return " ".join(text.lower().split())


def ranges_for(documents: int) -> int:
    """Return the number of ranges for a corpus of so many documents: a power of two."""
    ranges = 1
    while ranges < _BUCKETS and documents > ranges * _DOCUMENTS:
        ranges *= 2
    return ranges


def _hashes_of(split: int) -> str:
    """Return the name of a split's file of hashes, below the draft."""
    return f"scratch/hashes/{split:05d}"


class Hashes:
    """Collects the hashes of a split's documents as they are read."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self._rows = array("Q")

    def add(self, row: int, text: str) -> None:
        """Add the hash of the document that is record ``row`` of the split."""
        self._digests += hashlib.blake2b(normalise(text).encode(), digest_size=16).digest()
        self._rows.append(row)

    def write(self, draft: AnyPath, split: int, **facts: object) -> FileRecord:
        """Write the file of hashes, sorted by value."""
        pairs = np.frombuffer(self._digests, dtype="<u8").reshape(-1, 2)
        entries = np.empty(len(pairs), dtype=_ENTRY)
        entries["high"], entries["low"] = pairs[:, 0], pairs[:, 1]
        entries["row"] = np.frombuffer(self._rows, dtype="<u8")
        entries = entries[_order(entries)]
        groups = entries["high"] >> np.uint64(54)
        sink = write_groups(draft / _hashes_of(split), entries, groups, _BUCKETS)
        return FileRecord.of(_hashes_of(split), sink, **facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A range of hash values over all splits: the item of a task."""

    number: int
    ranges: int
    splits: int
    draft: AnyPath

    @property
    def label(self) -> str:
        """Name in messages."""
        return f"range {self.number + 1} of {self.ranges} of the documents' hashes"

    def found(self, number: int) -> AnyPath:
        """Return the path of the repeats that range ``number`` found."""
        return self.draft / f"scratch/repeats/{number:04d}-of-{self.ranges:04d}"


def find_repeats(item: Range, _: object = None) -> None:
    """Find the repeats within a range; the first in corpus order is kept."""
    where = item.found(item.number)
    if where.exists():
        return
    first, last = (n * _BUCKETS // item.ranges for n in (item.number, item.number + 1))
    parts, lengths = [], []
    for split in range(item.splits):
        entries = read_groups(item.draft / _hashes_of(split), _ENTRY, first, last)
        parts.append(entries[_fresh(entries)])  # repeats within a split are found there
        lengths.append(len(parts[-1]))
    entries = np.concatenate(parts)
    splits = np.repeat(np.arange(len(lengths), dtype="<u4"), lengths)
    order = _order(entries)
    fresh = _fresh(entries[order])
    # In each run of equal hashes the first is kept, and the others repeat it.
    original = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]] if len(order) else order
    repeat, original = order[~fresh], original[~fresh]
    found = np.empty(len(repeat), dtype=_REPEAT)
    found["row"] = entries["row"][repeat]
    found["of_split"], found["of_row"] = splits[original], entries["row"][original]
    by_split = np.argsort(splits[repeat], kind="stable")
    write_groups(where, found[by_split], splits[repeat][by_split], item.splits)


class Repeats:
    """For each record of a split, the earlier document that it repeats."""

    def __init__(self, ranges: Range, split: int, records: int) -> None:
        self._split = np.full(records, -1, dtype=np.int64)
        self._row = np.zeros(records, dtype=np.int64)
        for number in range(ranges.ranges):
            found = read_groups(ranges.found(number), _REPEAT, split)
            self._split[found["row"]] = found["of_split"]
            self._row[found["row"]] = found["of_row"]
        own = read_groups(ranges.draft / _hashes_of(split), _ENTRY, 0, _BUCKETS)
        fresh = _fresh(own)
        rows = own["row"]
        original = rows[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]][~fresh]
        elsewhere = self._split[original] >= 0
        self._split[rows[~fresh]] = np.where(elsewhere, self._split[original], split)
        self._row[rows[~fresh]] = np.where(elsewhere, self._row[original], original)

    def of(self, row: int) -> str | None:
        """Return the ``part:row`` of the document that record ``row`` repeats, or None."""
        split = self._split[row]
        return None if split < 0 else f"{split:05d}:{self._row[row]}"


def _order(entries: np.ndarray) -> np.ndarray:
    """Sort by hash, stable for equal hashes."""
    return np.lexsort((entries["low"], entries["high"]))


def _fresh(entries: np.ndarray) -> np.ndarray:
    """Mark the entries whose hash differs from the one before, of sorted entries: (n,) bool."""
    fresh = np.ones(len(entries), dtype=bool)
    fresh[1:] = (entries["high"][1:] != entries["high"][:-1]) | (
        entries["low"][1:] != entries["low"][:-1]
    )
    return fresh
