"""Ranks of the documents that a cut takes, computed from the cut on demand.

Rank 1 is the document that is taken first: of the highest score, then of the highest hash of its
id and text, then the earlier one in the corpus. A cut stores no ranks, because they would cost four
distributed passes and are read by two commands only; a rank is a count over the cut's ``score``
column, 4 bytes a document. The score is the one that documents were ordered by, after mixture and
noise, so neither the pool's columns nor their quantiles are read again.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact
from penstock.columnar import read_parquet
from penstock.hashing import hash_documents, mix
from penstock.pipeline.cutting.ordering import TIE
from penstock.pipeline.cutting.radix import order_bits

__all__ = ["first_ranked", "rank_of"]


@dataclass(frozen=True, slots=True)
class _Scored:
    """The documents taken of one unit: k of them, in its order."""

    file: Path
    """The file of the cut, on this node."""
    seed: int
    row: np.ndarray
    """(k,) int64."""
    key: np.ndarray
    """(k,) uint32, :func:`order_bits` of the scores."""

    @classmethod
    def read(cls, cut: Artefact, unit: int) -> _Scored:
        file = cut.verified(cut.files[unit])
        table = read_parquet(file, ["row", "score"])
        row, score = (table.column(name).to_numpy() for name in ("row", "score"))
        return cls(file, cut.manifest["config"]["seed"], row, order_bits(score))

    def ties(self, which: np.ndarray) -> np.ndarray:
        """Hash some of the documents: (m,) int64 positions to (m,) uint64."""
        if not len(which):
            return np.empty(0, dtype=np.uint64)
        documents = read_parquet(self.file, ["id", "hash"]).take(pa.array(which))
        return hash_documents(documents, mix(self.seed, TIE))


def rank_of(cut: Artefact, unit: int, row: int) -> int:
    """Count the documents that a cut takes before one of them, and that one.

    Args:
        cut: Every file of it is read.
        unit: Number of the document's unit.
        row: The document's row in the unit; the cut takes it.
    """
    own = _Scored.read(cut, unit)
    position = np.flatnonzero(own.row == row)
    key, before = own.key[position[0]], 0
    same: list[tuple[int, _Scored, np.ndarray]] = []
    for number in range(len(cut.files)):
        taken = own if number == unit else _Scored.read(cut, number)
        before += int((taken.key > key).sum())
        equal = np.flatnonzero(taken.key == key)
        if len(equal):
            same.append((number, taken, equal))
    if sum(len(equal) for _, _, equal in same) == 1:
        return before + 1  # no hash is needed, and no kernel loaded
    tie = own.ties(position)[0]
    for number, taken, equal in same:
        ties = taken.ties(equal)
        before += int((ties > tie).sum())
        if number <= unit:
            alike = taken.row[equal[ties == tie]]
            before += int((alike < row).sum()) if number == unit else len(alike)
    return before + 1


def first_ranked(cut: Artefact, count: int) -> list[tuple[int, int]]:
    """Find the ``count`` documents that a cut takes first: (unit number, row), by rank."""
    best: list[tuple[int, int, int, int]] = []  # inverted key and tie, unit, row: first is least
    for number in range(len(cut.files) if count else 0):
        taken = _Scored.read(cut, number)
        lowest = ~best[-1][0] & 0xFFFFFFFF if len(best) == count else 0
        if len(taken.key) > count:
            lowest = max(lowest, int(np.partition(taken.key, -count)[-count]))
        few = np.flatnonzero(taken.key >= lowest)
        inverted = ~taken.key[few], ~taken.ties(few)
        rows = zip(*(values.tolist() for values in inverted), taken.row[few].tolist())
        best = heapq.nsmallest(count, [*best, *((key, tie, number, row) for key, tie, row in rows)])
    return [(number, row) for _, _, number, row in best]
