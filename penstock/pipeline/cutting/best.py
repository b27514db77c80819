"""The draw ``uniform``: of the best documents of each group all are equally likely to be taken.

The tail of a score is where a selector is least like its purpose: FineWeb-Edu keeps every page that
is graded above 2.5, CCNet the head of 30 %, and both train on a random part of that. A radix
selection by bytes of text finds where the best share of each group ends
(:mod:`penstock.pipeline.cutting.radix`); documents below it are excluded from the order, and those
above it get one score, so that ties, a hash of (seed, document), decide among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from penstock.pipeline.cutting.budget import Quota
from penstock.pipeline.cutting.ordering import OrderedUnit, batches, write_order
from penstock.pipeline.cutting.radix import (
    ALL,
    BELOW,
    DigitSums,
    Order,
    Prefix,
    find_cutoffs,
    order_bits,
    score_of,
    sum_by_digit,
)
from penstock.pipeline.runner import Runner
from penstock.recipe_draw import Uniform
from penstock.storage import AnyPath

__all__ = ["Best", "equal_scores", "find_best", "text_of_best"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best documents of each group, all of one score."""

    orders: list[OrderedUnit]
    """The order of every unit, without the other documents."""
    quotas: list[Quota]
    """The quotas, with the bytes and the number of the best documents."""
    facts: Sequence[dict[str, Any]]
    """For each group its source, and the documents, bytes and lowest score of its best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """The state that every task shares."""

    directory: AnyPath
    groups: int
    prefixes: Sequence[Prefix]
    """Of each group, the bin of the last document that is among the best."""
    above: float
    """The score above which a document is among the best."""


@dataclass(frozen=True, slots=True)
class _Tally:
    """Documents of some units by group."""

    documents: np.ndarray
    """(groups,) int64."""
    bytes: np.ndarray
    """(groups,) int64."""
    lowest: np.ndarray
    """(groups,) uint32: the lowest sort key; all ones where there is no document."""


def find_best(
    orders: Sequence[OrderedUnit],
    uniform: Uniform,
    quotas: Sequence[Quota],
    directory: AnyPath,
    runner: Runner,
) -> Best:
    """Find the best documents of each group, and write orders of them alone.

    A document on the bound is among the best, so these hold ``keep`` of the text or just more.

    Args:
        orders: The order of every unit, by score.
        uniform: The share or the score that bounds the best.
        quotas: The quota of each group.
        directory: Where the new orders are written.
        runner: Runs a task for some units.
    """
    items = batches(orders, runner.slots)
    prefixes: Sequence[Prefix] = [ALL] * len(quotas)
    if uniform.keep is not None:
        text = np.zeros(len(quotas), dtype=np.int64)
        for _, part in runner.run(_count_text, items, len(quotas)):
            text += part

        def tallies(own: Sequence[Prefix | None], width: int) -> Iterator[DigitSums]:
            for _, sums in runner.run(_sum_text, items, (own, width)):
                yield sums

        wanted = text_of_best(uniform.keep, text.tolist())
        prefixes = [cutoff.prefix for cutoff in find_cutoffs(wanted, tallies)]
    above = -math.inf if uniform.above is None else uniform.above
    bounds = _Bounds(directory=directory, groups=len(quotas), prefixes=prefixes, above=above)
    documents, sizes = np.zeros((2, len(quotas)), dtype=np.int64)
    lowest = np.full(len(quotas), 0xFFFFFFFF, dtype=np.uint32)
    for _, tally in runner.run(_write_best, items, bounds):
        documents += tally.documents
        sizes += tally.bytes
        lowest = np.minimum(lowest, tally.lowest)
    scores = [float(score) if count else None for score, count in zip(score_of(lowest), documents)]
    counted = list(zip(quotas, documents.tolist(), sizes.tolist()))
    return Best(
        orders=[ordered._replace(directory=directory) for ordered in orders],
        quotas=[
            replace(quota, pool_documents=count, pool_bytes=size) for quota, count, size in counted
        ],
        facts=[
            {"source": quota.name, "documents": count, "bytes": size, "lowest": score}
            for (quota, count, size), score in zip(counted, scores)
        ],
    )


def text_of_best(keep: float, text: Sequence[int]) -> list[int]:
    """Return the bytes of text of the best documents of each group, which has ``text`` bytes."""
    share = Fraction(repr(keep))
    return [math.ceil(share * total) for total in text]


def equal_scores(order: Order, best: np.ndarray) -> Order:
    """Give documents that are among the best, (n,) bool, one score; the others get no group."""
    return Order(
        np.full_like(order.key, order_bits(np.zeros(1, np.float32))[0]),
        order.tie,
        np.where(best, order.group, np.int16(-1)),
    )


def _count_text(orders: Sequence[OrderedUnit], groups: int) -> np.ndarray:
    """Sum the bytes of the documents that may be taken, by group: (groups,) int64."""
    found = np.zeros(groups, dtype=np.int64)
    for ordered in orders:
        order, sizes = ordered.read()
        some = order.group >= 0
        np.add.at(found, order.group[some], sizes[some])
    return found


def _sum_text(
    orders: Sequence[OrderedUnit], shared: tuple[Sequence[Prefix | None], int]
) -> DigitSums:
    return sum_by_digit((ordered.read() for ordered in orders), *shared)


def _write_best(orders: Sequence[OrderedUnit], bounds: _Bounds) -> _Tally:
    documents, sizes = np.zeros((2, bounds.groups), dtype=np.int64)
    lowest = np.full(bounds.groups, 0xFFFFFFFF, dtype=np.uint32)
    for ordered in orders:
        order, own = ordered.read()
        best = order.against(bounds.prefixes) != BELOW
        best &= score_of(order.key) > bounds.above
        group = order.group[best]
        np.add.at(documents, group, 1)
        np.add.at(sizes, group, own[best])
        np.minimum.at(lowest, group, order.key[best])
        write_order(ordered._replace(directory=bounds.directory), equal_scores(order, best), own)
    return _Tally(documents, sizes, lowest)
