"""The exact cut of an ordered pool under a budget, without sorting it.

Documents are ordered by score, then by a hash of their id: 96 bits, read as six digits of 16. A
pass over the units sums document sizes by the next digit, only for documents whose digits so far
are those of the bin in which the budget is crossed. Sums are of integers, so they do not depend
on the order of units. Two passes fix the score to the last bit, a third or fourth separates equal
scores; a pass holds 65,536 sums for each group, whatever the size of the pool.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["DIGITS", "Cutoff", "Order", "Tally", "find_cutoffs", "order_bits", "tally"]

DIGITS = 6
"""Digits of 16 bits: two of the score, four of the hash that breaks ties."""

_BINS = 1 << 16

_ABOVE_ALL = (_BINS,)
"""The prefix of a bin that no document is in."""


def order_bits(scores: np.ndarray) -> np.ndarray:
    """Map float32 to uint32 so that order is kept; -0.0 and 0.0 are one value.

    Args:
        scores: (n,) float32 without NaN.

    Returns:
        (n,) uint32; ``a < b`` exactly where the scores are.
    """
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32)
    negative = (bits >> np.uint32(31)).astype(bool)
    return np.where(negative, ~bits, bits | np.uint32(0x80000000))


@dataclass(frozen=True, slots=True)
class Order:
    """Where the documents of a unit stand: higher is taken earlier."""

    key: np.ndarray
    """(n,) uint32, :func:`order_bits` of the score."""
    tie: np.ndarray
    """(n,) uint64, hash of (seed, id)."""
    group: np.ndarray
    """(n,) int16, the group whose budget it draws on, or -1 where it may not be taken."""

    def digit(self, level: int) -> np.ndarray:
        """(n,) digit ``level``, 0 the most significant."""
        if level < 2:
            return (self.key >> np.uint32(16 * (1 - level))) & np.uint32(0xFFFF)
        return (self.tie >> np.uint64(16 * (DIGITS - 1 - level))) & np.uint64(0xFFFF)

    def against(self, prefix: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(n,) bool twice: above the bin that ``prefix`` names, and inside it."""
        inside = np.ones(len(self.key), dtype=bool)
        above = np.zeros(len(self.key), dtype=bool)
        for level, wanted in enumerate(prefix):
            digit = self.digit(level)
            above |= inside & (digit > wanted)
            inside &= digit == wanted
        return above, inside


@dataclass(frozen=True, slots=True)
class Tally:
    """One unit's sums by digit, for each group: both (groups, 65536) int64."""

    sizes: np.ndarray
    counts: np.ndarray

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.sizes + other.sizes, self.counts + other.counts)


@dataclass(frozen=True, slots=True)
class Cutoff:
    """Where a group's budget is crossed."""

    prefix: tuple[int, ...]
    """Digits of the bin in which it is crossed; empty where the whole group fits."""
    above: int
    """Size of what stands above that bin: taken whole."""
    inside: int
    """Documents in that bin: one, unless score and hash are equal to the last bit."""
    total: int
    """Size of the whole group."""
    quota: int

    @property
    def short(self) -> int:
        """What the group lacks to fill its quota."""
        return max(0, self.quota - self.total)

    @property
    def everything(self) -> bool:
        """Whether every document of the group is taken."""
        return not self.prefix


def tally(
    order: Order, sizes: np.ndarray, prefixes: Sequence[tuple[int, ...] | None], level: int
) -> Tally:
    """Sum sizes by digit ``level``, for each group inside its prefix.

    Args:
        order: Of n documents.
        sizes: (n,) int64; a document of size 0 is not there.
        prefixes: For each group the digits so far, or None where it needs no more.
        level: The digit to sum by.
    """
    digits = order.digit(level).astype(np.int64)
    out = Tally(
        np.zeros((len(prefixes), _BINS), dtype=np.int64),
        np.zeros((len(prefixes), _BINS), dtype=np.int64),
    )
    present = sizes > 0
    for group, prefix in enumerate(prefixes):
        if prefix is None:
            continue
        chosen = present & (order.group == group) & order.against(prefix)[1]
        # Integer sums: bincount's own weights would be float64.
        np.add.at(out.sizes[group], digits[chosen], sizes[chosen])
        out.counts[group] = np.bincount(digits[chosen], minlength=_BINS)
    return out


def find_cutoffs(
    quotas: Sequence[int],
    tallies: Callable[[Sequence[tuple[int, ...] | None], int], Iterable[Tally]],
) -> list[Cutoff]:
    """Find, for each group, where its quota is crossed.

    Args:
        quotas: Of each group, in the unit of the sizes; a group with 0 gives nothing.
        tallies: ``tallies(prefixes, level)`` gives :func:`tally` of every unit, in any order.
    """
    searches = [
        _Search(quota) if quota else _Search(0, prefix=_ABOVE_ALL, done=True) for quota in quotas
    ]
    for level in range(DIGITS):
        prefixes = [None if search.done else search.prefix for search in searches]
        if all(prefix is None for prefix in prefixes):
            break
        total = functools.reduce(operator.add, tallies(prefixes, level))
        for search, sizes, counts in zip(searches, total.sizes, total.counts):
            if not search.done:
                search.narrow(sizes, counts)
    return [search.cutoff() for search in searches]


@dataclass(slots=True)
class _Search:
    """The state of one group's search."""

    quota: int
    prefix: tuple[int, ...] = ()
    above: int = 0
    inside: int = 0
    total: int = 0
    done: bool = False

    def narrow(self, sizes: np.ndarray, counts: np.ndarray) -> None:
        """Go one digit further: (65536,) sums and counts inside the prefix."""
        from_top = np.cumsum(sizes[::-1])
        if not self.prefix:
            self.total = int(from_top[-1])
            if self.total <= self.quota:
                self.above, self.done = self.total, True
                return
        position = int(np.searchsorted(from_top, self.quota - self.above))
        digit = _BINS - 1 - position
        self.above += int(from_top[position - 1]) if position else 0
        self.inside = int(counts[digit])
        self.prefix = (*self.prefix, digit)
        self.done = self.inside == 1

    def cutoff(self) -> Cutoff:
        return Cutoff(self.prefix, self.above, self.inside, self.total, self.quota)
