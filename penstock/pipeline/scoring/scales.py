"""Order statistics over the whole pool, and the scale of a column: its robust standard deviation.

Exact, by two counting passes over files of float32, 4 bytes a document: the first counts the upper
16 bits of every value, the second the lower 16 of those that share their upper bits with an order
statistic. A task returns at most a number for each document of its file, and the sums are of
integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from penstock.artefact import Artefact, FileRecord
from penstock.pipeline.cutting.radix import order_bits, score_of
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit
from penstock.storage import AnyPath

__all__ = ["find_scale", "order_statistics"]

_TAILS = ((0.25, 1.349), (0.1, 2.563), (0.05, 3.290), (0.01, 4.653), (0.001, 6.180), (0.0, 6.180))
"""Share of the scores below the lower quantile and above the upper one, and their distance in
standard deviations of a normal distribution; for the range that of the thousandths."""

Counts: TypeAlias = Mapping[int, tuple[np.ndarray, np.ndarray]]
"""By upper bits: lower bits that occur, (k,) int64, ascending; and their counts, (k,) int64."""


def find_scale(column: Artefact, units: Sequence[Unit], runner: Runner) -> float:
    """Find the distance of two quantiles, in units of a normal distribution's.

    The quantiles are the quartiles, so that half of the scores, however extreme, hardly count.
    Where quartiles are equal (most documents have one score) they are those of smaller tails.

    Returns:
        The robust standard deviation; 0 where no two scores differ.
    """
    items = [(unit, column.files[unit.number]) for unit in units]
    ends: list[tuple[int, int]] = []

    def ranks(total: int) -> set[int]:
        if total:
            low = [_rank(tail, total) for tail, _ in _TAILS]
            ends.extend((rank, total - 1 - rank) for rank in low)
        return {rank for pair in ends for rank in pair}

    found = order_statistics(ranks, _scores, items, column.path, runner)
    for (low, high), (_, distance) in zip(ends, _TAILS):
        if found[high] > found[low]:
            return (found[high] - found[low]) / distance
    return 0.0


def _rank(share: float, total: int) -> int:
    return min(int(share * total), (total - 1) // 2)


def order_statistics(
    ranks: Callable[[int], set[int]],
    read: Callable[[Any, Any], np.ndarray],
    items: Sequence[Any],
    shared: Any,
    runner: Runner,
) -> dict[int, float]:
    """Find the values of some ranks among all values that are not NaN, exactly.

    Args:
        ranks: The number of values to the ranks, counted from 0 for the lowest.
        read: Module-level; called with an item and ``shared``, returns its values, (n,) float32.
        items: Together they have all values.
        shared: The same for every item.
        runner: Where items are read, each twice.
    """
    upper = np.zeros(1 << 16, dtype=np.int64)
    for _, (values, counts) in runner.run(_count_upper, items, (read, shared)):
        upper[values] += counts
    wanted = ranks(int(upper.sum()))
    ends = np.cumsum(upper)
    bins = {rank: int(np.searchsorted(ends, rank, side="right")) for rank in wanted}
    lower = {own: np.zeros(1 << 16, dtype=np.int64) for own in set(bins.values())}
    for _, part in runner.run(_count_lower, items, (read, shared, sorted(lower))):
        for own, (values, counts) in part.items():
            lower[own][values] += counts
    found = {}
    for rank, own in bins.items():
        before = int(ends[own] - upper[own])
        value = int(np.searchsorted(np.cumsum(lower[own]), rank - before, side="right"))
        found[rank] = float(score_of(np.array([own << 16 | value], dtype=np.uint32))[0])
    return found


_Read = tuple[Callable[[Any, Any], np.ndarray], Any]


def _scores(item: tuple[Unit, FileRecord], directory: AnyPath) -> np.ndarray:
    return read_scores(directory, item[1])


def _bits(item: Any, read: Callable[[Any, Any], np.ndarray], shared: Any) -> np.ndarray:
    values = read(item, shared)
    return order_bits(values[~np.isnan(values)])


def _count_upper(item: Any, shared: _Read) -> tuple[np.ndarray, np.ndarray]:
    values, counts = np.unique(_bits(item, *shared) >> np.uint32(16), return_counts=True)
    return values, counts


def _count_lower(item: Any, shared: tuple[Any, Any, Sequence[int]]) -> Counts:
    *source, wanted = shared
    bits = _bits(item, *source)
    upper = bits >> np.uint32(16)
    return {
        own: np.unique(bits[upper == np.uint32(own)] & np.uint32(0xFFFF), return_counts=True)
        for own in wanted
    }
