"""Ranks over a whole pool, without a process that sees the whole pool.

Each task sorts what some units give into a *run* and tells a regular sample of it; the samples
divide the order into *ranges* of about 2 million documents; a task for each range sorts what all
runs hold of it and counts on from the ranges above. The driver holds one document in 8,192 (12
bytes of it) and a number for each run and range. The sample makes ranges differ in size by some per
cent: ranks do not depend on where they are divided. Only documents that are equal to the last bit
of score and hash cannot be divided.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.node_cache import local_file
from penstock.pipeline.cutting.radix import Order
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath, atomic_file, is_remote

__all__ = ["RANGE", "Ranks", "descending", "make_ranks"]

RANGE = 1 << 21
"""Documents of a range, about: 100 MB while it is sorted."""

_SAMPLES = 256
"""Documents that a range is known by before it is counted."""

_RECORD = np.dtype([("key", "<u4"), ("tie", "<u8")])
"""A document of a run; both inverted, so that what is taken first comes first."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Where the ranks of one unit's documents lie."""

    place: AnyPath
    start: int
    count: int

    def read(self) -> np.ndarray:
        """(count,) int64 from 1, in the unit's order."""
        return _read(self.place, np.dtype("<i8"), self.start, self.count)


def descending(order: Order) -> np.ndarray:
    """The permutation that sorts documents best first: (n,) int64; equal ones stay as they are.

    One sort by 64 of the 96 bits, several times as fast as a stable one by key and tie, which then
    mends only what those bits leave equal.
    """
    key, tie = ~order.key, ~order.tie
    high = key.astype(np.uint64) << np.uint64(32) | tie >> np.uint64(32)
    places = np.argsort(high)
    high = high[places]
    same = high[1:] == high[:-1]
    if same.any():
        unsure = np.zeros(len(high), dtype=bool)
        unsure[1:] |= same
        unsure[:-1] |= same
        some = places[unsure]
        places[unsure] = some[np.lexsort((some, tie[some], key[some]))]
    return places


@dataclass(frozen=True, slots=True)
class _Run:
    """A sorted run, as the driver knows it."""

    counts: list[int]
    """Documents of each unit."""
    sample: np.ndarray
    """(s,) of :data:`_RECORD`."""


@dataclass(frozen=True, slots=True)
class _Shared:
    taken: Callable[[Any], Order]
    directory: AnyPath
    step: int

    def place(self, what: str, number: int) -> AnyPath:
        return self.directory / f"{what}-{number:05d}"


def make_ranks(
    batches: Sequence[Sequence[Any]],
    taken: Callable[[Any], Order],
    directory: AnyPath,
    runner: Runner,
    limit: int = RANGE,
) -> list[Ranks]:
    """Rank documents over all units: 1 for the best; equal ones in the units' order.

    Args:
        batches: Units, or what stands for them, in the corpus's order; a batch for each task.
        taken: ``taken(unit)`` gives the order of its documents that are to be ranked, in a task.
        directory: Scratch.
        runner: Who does it.
        limit: Documents of a range at most, about.

    Returns:
        For each unit, in order, where the ranks of its documents are.
    """
    shared = _Shared(taken, directory, max(1, limit // _SAMPLES))
    found = dict(runner.run(_sort_run, list(enumerate(batches)), shared))
    runs: list[_Run] = [found[number] for number in range(len(batches))]
    # Small pools have several ranges too, so that every slot has one.
    share = min(limit, sum(sum(run.counts) for run in runs) // (2 * runner.slots))
    splits = _splits(runs, max(1, share // shared.step))
    bounded = dict(runner.run(_bounds, range(len(runs)), (shared, splits)))
    bounds = np.array([bounded[number] for number in range(len(runs))])  # (runs, ranges + 1)
    starts, ends = bounds[:, :-1], bounds[:, 1:]
    sizes = (ends - starts).sum(axis=0)
    above = np.cumsum(sizes) - sizes
    ranges = [
        (number, int(above[number]), starts[:, number], ends[:, number])
        for number in range(len(sizes))
    ]
    for _ in runner.run(_rank_range, ranges, shared):
        pass
    offsets = np.cumsum(ends - starts, axis=0) - (ends - starts)
    pieces = [(number, offsets[number], bounds[number]) for number in range(len(runs))]
    for _ in runner.run(_collect, pieces, shared):
        pass
    ranks = []
    for number, run in enumerate(runs):
        edges = itertools.accumulate(run.counts, initial=0)
        for start, count in zip(edges, run.counts):
            ranks.append(Ranks(shared.place("ranks", number), start, count))
    return ranks


def _splits(runs: Sequence[_Run], samples: int) -> np.ndarray:
    """Distinct documents that ranges end with, best first: every so many of all samples."""
    sample = np.concatenate([run.sample for run in runs])
    return np.unique(np.sort(sample, order=("key", "tie"))[samples - 1 :: samples])


def _sort_run(item: tuple[int, Sequence[Any]], shared: _Shared) -> _Run:
    """Leave a batch's documents sorted, and the place of each in the batch."""
    number, units = item
    orders = [shared.taken(unit) for unit in units]
    whole = Order(
        np.concatenate([order.key for order in orders]),
        np.concatenate([order.tie for order in orders]),
        np.concatenate([order.group for order in orders]),
    )
    places = descending(whole)
    run = np.empty(len(places), dtype=_RECORD)
    run["key"] = ~whole.key[places]
    run["tie"] = ~whole.tie[places]
    _write(shared.place("run", number), run)
    _write(shared.place("places", number), places.astype("<u4"))
    return _Run([len(order.key) for order in orders], run[shared.step // 2 :: shared.step].copy())


def _bounds(number: int, state: tuple[_Shared, np.ndarray]) -> np.ndarray:
    """Where the ranges begin and end in a run: (ranges + 1,) int64."""
    shared, splits = state
    run = np.fromfile(local_file(shared.place("run", number)), dtype=_RECORD)
    key, tie = np.ascontiguousarray(run["key"]), run["tie"]
    first = np.searchsorted(key, splits["key"], side="left")
    last = np.searchsorted(key, splits["key"], side="right")
    inner = [
        low + int(np.searchsorted(tie[low:high], split, side="right"))
        for low, high, split in zip(first.tolist(), last.tolist(), splits["tie"])
    ]
    return np.array([0, *inner, len(run)], dtype=np.int64)


def _rank_range(item: tuple[int, int, np.ndarray, np.ndarray], shared: _Shared) -> None:
    """Rank the documents of a range: (m,) int64, one run after the other, each best first."""
    number, above, starts, ends = item
    parts = [
        _read(shared.place("run", run), _RECORD, start, end - start)
        for run, (start, end) in enumerate(zip(starts.tolist(), ends.tolist()))
        if end > start
    ]
    documents = np.concatenate(parts) if parts else np.empty(0, dtype=_RECORD)
    places = descending(Order(~documents["key"], ~documents["tie"], np.empty(0, np.int16)))
    ranks = np.empty(len(places), dtype="<i8")
    ranks[places] = np.arange(above + 1, above + 1 + len(places))
    _write(shared.place("range", number), ranks)


def _collect(item: tuple[int, np.ndarray, np.ndarray], shared: _Shared) -> None:
    """Bring a run's ranks home: (n,) int64 in the order of its batch."""
    number, offsets, bounds = item
    places = np.fromfile(local_file(shared.place("places", number)), dtype="<u4")
    ranks = np.empty(len(places), dtype="<i8")
    for place, (offset, start, end) in enumerate(
        zip(offsets.tolist(), bounds[:-1].tolist(), bounds[1:].tolist())
    ):
        if end > start:
            part = _read(shared.place("range", place), np.dtype("<i8"), offset, end - start)
            ranks[places[start:end]] = part
    _write(shared.place("ranks", number), ranks)


def _write(place: AnyPath, array: np.ndarray) -> None:
    with atomic_file(place, durable=False) as sink:
        sink.write(np.ascontiguousarray(array).view(np.uint8).data)


def _read(place: AnyPath, dtype: np.dtype, start: int, count: int) -> np.ndarray:
    """``count`` entries of a file of scratch, and no more of it where it is in a store."""
    if not count:  # a store takes an empty range for the whole file
        return np.empty(0, dtype=dtype)
    first, last = start * dtype.itemsize, (start + count) * dtype.itemsize
    if is_remote(place):
        data = place.fs.cat_file(place.path, start=first, end=last)
        return np.frombuffer(data, dtype=dtype)
    return np.fromfile(place, dtype=dtype, count=count, offset=first)
