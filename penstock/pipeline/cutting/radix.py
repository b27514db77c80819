"""Find the exact cutoff of a budget in a pool by radix selection, without sorting the pool.

Documents are ordered by score, then by a hash of seed, id and text: 96 bits, read a digit at a
time. A pass over the units sums document sizes by the next digit, only for documents whose first
bits are those of the bin in which the budget is crossed. Sums are of integers, so they do not
depend on the order of units. With digits of 16 bits two passes fix the score to the last bit, and a
third or fourth separates equal scores. A digit has 16 bits for up to 16 groups and 8 bits for more:
a pass holds at most 16 MiB of sums (or 4 KiB for each group) for a pool of any size; 8 bits take
twice the passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.compiling import cached, is_compiled

__all__ = [
    "ABOVE",
    "ALL",
    "BELOW",
    "INSIDE",
    "NONE",
    "Cutoff",
    "DigitSums",
    "Order",
    "Prefix",
    "find_cutoffs",
    "is_ready",
    "order_bits",
    "score_of",
    "sum_by_digit",
]

BITS = 96
"""Bits of a sort key: 32 of the score, 64 of the hash that breaks ties."""

_FEW = 16
"""Groups up to which a digit has 16 bits: 1 MiB of sums for each."""

BELOW, INSIDE, ABOVE = 0, 1, 2
"""Position of a document relative to the prefix of its group."""


def order_bits(scores: np.ndarray) -> np.ndarray:
    """Map float32 to uint32 so that order is kept; -0.0 and 0.0 are one value.

    Args:
        scores: (n,) float32 without NaN.

    Returns:
        (n,) uint32; ``a < b`` exactly where the scores are. Never 0 nor 2**32 - 1.
    """
    bits = (np.asarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32)
    # All ones where the sign is set: an arithmetic shift.
    negative = (bits.view(np.int32) >> np.int32(31)).view(np.uint32)
    return bits ^ (negative | np.uint32(0x80000000))


def score_of(keys: np.ndarray) -> np.ndarray:
    """Invert :func:`order_bits`: (n,) uint32 to (n,) float32."""
    positive = (keys.view(np.int32) >> np.int32(31)).view(np.uint32)
    return (keys ^ (~positive | np.uint32(0x80000000))).view(np.float32)


@dataclass(frozen=True, slots=True)
class Prefix:
    """A bin of documents: those whose first ``bits`` of 96 bits are these."""

    bits: int = 0
    key: int = 0
    """uint32, the first 32 bits; zero from ``bits`` on."""
    tie: int = 0
    """uint64, the other 64."""

    def then(self, digit: int, width: int) -> Prefix:
        """Append ``width`` bits to this prefix; no digit straddles key and tie."""
        bits = self.bits + width
        if bits <= 32:
            return Prefix(bits, self.key | digit << (32 - bits), 0)
        return Prefix(bits, self.key, self.tie | digit << (BITS - bits))

    @property
    def masks(self) -> tuple[int, int]:
        """Bit masks of key and tie: ones where the bits are fixed."""
        left = (1 << BITS) - (1 << (BITS - self.bits))
        return left >> 64, left & 0xFFFFFFFFFFFFFFFF


ALL = Prefix(32, 0)
"""Every document is above this bin, and none inside: no score has these bits."""

NONE = Prefix(32, 0xFFFFFFFF)
"""No document is above this bin or inside it."""


@dataclass(frozen=True, slots=True)
class Order:
    """Sort keys of the documents of a unit: higher is taken earlier."""

    key: np.ndarray
    """(n,) uint32, :func:`order_bits` of the score."""
    tie: np.ndarray
    """(n,) uint64, hash of (seed, id)."""
    group: np.ndarray
    """(n,) int16, the group whose quota it counts against, or -1 where it may not be taken."""

    def against(self, prefixes: Sequence[Prefix]) -> np.ndarray:
        """Compare each document with the prefix of its group: (n,) uint8 of ABOVE, INSIDE, BELOW;
        BELOW without a group."""
        masks = [prefix.masks for prefix in prefixes]
        return _against(
            self.key,
            self.tie,
            self.group,
            np.array([prefix.key for prefix in prefixes], dtype=np.uint32),
            np.array([prefix.tie for prefix in prefixes], dtype=np.uint64),
            np.array([key for key, _ in masks], dtype=np.uint32),
            np.array([tie for _, tie in masks], dtype=np.uint64),
        )


@cached(nogil=True)
def _against(
    key: np.ndarray,
    tie: np.ndarray,
    group: np.ndarray,
    prefix_key: np.ndarray,
    prefix_tie: np.ndarray,
    key_mask: np.ndarray,
    tie_mask: np.ndarray,
) -> np.ndarray:
    stands = np.zeros(key.shape[0], dtype=np.uint8)
    for row in range(key.shape[0]):
        mine = group[row]
        if mine < 0:
            continue
        high = key[row] & key_mask[mine]
        if high > prefix_key[mine]:
            stands[row] = ABOVE
        elif high == prefix_key[mine]:
            # The score separates most documents: the hash is seldom read.
            low = tie[row] & tie_mask[mine]
            if low > prefix_tie[mine]:
                stands[row] = ABOVE
            elif low == prefix_tie[mine]:
                stands[row] = INSIDE
    return stands


@dataclass(frozen=True, slots=True)
class DigitSums:
    """Sums by digit, of the non-empty bins only: a small result of a task."""

    bins: np.ndarray
    """(b,) int64, search * 2**width + digit, ascending."""
    sums: np.ndarray
    """(b, 2) int64: size, documents."""


def sum_by_digit(
    orders: Iterable[tuple[Order, np.ndarray]], prefixes: Sequence[Prefix | None], width: int
) -> DigitSums:
    """Sum sizes by the next digit, for each group inside its prefix.

    Args:
        orders: Orders of some units, each with the (n,) int64 sizes of its documents; documents of
            size 0 are left out.
        prefixes: Bits of each group so far, all of one length; None for a finished group.
        width: Bits of the digit.
    """
    wanted = [prefix for prefix in prefixes if prefix is not None]
    slots = np.full(len(prefixes), -1, dtype=np.int64)
    slots[[prefix is not None for prefix in prefixes]] = np.arange(len(wanted))
    bits = wanted[0].bits
    assert all(prefix.bits == bits for prefix in wanted)
    key_mask, tie_mask = wanted[0].masks
    of_tie = bits >= 32
    shift = (BITS if of_tie else 32) - bits - width
    sums = np.zeros((len(wanted) << width, 2), dtype=np.int64)
    for order, sizes in orders:
        _sum_by_digit(
            order.key,
            order.tie,
            order.group,
            sizes,
            slots,
            np.array([prefix.key for prefix in wanted], dtype=np.uint32),
            np.array([prefix.tie for prefix in wanted], dtype=np.uint64),
            np.uint32(key_mask),
            np.uint64(tie_mask),
            of_tie,
            np.uint64(shift),
            np.int64(width),
            sums,
        )
    bins = np.flatnonzero(sums[:, 1])
    return DigitSums(bins, sums[bins])


def is_ready() -> bool:
    """Return whether the loops here are compiled: a cut was made on this machine by this code."""
    return is_compiled(_sum_by_digit)


@cached(nogil=True)
def _sum_by_digit(
    key: np.ndarray,
    tie: np.ndarray,
    group: np.ndarray,
    sizes: np.ndarray,
    slots: np.ndarray,
    prefix_key: np.ndarray,
    prefix_tie: np.ndarray,
    key_mask: np.uint32,
    tie_mask: np.uint64,
    of_tie: bool,
    shift: np.uint64,
    width: np.int64,
    sums: np.ndarray,
) -> None:
    """Make one pass over a unit: group, prefix, digit and sums of each document in turn."""
    low = (np.uint64(1) << np.uint64(width)) - np.uint64(1)
    for row in range(key.shape[0]):
        if group[row] < 0:
            continue
        slot = slots[group[row]]
        if slot < 0 or key[row] & key_mask != prefix_key[slot]:
            continue
        if of_tie:
            if tie[row] & tie_mask != prefix_tie[slot]:
                continue
            digit = (tie[row] >> shift) & low
        else:
            digit = (np.uint64(key[row]) >> shift) & low
        if sizes[row] > 0:
            place = (slot << width) + np.int64(digit)
            sums[place, 0] += sizes[row]
            sums[place, 1] += 1


@dataclass(frozen=True, slots=True)
class Cutoff:
    """The point in the order at which a group's quota is crossed."""

    prefix: Prefix
    """Bin in which the quota is crossed; ALL if the whole group fits, NONE if no document does."""
    above: int
    """Size of the documents above that bin: they are taken whole."""
    inside: int
    """Documents in that bin: one, unless score and hash are equal to the last bit."""
    total: int
    """Size of the whole group."""
    quota: int

    @property
    def short(self) -> int:
        """Size that the group lacks to fill its quota."""
        return max(0, self.quota - self.total)

    @property
    def everything(self) -> bool:
        """True if every document of the group is taken."""
        return self.prefix == ALL


def find_cutoffs(
    quotas: Sequence[int],
    tallies: Callable[[Sequence[Prefix | None], int], Iterable[DigitSums]],
    slack: float = 0,
) -> list[Cutoff]:
    """Find, for each group, where its quota is crossed.

    Args:
        quotas: Quota of each group, in the unit of the sizes; 0 takes no documents.
        tallies: ``tallies(prefixes, width)`` yields :func:`sum_by_digit` of all units, in any
            order.
        slack: A bin of at most this share of the quota is not divided further, so that a cutoff
            may have many documents inside; for a plan that need not be exact.
    """
    searches = [_GroupSearch(quota, slack) for quota in quotas]
    width = 16 if len(quotas) <= _FEW else 8
    for _ in range(BITS // width):
        left = [search for search in searches if not search.done]
        if not left:
            break
        total = np.zeros((len(left) << width, 2), dtype=np.int64)
        for part in tallies([None if s.done else s.prefix for s in searches], width):
            total[part.bins] += part.sums
        for search, sums in zip(left, total.reshape(len(left), -1, 2)):
            search.narrow(sums, width)
    return [search.cutoff() for search in searches]


class _GroupSearch:
    """The state of one group's search."""

    def __init__(self, quota: int, slack: float) -> None:
        self.quota = quota
        self.slack = slack
        self.prefix = Prefix() if quota else NONE
        self.above = self.inside = self.total = 0
        self.done = not quota

    def narrow(self, sums: np.ndarray, width: int) -> None:
        """Take one digit more, by the (2**width, 2) sums inside the prefix."""
        from_top = np.cumsum(sums[::-1, 0])
        if not self.prefix.bits:
            self.total = int(from_top[-1])
            if self.total <= self.quota:
                self.prefix, self.above, self.done = ALL, self.total, True
                return
        position = int(np.searchsorted(from_top, self.quota - self.above))
        self.above += int(from_top[position - 1]) if position else 0
        digit = len(sums) - 1 - position
        size, self.inside = map(int, sums[digit])
        self.prefix = self.prefix.then(digit, width)
        self.done = self.inside == 1 or size <= self.slack * self.quota

    def cutoff(self) -> Cutoff:
        return Cutoff(self.prefix, self.above, self.inside, self.total, self.quota)
