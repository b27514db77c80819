"""Warn of columns that look like a selection and are none.

Where nearly all scores are equal, a hash of ids and texts decides among them: a draw at random.
Where scores follow the lengths of the texts, the cut takes the shortest or the longest documents,
whatever the selector is meant to find.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from penstock.artefact import Artefact
from penstock.jobs.rank_correlation import correlation, mid_ranks
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool

__all__ = ["MOST", "constant_columns", "describe_constant", "length_columns"]

MOST = 0.9
"""The share of equal scores from which on a column is nearly constant."""

_FOLLOWS = 0.8
"""The rank correlation with the bytes of a text from which on scores follow the lengths."""

_FEWEST = 100
"""Documents below which no correlation is told."""

_UNITS = 16
"""Units that are looked at, spread over the pool: all of a large pool would take minutes."""


def constant_columns(columns: Mapping[str, Artefact]) -> Iterator[str]:
    """Yield a line for each column of which nearly all scores are equal, in some units.

    A column is left after the first unit of which half of the scores are not.
    """
    for name, column in columns.items():
        files = [record for record in column.files if record.facts["documents"]]
        equal = total = 0
        common: float | None = None
        for record in files[:: max(1, len(files) // _UNITS)]:
            scores = read_scores(column.path, record)
            scores = scores[~np.isnan(scores)]
            if not len(scores):
                continue
            common = float(np.partition(scores, len(scores) // 2)[len(scores) // 2])
            own = int((scores == np.float32(common)).sum())
            equal, total = equal + own, total + len(scores)
            if own < len(scores) / 2:
                break
        else:
            if common is not None and total > 1 and equal > MOST * total:
                yield f"select.{name}: {describe_constant(equal / total, common)}"


def length_columns(pool: Pool, columns: Mapping[str, Artefact]) -> Iterator[str]:
    """Yield a line for each column whose scores follow the lengths of the texts, in some units.

    That is Spearman's rank correlation of the scores and the texts' bytes of UTF-8.

    Args:
        pool: Has the lengths.
        columns: Their files are in the order of the pool's units.
    """
    units = [unit for unit in pool.units if unit.documents]
    units = units[:: max(1, len(units) // _UNITS)]
    lengths = [unit.read_rows(["bytes"]).column("bytes").to_numpy() for unit in units]
    sizes = np.concatenate(lengths) if lengths else np.empty(0, np.int64)
    for name, column in columns.items():
        files = [read_scores(column.path, column.files[unit.number]) for unit in units]
        scores = np.concatenate(files) if files else np.empty(0, np.float32)
        there = ~np.isnan(scores)
        if there.sum() < _FEWEST:
            continue
        found = correlation(mid_ranks(scores[there]), mid_ranks(sizes[there])) or 0.0
        if abs(found) >= _FOLLOWS:
            side = "long" if found > 0 else "short"
            yield (
                f"select.{name}: the scores follow the lengths of the texts (rank correlation "
                f"{found:+.2f}): {side} documents are taken first, whatever they say"
            )


def describe_constant(share: float, score: float) -> str:
    """Describe that a share of the scores are equal."""
    return (
        f"{share:.0%} of the scores are {score:.6g}: among equal scores a hash of seed, id and "
        "text decides, which is a draw at random"
    )
