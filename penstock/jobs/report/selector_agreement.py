"""Agreement between selectors: rank correlation of their scores, and overlap of their best tenth.

A selector that agrees with another one adds little to it; where they do not agree, the weights of
``budget.rank`` decide which documents are taken.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from penstock.jobs.rank_correlation import correlation, mid_ranks
from penstock.jobs.report.counting import ScoreSample

__all__ = ["ColumnPair", "selector_agreement"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPair:
    """Two columns, compared on the documents that have a score in both."""

    first: str
    second: str
    documents: int
    correlation: float | None
    """Spearman's: of ranks, ties at their mean; None where a column is constant."""
    overlap: float | None
    """The share of the first column's best tenth that is in the second one's: 0.1 by chance. Of
    documents that are equal at the bound of a tenth each counts in part. None of fewer than ten."""


def selector_agreement(sample: ScoreSample) -> list[ColumnPair]:
    """Compare every two columns of a sample."""
    return [
        _compare(first, second, sample)
        for first, second in itertools.combinations(sample.scores, 2)
    ]


def _compare(first: str, second: str, sample: ScoreSample) -> ColumnPair:
    one, other = sample.scores[first], sample.scores[second]
    both = ~(np.isnan(one) | np.isnan(other))
    ranks = mid_ranks(one[both]), mid_ranks(other[both])
    return ColumnPair(
        first=first,
        second=second,
        documents=int(both.sum()),
        correlation=correlation(*ranks),
        overlap=_overlap(*ranks),
    )


def _overlap(one: np.ndarray, other: np.ndarray) -> float | None:
    tenth = len(one) // 10
    if not tenth:
        return None
    return float((_best(one, tenth) * _best(other, tenth)).sum()) / tenth


def _best(ranks: np.ndarray, count: int) -> np.ndarray:
    """Return the part of each document that is among the ``count`` best: (n,) float64."""
    bound = np.partition(ranks, len(ranks) - count)[len(ranks) - count]
    above, equal = ranks > bound, ranks == bound
    return above + equal * (count - above.sum()) / equal.sum()
