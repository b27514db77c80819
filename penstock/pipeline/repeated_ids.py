"""Count the documents of a corpus whose id another document before them has.

Ids need not be unique: draws mix in a hash of the text. But ``penstock why ID`` then names several
documents, and files that each begin their ids anew are often a mistake, so the count is told. Ids
are compared by 64-bit hashes: of 10^9 different ids two are taken for equal with a probability
of 3 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from penstock.artefact import Draft, FileRecord
from penstock.columnar import OwnParquet
from penstock.hashing import hash_ids
from penstock.pipeline.grouped import packed, read_groups, write_groups
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath, atomic_file

__all__ = ["count_repeated_ids"]

_GROUP_DOCUMENTS = 1 << 20
"""Documents whose ids a task hashes, in one file."""

_RANGE_DOCUMENTS = 1 << 23
"""Most hashes of a range, about: 64 MiB."""

_BUCKETS = 1024
"""Groups of a file of hashes, by the upper ten bits; a range is one or more of them."""

_HASH = np.dtype("<u8")


@dataclass(frozen=True, slots=True)
class _Hashes:
    """Files of the hashes of all ids, sorted."""

    directory: AnyPath
    files: int
    ranges: int

    def name(self, number: int) -> str:
        return f"ids-{number:05d}"


def count_repeated_ids(records: Sequence[FileRecord], draft: Draft, runner: Runner) -> int:
    """Count the documents whose id another document has, but for the first of each id.

    Args:
        records: All files of the corpus, with those of its units.
        draft: That of the corpus. The files of hashes are deleted when it is published.
        runner: Runs the tasks; each holds a million hashes, or a range of eight million.
    """
    units = [one for one in records if one.path.startswith("unit-")]
    rows = [one for one in records if one.path.startswith("rows-")]
    counts = [int(one.facts["documents"]) for one in units]
    documents = sum(counts)
    groups = [
        [own for own, _ in group]
        for group in packed(
            list(zip(rows, counts, strict=True)), lambda one: one[1], _GROUP_DOCUMENTS
        )
    ]
    if len(groups) == 1:  # less work than a pass of all workers
        return _repeated(_hashes_of(groups[0], draft.path))
    ranges = 1 << math.ceil(math.log2(max(1.0, documents / _RANGE_DOCUMENTS)))
    shared = _Hashes(draft.path, len(groups), min(_BUCKETS, ranges))
    hashed = {f"ids-{number}": (number, group) for number, group in enumerate(groups)}
    draft.fill(runner.run, _hash, hashed, shared)
    numbers = {f"repeated-{number}": number for number in range(shared.ranges)}
    counted = draft.fill(runner.run, _count, numbers, shared)
    return sum(int(one.facts["repeated"]) for one in counted)


def _hashes_of(rows: Sequence[FileRecord], directory: AnyPath) -> np.ndarray:
    """Hash the ids of some units: (n,) uint64, sorted."""
    found = []
    for record in rows:
        with OwnParquet(record.verified(directory)) as file:
            found.append(hash_ids(file.read(["id"]).column("id"), 0))
    return np.sort(np.concatenate(found))


def _repeated(hashes: np.ndarray) -> int:
    """Count the values of a sorted array that are equal to the one before."""
    return int((hashes[1:] == hashes[:-1]).sum())


def _hash(group: tuple[int, Sequence[FileRecord]], shared: _Hashes) -> FileRecord:
    """Write the hashes of the ids of some units, sorted."""
    number, rows = group
    hashes = _hashes_of(rows, shared.directory).astype(_HASH)
    name = shared.name(number)
    sink = write_groups(
        shared.directory / name, hashes, (hashes >> np.uint64(54)).astype(np.int64), _BUCKETS
    )
    return FileRecord.of(name, sink)


def _count(number: int, shared: _Hashes) -> FileRecord:
    """Count the hashes of a range that are there already."""
    first, last = (n * _BUCKETS // shared.ranges for n in (number, number + 1))
    parts = [
        read_groups(shared.directory / shared.name(n), _HASH, first, last)
        for n in range(shared.files)
    ]
    repeated = _repeated(np.sort(np.concatenate(parts)))
    with atomic_file(shared.directory / f"repeated-{number:05d}") as sink:
        sink.write(b"%d" % repeated)
    return FileRecord.of(f"repeated-{number:05d}", sink, repeated=repeated)
