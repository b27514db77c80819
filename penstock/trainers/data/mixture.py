"""How often each source is read: exact shares of the sequences, by phases of the budget.

A phase deals its sequences to sources like a line of people to doors: at each door every k-th
passes, the rest walk on to the next. How many of the first m have passed a door is a rounded
multiple of m, so who takes place m, and as which of that source's own, is known without looking at
what came before; and after any number of sequences no source is more than one for each door before
it away from its share. Phases begin at token counts (domain upsampling at the end of training,
Blakeney et al. 2024), so a restart finds the boundary where it was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Mixture", "Phase"]

_SCALE = 28
_HALF = 1 << (_SCALE - 1)
"""Shares are whole multiples of 2^-28: integers have no rounding that depends on a machine, and
leave room for 2^35 positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """From its beginning to the next, sources are read in these shares."""

    first: int
    """The position of its first sequence."""
    weights: Mapping[str, float]
    """Of each source, in any unit; one without a weight is not read."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Sends positions of a run's stream to (source, how many of that source came before).

    Args:
        sources: Every source's name, in the order of the numbers that :meth:`sources_at` gives.
        phases: At least one, the first from position 0, in order.
    """

    sources: Sequence[str]
    phases: Sequence[Phase]
    _doors: list[list[tuple[int, int]]] = field(init=False, repr=False)
    """Of each phase, (source, passing share in 2^-28) for each source that it reads."""
    _before: list[np.ndarray] = field(init=False, repr=False)
    """Of each phase, (sources,) int64: what was read of each source before it."""

    def __post_init__(self) -> None:
        doors = [self._doors_of(phase.weights) for phase in self.phases]
        before = [np.zeros(len(self.sources), np.int64)]
        for number, (phase, following) in enumerate(zip(self.phases, self.phases[1:])):
            length = following.first - phase.first
            before.append(before[-1] + _passed(doors[number], length, len(self.sources)))
        object.__setattr__(self, "_doors", doors)
        object.__setattr__(self, "_before", before)

    def sources_at(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Who is read at positions ``first`` to ``last``.

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
            piece = slice(begin - first, end - first)
            local = np.arange(begin, end) - self.phases[number].first
            source[piece], rank[piece] = _dealt(self._doors[number], local)
            rank[piece] += self._before[number][source[piece]]
            begin = end
        return source, rank

    def read(self, positions: int) -> np.ndarray:
        """How many sequences of each source the first ``positions`` read: (sources,) int64."""
        number = self._phase_at(positions)
        length = positions - self.phases[number].first
        return self._before[number] + _passed(self._doors[number], length, len(self.sources))

    def _phase_at(self, position: int) -> int:
        return bisect_right([phase.first for phase in self.phases], position) - 1

    def _doors_of(self, weights: Mapping[str, float]) -> list[tuple[int, int]]:
        positive = [(self.sources.index(name), w) for name, w in weights.items() if w > 0]
        positive.sort()
        left = [sum(weight for _, weight in positive[n:]) for n in range(len(positive))]
        shares = [weight / rest for (_, weight), rest in zip(positive, left)]
        shares[-1] = 1.0
        return [(source, round(share * 2**_SCALE)) for (source, _), share in zip(positive, shares)]


def _passed(doors: Sequence[tuple[int, int]], length: int, sources: int) -> np.ndarray:
    """Of ``length`` that come in, how many pass each source's door: (sources,) int64."""
    counts = np.zeros(sources, np.int64)
    for source, share in doors:
        counts[source] = (length * share + _HALF) >> _SCALE
        length -= int(counts[source])
    return counts


def _dealt(doors: Sequence[tuple[int, int]], local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source and rank of the places ``local`` (n,) int64 of a phase."""
    source = np.full(len(local), -1, np.int64)
    rank = np.empty(len(local), np.int64)
    waiting = local.copy()
    for number, share in doors:
        passed = (waiting * share + _HALF) >> _SCALE
        passes = (source < 0) & (((waiting + 1) * share + _HALF) >> _SCALE > passed)
        source[passes], rank[passes] = number, passed[passes]
        waiting -= passed
    return source, rank
