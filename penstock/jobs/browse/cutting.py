"""The cut of a budget over columns in memory: the engine's own steps on one array of documents.

Order, quantiles, quotas, the best of a uniform draw, cutoffs and the document on the cutoff are
computed by the functions of :mod:`penstock.pipeline.cutting`, so that a preview takes exactly the
documents that ``curate`` takes. Tokens that nobody has counted are estimated by bytes, and the
documents that need them are named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from penstock.jobs.browse.columns import UNKNOWN, DocumentColumns
from penstock.pipeline.cut import CutSettings
from penstock.pipeline.cutting.best import equal_scores, text_of_best
from penstock.pipeline.cutting.budget import Quota, quotas_of
from penstock.pipeline.cutting.ordering import document_scores, mid_quantiles, order_of
from penstock.pipeline.cutting.radix import (
    ALL,
    BELOW,
    Cutoff,
    DigitSums,
    Order,
    Prefix,
    find_cutoffs,
    score_of,
    sum_by_digit,
)
from penstock.pipeline.cutting.search import CandidateTable, reduce_quotas, refuse_hopeless
from penstock.recipe import Budget

__all__ = ["MemoryCut", "MemoryPool", "cut_in_memory"]


class MemoryPool:
    """A pool of documents in memory, and what every cut of it uses.

    Args:
        columns: All n documents of the corpus.
        kept: (n,) bool: those of the pool.
    """

    def __init__(self, columns: DocumentColumns, kept: np.ndarray) -> None:
        self.columns = columns
        self.kept = kept
        self._quantiles: dict[str, np.ndarray] = {}

    @cached_property
    def by_source(self) -> dict[str, Mapping[str, int]]:
        """``documents`` and ``bytes`` of each source that the pool has, by name."""
        columns = self.columns
        own = columns.source[self.kept]
        count = np.bincount(own, minlength=len(columns.sources))
        size = np.zeros(len(columns.sources), np.int64)
        np.add.at(size, own, columns.bytes[self.kept])
        return {
            name: {"documents": int(count[at]), "bytes": int(size[at])}
            for at, name in enumerate(columns.sources)
            if count[at]
        }

    def quantiles(self, name: str) -> np.ndarray:
        """Return the quantile of each score of a column in the pool: (n,) float64, NaN of NaN."""
        if name not in self._quantiles:
            column = self.columns.scores[name]
            known = column.place[self.kept & (column.place >= 0)]
            quantile = mid_quantiles(np.bincount(known, minlength=column.values))
            # The place of NaN is the last one.
            self._quantiles[name] = np.append(quantile, np.nan)[column.place]
        return self._quantiles[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryCut:
    """The documents that a budget takes, of the n documents of a corpus."""

    quotas: Sequence[Quota]
    cutoffs: Sequence[Cutoff]
    order: Order
    """Of all documents: no group where one is dropped or may not be taken. With a uniform draw all
    scores are equal."""
    scores: np.ndarray
    """(n,) float32 by which they are ordered before a uniform draw; NaN where excluded."""
    rows: np.ndarray
    """(k,) int64: the documents that are taken, ascending."""
    tokens: np.ndarray
    """(k,) int64: the tokens that are taken of each."""
    uncounted: np.ndarray
    """(u,) int64: the documents at or above a cutoff whose tokens are estimated, ascending. Without
    any, the cut is exact."""

    @property
    def delivered(self) -> list[int]:
        """The tokens of each group."""
        return [min(cutoff.quota, cutoff.total) for cutoff in self.cutoffs]


def cut_in_memory(
    settings: CutSettings,
    pool: MemoryPool,
    bytes_per_token: float,
) -> MemoryCut:
    """Cut documents at a budget.

    Args:
        settings: With a number of tokens (:meth:`CutSettings.resolve`).
        pool: The pool, and all n documents of its corpus.
        bytes_per_token: For estimates.

    Raises:
        BudgetError: The pool, or a share of it, holds fewer tokens than the budget.
        RecipeError: A share names a source that the pool does not have.
    """
    budget, columns = settings.budget, pool.columns
    quotas = quotas_of(budget, settings.sequence_length, pool.by_source)
    if not budget.allow_short:
        refuse_hopeless(quotas, settings.sequence_length, bytes_per_token)
    order = _order(budget, pool, quotas)
    scores = np.where(order.group < 0, np.float32(np.nan), score_of(order.key))
    if budget.uniform is not None:
        order, quotas = _of_best(budget, order, columns.bytes, quotas)
    counted = columns.tokens != UNKNOWN
    estimates = np.maximum(2, np.rint(columns.bytes / bytes_per_token)).astype(np.int64)
    sizes = np.where(counted, columns.tokens, estimates)
    tallies = _tallies(order, sizes)
    wanted = [quota.tokens for quota in quotas]
    cutoffs = find_cutoffs(wanted, tallies)
    # A shortage is certain once all is counted.
    certain = counted[order.group >= 0].all()
    lower = reduce_quotas(
        quotas, cutoffs, settings.sequence_length, budget.allow_short or not certain
    )
    if lower != wanted:
        cutoffs = find_cutoffs(lower, tallies)
    table = CandidateTable(np.arange(len(sizes)), sizes, order)
    taken = table.take(cutoffs, [cutoff.quota - cutoff.above for cutoff in cutoffs])
    stands = order.against([cutoff.prefix for cutoff in cutoffs])
    return MemoryCut(
        quotas=quotas,
        cutoffs=cutoffs,
        order=order,
        scores=scores,
        rows=taken.row,
        tokens=taken.tokens,
        uncounted=np.flatnonzero((stands != BELOW) & ~counted),
    )


def _order(budget: Budget, pool: MemoryPool, quotas: Sequence[Quota]) -> Order:
    columns, mixed = pool.columns, len(budget.ranks) > 1
    parts = {
        name: pool.quantiles(name) if mixed else columns.scores[name].scores
        for name in budget.ranks
    }
    noise = None if budget.temperature is None else columns.noise
    scores = document_scores(budget.ranks, parts, budget.temperature, noise)
    groups = {quota.name: number for number, quota in enumerate(quotas)}
    of_source = np.array(
        [groups.get(name, groups[None]) for name in columns.sources], dtype=np.int16
    )
    order = order_of(scores, columns.tie, of_source[columns.source])
    return replace(order, group=np.where(pool.kept, order.group, np.int16(-1)))


def _of_best(
    budget: Budget, order: Order, sizes: np.ndarray, quotas: Sequence[Quota]
) -> tuple[Order, list[Quota]]:
    """Keep the best documents of each group, as :func:`penstock.pipeline.cutting.best.find_best`.

    Args:
        budget: With a uniform draw.
        order: Of n documents.
        sizes: (n,) int64 bytes of text.
        quotas: The quota of each group.
    """
    uniform = budget.uniform
    assert uniform is not None
    some = order.group >= 0
    prefixes: Sequence[Prefix] = [ALL] * len(quotas)
    if uniform.keep is not None:
        text = np.zeros(len(quotas), np.int64)
        np.add.at(text, order.group[some], sizes[some])
        wanted = text_of_best(uniform.keep, text.tolist())
        prefixes = [own.prefix for own in find_cutoffs(wanted, _tallies(order, sizes))]
    best = order.against(prefixes) != BELOW
    if uniform.above is not None:
        best &= score_of(order.key) > uniform.above
    documents, text = np.zeros((2, len(quotas)), np.int64)
    np.add.at(documents, order.group[best], 1)
    np.add.at(text, order.group[best], sizes[best])
    counted = zip(quotas, documents.tolist(), text.tolist())
    return equal_scores(order, best), [
        replace(quota, pool_documents=count, pool_bytes=size) for quota, count, size in counted
    ]


def _tallies(
    order: Order, sizes: np.ndarray
) -> Callable[[Sequence[Prefix | None], int], Iterator[DigitSums]]:
    def tallies(prefixes: Sequence[Prefix | None], width: int) -> Iterator[DigitSums]:
        yield sum_by_digit([(order, sizes)], prefixes, width)

    return tallies
