"""True similarity of documents that agree in a band: which of them belong together.

Agreement in a band is an estimate. Here the sets of n-grams of such documents are compared, and
only those of at least the threshold's Jaccard similarity stay linked.
"""

# mypy: disable-error-code="arg-type, no-any-return, return-value"
# (numba's decorated functions are Any to mypy, and NumPy's integers int)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock.compiling import compiler

__all__ = ["MOST_COMPARED", "Sets", "join_similar"]

MOST_COMPARED = 64
"""Documents of a band hash that each later one is compared with: of more, the first."""

_compiled = compiler()


class Sets(NamedTuple):
    """The sets of n-grams of n texts."""

    starts: np.ndarray  # (n + 1,) int64
    shingles: np.ndarray  # uint32: set i is shingles[starts[i]:starts[i + 1]], ascending


def join_similar(
    components: np.ndarray, bands: np.ndarray, sets: Sets, threshold: float
) -> np.ndarray:
    """Divide components into those of similar documents.

    Documents of one component that agree in a band are compared, each with the first
    :data:`MOST_COMPARED` of them unless both are joined already, so a million of them take linear
    time; up to 64, all pairs are compared that could change the result.

    Args:
        components: (n,) integers.
        bands: (n, b) uint64; documents agree in a band if these are equal.
        sets: Of the n documents.
        threshold: Jaccard similarity of documents that belong together, at least.

    Returns:
        (n,) int64: the first row of each row's new component.
    """
    parents = np.arange(len(components))
    rows = np.arange(len(components))
    for band in bands.T:
        order = np.lexsort((rows, band, components))
        begins = np.ones(len(order) + 1, bool)
        begins[1:-1] = band[order[1:]] != band[order[:-1]]
        begins[1:-1] |= components[order[1:]] != components[order[:-1]]
        _join_runs(order, np.flatnonzero(begins), *sets, threshold, parents)
    _flatten(parents)
    return parents


@_compiled
def _join_runs(
    order: np.ndarray,
    begins: np.ndarray,
    starts: np.ndarray,
    shingles: np.ndarray,
    threshold: float,
    parents: np.ndarray,
) -> None:
    """Join similar documents of each run of equal band hashes."""
    for run in range(len(begins) - 1):
        first, end = begins[run], begins[run + 1]
        for place in range(first + 1, end):
            row = order[place]
            for earlier in range(first, min(place, first + MOST_COMPARED)):
                other = order[earlier]
                here, there = _root(row, parents), _root(other, parents)
                if here != there and _similar(row, other, starts, shingles, threshold):
                    parents[max(here, there)] = min(here, there)


@_compiled
def _flatten(parents: np.ndarray) -> None:
    """Replace each row's parent, which is not a later row, by its root."""
    for row in range(len(parents)):
        parents[row] = parents[parents[row]]


@_compiled
def _root(row: int, parents: np.ndarray) -> int:
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


@_compiled
def _similar(
    one: int, other: int, starts: np.ndarray, shingles: np.ndarray, threshold: float
) -> bool:
    """Test whether the common n-grams are the threshold's share of all, or more."""
    here, end = starts[one], starts[one + 1]
    there, last = starts[other], starts[other + 1]
    sizes = (end - here) + (last - there)
    if min(end - here, last - there) / max(end - here, last - there) < threshold:
        return False
    common = 0
    while here < end and there < last:
        mine, its = shingles[here], shingles[there]
        common += mine == its
        here += mine <= its
        there += its <= mine
    return common / (sizes - common) >= threshold
