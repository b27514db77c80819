"""Facility location: order documents by how well each represents those not yet represented.

f(X) = sum_i max_{j in X} s_ij, where similarities s below zero count as zero and f of the empty set
is zero. With m_i = max_{j in X} s_ij, adding e gains sum_i max(0, s_ie - m_i). Taking the largest
gain each time comes within 1 - 1/e of the best set of any size (Nemhauser, Wolsey & Fisher 1978).
Gains only fall, so an old gain is an upper bound: **lazy** greedy (Minoux 1978) keeps them in a
heap, computes again only the gain at the top, and picks exactly what computing all would pick.

**Exact.** Similarities of lattice vectors
(:func:`penstock.selectors.encoders.lattice.on_lattice`) are
integers up to 2^24, held as float32; gains are sums of them in float64, exact below 2^29
documents. So the order of summation, SIMD width and threads change nothing, and equal gains are
exactly equal. Of these the first row is picked: rows are in the order of their hashes. A matrix of
other floats is maximised to within its rounding.

**Memory.** A similarity below m_i never counts again. Once an eighth of a row is left, the rest is
copied to a list, which is compacted in place each time it is read: 8,192 documents are ordered to
the last in 0.2 s on one core, after 1.0 s for the matrix. The matrix takes 4 n^2 bytes and the
lists at most n^2 more: 320 MiB for 8,192. Beyond :data:`DENSE` documents each keeps only its
nearest (Lindgren, Wu & Dimakis 2016, *Leveraging Sparsity for Efficient Submodular Data
Summarization*).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa

from penstock.compiling import cached
from penstock.hashing import hash_ids, uniform

__all__ = ["DENSE", "Picks", "Similarities", "lazier_greedy", "lazy_greedy"]

DENSE = 12_288
"""Documents whose similarities are all kept: 576 MiB, and 144 MiB at most beside them."""

_ROWS = 1024
"""Rows of similarities computed at once; products are exact, so any number gives the same."""

_FAST = {"reassoc", "nsz", "nnan"}
"""Flags that let LLVM sum in SIMD lanes: 2.5 times faster, and sums of integers stay equal."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picks:
    """The picks of a maximiser, best first."""

    order: np.ndarray
    """(k,) int64 rows."""
    gains: np.ndarray
    """(k,) float64: the gain in f of each pick; they sum to f."""

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Similarities:
    """Similarities of candidates and documents: all of them, or each document's nearest."""

    dense: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """(n, n) float32 or float64, finite and symmetric; (0, 0) where the lists are used."""
    starts: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))
    """(n + 1,) int64: where candidate e's list begins in ``rows`` and ``values``; or (1,)."""
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    """(t,) int32: the documents that have candidate e among their nearest, ascending."""
    values: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    """(t,) float32."""
    unit: float = 1.0
    """The value of a similarity of 1: for cosines, the squared scale of the lattice."""

    @classmethod
    def of(cls, vectors: np.ndarray, *, neighbours: int, dense: int = DENSE) -> Similarities:
        """Compute the cosines of vectors on the lattice.

        Args:
            vectors: (n, d) int16, on the lattice.
            neighbours: Similarities that each of more than ``dense`` documents keeps, its own
                included; of equally near documents the first.
            dense: The most documents whose similarities are all kept.
        """
        unit = (4095 - math.sqrt(vectors.shape[1]) / 2) ** 2
        floats = vectors.astype(np.float32)
        if len(vectors) > dense:
            rows, values = _nearest(floats, min(neighbours, len(vectors)))
            starts, rows, values = _by_candidate(rows, values)
            return cls(starts=starts, rows=rows, values=values, unit=unit)
        matrix = np.empty((len(vectors), len(vectors)), np.float32)
        for start in range(0, len(vectors), _ROWS):
            end = start + _ROWS
            np.matmul(floats[start:end], floats[start:].T, out=matrix[start:end, start:])
            matrix[end:, start:end] = matrix[start:end, end:].T
        return cls(dense=matrix, unit=unit)

    def __len__(self) -> int:
        return max(len(self.dense), len(self.starts) - 1)

    def value(self, rows: np.ndarray) -> float:
        """Compute f of some rows, (k,) int64."""
        state = self._state(packed=False)
        return float(_value(state, np.asarray(rows, np.int64)) / self.unit)

    def _state(self, packed: bool = True) -> _Coverage:
        """Return the state before the first pick; ``packed`` if lists will be written."""
        count = len(self)
        begin, length, rows, values = self.starts[:-1], np.diff(self.starts), self.rows, self.values
        if len(self.dense):
            begin, length = np.full(count, -1, np.int64), np.zeros(count, np.int64)
            spare = count * (count // 8) + 1 if packed else 1  # pages are touched as written
            rows, values = np.empty(spare, np.int32), np.empty(spare, self.dense.dtype)
        elif packed:
            rows, values = rows.copy(), values.copy()
        covered, top = np.zeros(count, self.dense.dtype), np.zeros(1, np.int64)
        return _Coverage(self.dense, covered, begin, length, rows, values, top)


def lazy_greedy(
    similarities: Similarities, picks: int | None = None, *, first: Sequence[int] | np.ndarray = ()
) -> Picks:
    """Pick the largest gain each time; of equal gains the first row.

    Args:
        similarities: Of n documents.
        picks: Number of picks; by default all.
        first: Rows that are picked before all others, in this order.
    """
    ahead = np.asarray(first, np.int64)
    order, gains = _empty_picks(len(similarities), picks)
    _lazy(similarities._state(), ahead, order, gains)
    return Picks(order=order, gains=gains / similarities.unit)


def lazier_greedy(
    similarities: Similarities, picks: int | None = None, *, key: int, epsilon: float = 0.1
) -> Picks:
    """Pick the largest gain of (n / k) ln(1 / epsilon) candidates drawn anew each time.

    *Lazier than lazy greedy* (Mirzasoleiman et al. 2015): 1 - 1/e - epsilon in expectation. With
    k near n it draws two candidates a pick, and the order is mostly random.

    Args:
        similarities: Of n documents.
        picks: k; by default all.
        key: The seed of the draws (:func:`penstock.hashing.mix`).
        epsilon: As above.
    """
    order, gains = _empty_picks(len(similarities), picks)
    drawn = max(1, int(len(similarities) / max(1, len(order)) * math.log(1 / epsilon)))
    numbers = pa.array(np.arange(len(order) * drawn).astype(str))
    chances = uniform(hash_ids(numbers, key)).reshape(len(order), drawn)
    _lazier(similarities._state(), chances, order, gains)
    return Picks(order=order, gains=gains / similarities.unit)


def _empty_picks(count: int, picks: int | None) -> tuple[np.ndarray, np.ndarray]:
    size = count if picks is None else min(picks, count)
    return np.empty(size, np.int64), np.empty(size, np.float64)


# The maximisers


class _Coverage(NamedTuple):
    dense: np.ndarray
    covered: np.ndarray
    """(n,) m: each document's best similarity so far."""
    begin: np.ndarray
    """(n,) int64: where a candidate's list begins, -1 while its row is read whole."""
    length: np.ndarray
    """(n,) int64: the length of that list."""
    rows: np.ndarray
    values: np.ndarray
    top: np.ndarray
    """(1,) int64: where the next list begins."""


@cached(nogil=True, fastmath=_FAST)
def _gain_of_row(similarities: np.ndarray, covered: np.ndarray) -> tuple[float, int]:
    """Return the gain of a whole row, and the number of entries that gain."""
    total = 0.0
    alive = 0
    for row in range(similarities.shape[0]):
        more = similarities[row] - covered[row]
        total += more if more > 0 else 0.0
        alive += 1 if more > 0 else 0
    return total, alive


@cached(nogil=True, fastmath=_FAST)
def _pack_row(
    similarities: np.ndarray, covered: np.ndarray, rows: np.ndarray, values: np.ndarray, to: int
) -> int:
    """Copy the entries that gain, without a branch; return where the next list begins."""
    for row in range(similarities.shape[0]):
        rows[to] = row
        values[to] = similarities[row]
        to += 1 if similarities[row] > covered[row] else 0
    return to


@cached(nogil=True, fastmath=_FAST)
def _gain_of_list(
    rows: np.ndarray, values: np.ndarray, begin: int, length: int, covered: np.ndarray
) -> tuple[float, int]:
    """Return the gain of a list, and its length after dropping entries that gain nothing."""
    total = 0.0
    to = begin
    for at in range(begin, begin + length):
        row = rows[at]
        value = values[at]
        more = value - covered[row]
        rows[to] = row
        values[to] = value
        total += more if more > 0 else 0.0
        to += 1 if more > 0 else 0
    return total, to - begin


@cached(nogil=True)
def _gain(state: _Coverage, candidate: int) -> float:
    begin = state.begin[candidate]
    if begin >= 0:
        gain, state.length[candidate] = _gain_of_list(
            state.rows, state.values, begin, state.length[candidate], state.covered
        )
        return gain
    row = state.dense[candidate]
    gain, alive = _gain_of_row(row, state.covered)
    if 8 * alive <= row.shape[0]:
        top = state.top[0]
        state.top[0] = _pack_row(row, state.covered, state.rows, state.values, top)
        state.begin[candidate] = top
        state.length[candidate] = alive
    return gain


@cached(nogil=True)
def _cover(state: _Coverage, candidate: int) -> None:
    """Raise m to the candidate's similarities."""
    covered = state.covered
    begin = state.begin[candidate]
    if begin >= 0:
        for at in range(begin, begin + state.length[candidate]):
            row = state.rows[at]
            covered[row] = max(covered[row], state.values[at])
    else:
        similarities = state.dense[candidate]
        for row in range(similarities.shape[0]):
            covered[row] = max(covered[row], similarities[row])


@cached(nogil=True)
def _value(state: _Coverage, rows: np.ndarray) -> float:
    for candidate in rows:
        _cover(state, candidate)
    total = 0.0
    for row in range(state.covered.shape[0]):
        total += state.covered[row]
    return total


@cached(nogil=True)
def _lazy(state: _Coverage, first: np.ndarray, order: np.ndarray, gains: np.ndarray) -> None:
    count = state.covered.shape[0]
    taken = np.zeros(count, np.bool_)
    picked = 0
    for candidate in first[: order.shape[0]]:
        order[picked], gains[picked] = candidate, _gain(state, candidate)
        _cover(state, candidate)
        taken[candidate] = True
        picked += 1
    seen = np.full(count, picked, np.int64)  # the number of picks when the gain was computed
    # The least first: larger gains first, of equal gains the first row.
    heap = [(-_gain(state, candidate), candidate) for candidate in np.flatnonzero(~taken)]
    heapq.heapify(heap)
    while picked < order.shape[0]:
        bound, candidate = heap[0]
        if seen[candidate] == picked:
            order[picked], gains[picked] = candidate, -bound
            _cover(state, candidate)
            picked += 1
            heapq.heappop(heap)
        else:
            seen[candidate] = picked
            heapq.heapreplace(heap, (-_gain(state, candidate), candidate))


@cached(nogil=True)
def _lazier(state: _Coverage, chances: np.ndarray, order: np.ndarray, gains: np.ndarray) -> None:
    left = np.arange(state.covered.shape[0])
    size = left.shape[0]
    for picked in range(order.shape[0]):
        best, most = 0, -1.0
        for at in range(min(chances.shape[1], size)):
            drawn = at + np.int64(chances[picked, at] * (size - at))
            left[at], left[drawn] = left[drawn], left[at]
            gain = _gain(state, left[at])
            if gain > most or (gain == most and left[at] < left[best]):
                best, most = at, gain
        order[picked], gains[picked] = left[best], most
        _cover(state, left[best])
        size -= 1
        left[best] = left[size]


# The nearest of each


def _nearest(vectors: np.ndarray, kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Find each document's nearest, itself included: (n, kept) int32, float32; -1 for none.

    Args:
        vectors: (n, d) float32 of integers.
        kept: At most n. Documents with a cosine of 0 or less are not kept.
    """
    rows = np.full((len(vectors), kept), -1, np.int32)
    values = np.zeros((len(vectors), kept), np.float32)
    for start in range(0, len(vectors), _ROWS):
        block = slice(start, start + _ROWS)
        _keep_nearest(vectors[block] @ vectors.T, start, rows[block], values[block])
    return rows, values


@cached(nogil=True)
def _keep_nearest(
    similarities: np.ndarray, start: int, rows: np.ndarray, values: np.ndarray
) -> None:
    """Keep each document itself in the last column, its nearest in a heap, farthest on top."""
    room = rows.shape[1] - 1
    for line in range(similarities.shape[0]):
        own = start + line
        near, far = rows[line], values[line]
        near[room], far[room] = own, similarities[line, own]
        if room == 0:
            continue
        for row in range(similarities.shape[1]):
            value = similarities[line, row]
            # Rows ascend, so of equally near documents the first stays.
            if not value > far[0] or row == own:
                continue
            at = 0
            while True:
                child = 2 * at + 1
                if child >= room:
                    break
                if child + 1 < room and _farther(near, far, child + 1, child):
                    child += 1
                if far[child] > value or (far[child] == value and near[child] < row):
                    break
                near[at], far[at] = near[child], far[child]
                at = child
            near[at], far[at] = row, value


@numba.njit(inline="always")
def _farther(near: np.ndarray, far: np.ndarray, one: int, other: int) -> bool:
    """Order that heap: smaller similarities first, of equal ones the last row."""
    return far[one] < far[other] or (far[one] == far[other] and near[one] > near[other])


def _by_candidate(
    near: np.ndarray, similarities: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn each document's nearest into a list, for each candidate, of documents it is near."""
    some = near >= 0
    candidates = near[some]
    by_candidate = np.argsort(candidates, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(candidates, minlength=len(near))))
    rows = np.nonzero(some)[0].astype(np.int32)
    return starts, rows[by_candidate], similarities[some][by_candidate]
