"""The order of training data: the source of each position, and its sequence in that source.

**Mixture**: which source each position reads, by exact shares, in phases of the budget.

A phase goes through its sources in order. Of the first m sequences that reach a source, exactly
floor((m · share + 2^27) / 2^28) are read from it and the rest go on to the next source; its share
is relative to the sources that are left, and the last one takes all. So the source of any position,
and the number of sequences read from that source before it, are computed without the positions
before. After any number of sequences, a source is off its share by at most one sequence for each
source up to it. Phases begin at token counts (domain upsampling at the end of training, Blakeney
et al. 2024), so a resumed run finds the same boundary.

**Permutation**: a Feistel network with cycle walking, stateless and pseudo-random. Any index of any
epoch can be computed by any worker at any time, so nothing is stored. It costs about 0.1 µs an
index.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from penstock.compiling import cached
from penstock.hashing import avalanche, mix

__all__ = ["Mixture", "Phase", "permute"]

_SHARE_BITS = 28
_HALF = 1 << (_SHARE_BITS - 1)
"""Shares are whole multiples of 2^-28: integers have no rounding that depends on a machine, and
leave room for 2^35 positions."""

FEISTEL_ROUNDS = 8
"""Four rounds make a pseudorandom permutation (Luby and Rackoff 1988); small domains need more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """The shares in which sources are read, from one position to the next phase."""

    first: int
    """Position of the phase's first sequence."""
    weights: Mapping[str, float]
    """A weight for each source, in any unit; a source without one is not read."""
    counted: int = 0
    """Sequences that an earlier run has read in these shares, so that they go on as if it did."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Maps positions to a source and the number of that source's sequences read before.

    Args:
        sources: Names; :meth:`sources_at` numbers the sources in this order.
        phases: At least one, in order; the first begins at position 0.
    """

    sources: Sequence[str]
    phases: Sequence[Phase]

    @functools.cached_property
    def _shares(self) -> list[list[tuple[int, int]]]:
        """For each phase, (source, share in 2^-28 of the sequences that reach it)."""
        return [self._relative_shares(phase.weights) for phase in self.phases]

    @functools.cached_property
    def _before(self) -> list[np.ndarray]:
        """For each phase, (sources,) int64: sequences read from each source before it."""
        before = [np.zeros(len(self.sources), np.int64)]
        for shares, (phase, following) in zip(self._shares, pairwise(self.phases)):
            length = following.first - phase.first
            before.append(before[-1] + self._read_in(phase, shares, length))
        return before

    def _read_in(self, phase: Phase, shares: Sequence[tuple[int, int]], length: int) -> np.ndarray:
        """Count the sequences of each source in the first ``length`` of a phase."""
        sources = len(self.sources)
        earlier = _counts(shares, phase.counted, sources)
        return _counts(shares, phase.counted + length, sources) - earlier

    def sources_at(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Compute the source of each position from ``first`` to before ``last``.

        Returns:
            (n,) int64 numbers of sources, and (n,) int64: how many sequences of that source were
            read at earlier positions.
        """
        source = np.empty(last - first, np.int64)
        rank = np.empty(last - first, np.int64)
        begin = first
        while begin < last:
            number = self._phase_at(begin)
            ends = [phase.first for phase in self.phases[number + 1 : number + 2]]
            end = min([last, *ends])
            part = slice(begin - first, end - first)
            phase, shares = self.phases[number], self._shares[number]
            local = np.arange(begin, end) - phase.first + phase.counted
            source[part], rank[part] = _assign(shares, local)
            earlier = _counts(shares, phase.counted, len(self.sources))
            rank[part] += (self._before[number] - earlier)[source[part]]
            begin = end
        return source, rank

    def read(self, positions: int) -> np.ndarray:
        """Count the sequences of each source in the first ``positions``: (sources,) int64."""
        number = self._phase_at(positions)
        phase = self.phases[number]
        length = positions - phase.first
        return self._before[number] + self._read_in(phase, self._shares[number], length)

    def shares_at(self, positions: int) -> tuple[Mapping[str, float], int]:
        """Return the shares after ``positions``, and how many sequences were read in them."""
        phase = self.phases[self._phase_at(positions)]
        return phase.weights, positions - phase.first + phase.counted

    def _phase_at(self, position: int) -> int:
        return bisect_right([phase.first for phase in self.phases], position) - 1

    def _relative_shares(self, weights: Mapping[str, float]) -> list[tuple[int, int]]:
        positive = [(self.sources.index(name), w) for name, w in weights.items() if w > 0]
        positive.sort()
        left = [sum(weight for _, weight in positive[n:]) for n in range(len(positive))]
        shares = [weight / rest for (_, weight), rest in zip(positive, left)]
        shares[-1] = 1.0
        return [
            (source, round(share * 2**_SHARE_BITS)) for (source, _), share in zip(positive, shares)
        ]


def _counts(shares: Sequence[tuple[int, int]], length: int, sources: int) -> np.ndarray:
    """Count the sequences of each source in the first ``length`` of a phase: (sources,) int64."""
    counts = np.zeros(sources, np.int64)
    for source, share in shares:
        counts[source] = (length * share + _HALF) >> _SHARE_BITS
        length -= int(counts[source])
    return counts


def _assign(shares: Sequence[tuple[int, int]], local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute source and rank of the positions ``local`` (n,) int64, counted within a phase."""
    source = np.full(len(local), -1, np.int64)
    rank = np.empty(len(local), np.int64)
    left = local.copy()
    for number, share in shares:
        read = (left * share + _HALF) >> _SHARE_BITS
        taken = (source < 0) & (((left + 1) * share + _HALF) >> _SHARE_BITS > read)
        source[taken], rank[taken] = number, read[taken]
        left -= read
    return source, rank


def permute(places: np.ndarray, size: int, key: int) -> np.ndarray:
    """Map indices to indices, one to one.

    The network permutes a power of four that is at most four times ``size``; a value outside the
    domain is passed through it again until it is inside (cycle walking, Black and Rogaway 2002),
    fewer than four times on average.

    Args:
        places: (n,) integers in [0, size).
        size: Size of the domain.
        key: Any integer; each key gives another permutation.

    Returns:
        (n,) int64 in [0, size).
    """
    half = max(1, (size - 1).bit_length() + 1 >> 1)
    moved: np.ndarray = _walk(
        places.astype(np.uint64), np.uint64(size), np.uint64(half), _round_keys(key)
    )
    return moved


@functools.lru_cache(64)
def _round_keys(key: int) -> np.ndarray:
    return np.array([mix(key, number) for number in range(FEISTEL_ROUNDS)], np.uint64)


@cached(nogil=True)
def _walk(places: np.ndarray, size: np.uint64, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    moved = np.empty(len(places), np.int64)
    low = (np.uint64(1) << half) - np.uint64(1)
    for number in range(len(places)):
        value, outside = places[number], True
        while outside:
            left, right = value >> half, value & low
            for key in keys:
                left, right = right, left ^ (avalanche(right ^ key) & low)
            value = (left << half) | right
            outside = value >= size
        moved[number] = value
    return moved
