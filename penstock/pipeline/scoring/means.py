"""Means of a column by group: the scores of ``mean_of``, in two passes over rows and scores.

The first pass sums the scores of each group, the second writes the means; neither reads texts. Sums
are exact: a float32 is an integer times 2**-149, and its 277 bits are summed in limbs of integers.
So a mean is the same in any order of documents, units and workers, and rounded once.

By length, groups are twentieths of the documents that have a score. They are found in the same
pass, since sums are kept by length: up to 2,047 bytes by every byte, above by the first 11 bits,
31,744 classes for texts of up to a TiB. So memory does not depend on the pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.pipeline.grouped import read_scores, write_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit
from penstock.storage import AnyPath

__all__ = [
    "ExactSums",
    "LengthGroup",
    "count_lengths",
    "group_of_length",
    "length_classes",
    "score_means",
    "twentieths",
]

TWENTIETHS = 20

_BITS = 11
"""Bits of a length that tell its class."""

_LENGTHS = (1 << _BITS) + (40 - _BITS) * (1 << (_BITS - 1))
"""Classes of lengths below 2**40 bytes."""

_LIMB = 8
"""Bits between two limbs; 32 of them hold the 254 shifts of a float32's exponent."""

_LIMBS = 32

_UNIT = -149
"""A float32 is a multiple of 2**-149."""


class ExactSums:
    """Exact sums of float32 by group.

    Args:
        groups: Number of groups.
    """

    def __init__(self, groups: int) -> None:
        self.counts = np.zeros(groups, np.int64)
        """(groups,) int64, the values that were added."""
        # Limbs of a part are below 2**63; their halves are summed, so that no sum overflows.
        self._low = np.zeros((groups, _LIMBS), np.int64)
        self._high = np.zeros((groups, _LIMBS), np.int64)

    def add(self, part: GroupSums) -> None:
        """Add the sums of some documents."""
        self.counts[part.groups] += part.counts
        group, limb = part.bins // _LIMBS, part.bins % _LIMBS
        self._low[group, limb] += part.sums & 0xFFFFFFFF
        self._high[group, limb] += part.sums >> 32

    def total(self, group: int) -> Fraction:
        """Return the exact sum of a group."""
        limbs = zip(self._low[group].tolist(), self._high[group].tolist())
        whole = sum(
            (low + (high << 32)) << (_LIMB * number) for number, (low, high) in enumerate(limbs)
        )
        return Fraction(whole) / (1 << -_UNIT)

    def merged(self, owners: np.ndarray, groups: int) -> np.ndarray:
        """Return the means of groups of groups.

        Args:
            owners: (groups before,) int64, the new group of each.
            groups: Number of the new ones.

        Returns:
            (groups,) float32, NaN for a group of no value.
        """
        totals, counts = [Fraction(0)] * groups, [0] * groups
        for group in np.flatnonzero(self.counts).tolist():
            owner = int(owners[group])
            totals[owner] += self.total(group)
            counts[owner] += int(self.counts[group])
        means = [float(one / n) if n else np.nan for one, n in zip(totals, counts)]
        return np.array(means, np.float32)


@dataclass(frozen=True, slots=True)
class GroupSums:
    """The sums of some documents, of the groups that occur: a small result of a task."""

    groups: np.ndarray
    """(g,) int64, ascending."""
    counts: np.ndarray
    """(g,) int64."""
    bins: np.ndarray
    """(b,) int64: group * 32 + limb, ascending."""
    sums: np.ndarray
    """(b,) int64."""

    @classmethod
    def of(cls, scores: np.ndarray, owners: np.ndarray) -> GroupSums:
        """Sum (n,) finite float32 by their (n,) int64 groups; n is below 2**31."""
        bits = scores.view(np.uint32).astype(np.int64)
        exponent = bits >> 23 & 0xFF
        digits = (bits & 0x7FFFFF) | np.where(exponent > 0, 1 << 23, 0)
        place = np.maximum(exponent, 1) - 1
        value = np.where(bits >> 31, -digits, digits) << (place % _LIMB)
        bins, inverse = np.unique(owners * _LIMBS + place // _LIMB, return_inverse=True)
        sums = np.zeros(len(bins), np.int64)
        np.add.at(sums, inverse, value)
        groups, counts = np.unique(owners, return_counts=True)
        return cls(groups, counts, bins, sums)


def length_classes(lengths: np.ndarray) -> np.ndarray:
    """Return the class of each length: (n,) int64 bytes to (n,) int64, rising with the length."""
    lengths = np.minimum(lengths, (1 << 40) - 1)
    # frexp is exact below 2**53.
    extra = np.maximum(np.frexp(lengths.astype(np.float64))[1].astype(np.int64) - _BITS, 0)
    return (lengths >> extra) + extra * (1 << (_BITS - 1))


def twentieths(counts: np.ndarray) -> np.ndarray:
    """Divide classes in order into twentieths of all documents.

    Args:
        counts: (k,) int64 documents of each class.

    Returns:
        (k,) int64 from 0 to 19: the twentieth that has the middle of the class.
    """
    total = max(1, int(counts.sum()))
    middle = 2 * np.cumsum(counts) - counts
    return np.minimum(TWENTIETHS * middle // (2 * total), TWENTIETHS - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthGroup:
    """A twentieth of the documents with a score, by the bytes of their texts."""

    number: int
    """From 1, that of the shortest, to 20."""
    least: int
    """Bytes of its shortest text; above 2,047 the least of the class."""
    most: int
    """Bytes of its longest text; above 2,047 the most of the class."""
    documents: int


def count_lengths(pool: Pool, column: Artefact) -> np.ndarray:
    """Count the documents with a score by class of length: (31744,) int64.

    Args:
        pool: The documents.
        column: The column that is averaged.
    """
    counts = np.zeros(_LENGTHS, np.int64)
    for unit in pool.units:
        scored = ~np.isnan(read_scores(column.path, column.files[unit.number]))
        lengths = unit.read_rows(["bytes"]).column("bytes").to_numpy()[scored]
        counts += np.bincount(length_classes(lengths), minlength=_LENGTHS)
    return counts


def group_of_length(counts: np.ndarray, length: int) -> LengthGroup:
    """Return the twentieth of a length, in bytes, by the counts of :func:`count_lengths`."""
    owners = twentieths(counts)
    number = int(owners[length_classes(np.array([length]))[0]])
    classes = np.flatnonzero((owners == number) & (counts > 0))
    return LengthGroup(
        number=number + 1,
        least=_least_length(int(classes[0])),
        most=_least_length(int(classes[-1]) + 1) - 1,
        documents=int(counts[classes].sum()),
    )


def _least_length(number: int) -> int:
    """Return the least length of a class, in bytes: the inverse of :func:`length_classes`."""
    half = 1 << (_BITS - 1)
    extra = max(0, number // half - 1)
    return (number - extra * half) << extra


_Item = tuple[Unit, FileRecord]
"""A unit, and its file of the column that is averaged."""


@dataclass(frozen=True, slots=True)
class _Means:
    """The state that every task of the passes shares."""

    by: Literal["source", "length"]
    column: AnyPath
    sources: Sequence[str]
    """Those of the pool, sorted."""
    means: np.ndarray
    """(groups before they are merged,) float32; empty in the first pass."""
    directory: AnyPath

    def read(self, item: _Item) -> tuple[np.ndarray, np.ndarray]:
        """Read a unit's scores, (n,) float32, and groups, (n,) int64."""
        unit, record = item
        scores = read_scores(self.column, record)
        if self.by == "length":
            return scores, length_classes(unit.read_rows(["bytes"]).column("bytes").to_numpy())
        found = unit.read_rows(["source"]).column("source").combine_chunks().dictionary_encode()
        known = {name: number for number, name in enumerate(self.sources)}
        numbers = np.array([known[name] for name in found.dictionary.to_pylist()], np.int64)
        return scores, numbers[found.indices.to_numpy()]


def score_means(
    by: Literal["source", "length"], draft: Draft, pool: Pool, column: Artefact, runner: Runner
) -> list[str]:
    """Write the mean of each document's group for every unit of a pool.

    Args:
        by: The groups.
        draft: Draft of the column that is made.
        pool: The documents.
        column: The column that is averaged.
        runner: Runs a task for each unit.

    Returns:
        The parts of the draft, in order.
    """
    sources = sorted(pool.by_source)
    shared = _Means(by, column.path, sources, np.empty(0, np.float32), draft.path)
    items = {unit.name: (unit, column.files[unit.number]) for unit in pool.units}
    if any(draft.done(name) is None for name in items):
        sums = ExactSums(len(sources) if by == "source" else _LENGTHS)
        for _, part in runner.run(_sum_unit, list(items.values()), shared):
            sums.add(part)
        owners = np.arange(len(sources)) if by == "source" else twentieths(sums.counts)
        means = sums.merged(owners, len(sources) if by == "source" else TWENTIETHS)[owners]
        shared = _Means(by, column.path, sources, means, draft.path)
        draft.fill(runner.run, _write_unit, items, shared)
    return list(items)


def _sum_unit(item: _Item, shared: _Means) -> GroupSums:
    scores, groups = shared.read(item)
    scored = ~np.isnan(scores)
    return GroupSums.of(scores[scored], groups[scored])


def _write_unit(item: _Item, shared: _Means) -> FileRecord:
    scores, groups = shared.read(item)
    own = np.where(np.isnan(scores), np.float32(np.nan), shared.means[groups])
    return write_scores(shared.directory, item[0].name, own)
