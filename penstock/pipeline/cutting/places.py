"""The place of one document by its score, computed on demand from the columns of a cut.

A cut does not tell how near to it a document came that it left, and the draw ``uniform`` gives all
documents that it draws from one score. Here the documents of its group with a higher score are
counted, unit by unit: by one column, or by a mixture's quantiles as :mod:`.ordering` computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.artefact import Artefact
from penstock.columnar import read_parquet
from penstock.pipeline.cutting.ordering import order_without_ties, plan_orders
from penstock.pipeline.cutting.radix import score_of
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Budget

__all__ = ["Placed", "ScoreCounts", "count_scores", "place_by_counts", "place_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A document's place in its group: a source with a share, or all other sources."""

    group: int
    score: float
    """The score that documents are ordered by, after mixture."""
    place: int
    """1 and the number of the group's documents with a higher score."""
    documents: int
    """Documents of the group that have a score."""
    equal: int
    """Documents of the group with the same score, this one among them."""
    lowest: float | None
    """The lowest score of the group's documents that were taken; None if none was."""
    equal_taken: int
    """Documents of the group with the same score that were taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCounts:
    """A document's score in one column, among those of a pool."""

    score: float
    below: int
    """Documents with a lower score."""
    equal: int
    """Documents with the same score, this one among them."""
    documents: int
    """Documents that have a score."""


def count_scores(column: Artefact, unit: int, row: int) -> ScoreCounts | None:
    """Compare a document's score with all others of a column; None where it has none.

    Args:
        column: The scores; all files are read.
        unit: Number of its unit.
        row: Its row among the unit's documents that are kept.
    """
    own = read_scores(column.path, column.files[unit])[row]
    if np.isnan(own):
        return None
    below = equal = documents = 0
    for record in column.files:
        values = read_scores(column.path, record)
        below += int((values < own).sum())
        equal += int((values == own).sum())
        documents += int((~np.isnan(values)).sum())
    return ScoreCounts(score=float(own), below=below, equal=equal, documents=documents)


def place_by_counts(cut: Artefact, counts: ScoreCounts) -> Placed:
    """Return the place of a document that one column orders, all documents being of one group.

    Args:
        cut: A cut without shares that takes the highest scores. Of its files those are read that
            have a score as low as the document's.
        counts: The document's in the column.
    """
    lowest = [record.facts["lowest"] for record in cut.files if record.facts["documents"]]
    equal_taken = 0
    for record in cut.files:
        if record.facts["documents"] and record.facts["lowest"] <= counts.score:
            scores = read_parquet(cut.verified(record), ["score"]).column("score").to_numpy()
            equal_taken += int((scores == np.float32(counts.score)).sum())
    return Placed(
        group=0,
        score=counts.score,
        place=counts.documents - counts.below - counts.equal + 1,
        documents=counts.documents,
        equal=counts.equal,
        lowest=min(lowest, default=None),
        equal_taken=equal_taken,
    )


def place_of(
    pool: Pool,
    columns: Mapping[str, Artefact],
    budget: Budget,
    seed: int,
    groups: Sequence[str],
    unit: int,
    row: int,
    taken: Callable[[int], np.ndarray],
) -> Placed | None:
    """Find the place of a document; None where it has no score.

    Args:
        pool, columns, budget, seed, groups: As of :func:`.ordering.make_orders`.
        unit: Number of its unit.
        row: Its row among the unit's documents that are kept.
        taken: The number of a unit to its documents that the cut takes, (m,) int64 as ``row``.
    """
    runner = LocalRunner(1)
    plan, items = plan_orders(pool, columns, budget, seed, groups, runner)
    own = order_without_ties(items[unit], plan)
    group, key = int(own.group[row]), own.key[row]
    if group < 0:
        return None
    higher = documents = equal = equal_taken = 0
    lowest = np.uint32(2**32 - 1)  # no key is as high
    for item in items:
        order = own if item[0].number == unit else order_without_ties(item, plan)
        mine = order.group == group
        documents += int(mine.sum())
        higher += int((order.key[mine] > key).sum())
        equal += int((order.key[mine] == key).sum())
        rows = taken(item[0].number)
        keys = order.key[rows][mine[rows]] if len(rows) else order.key[:0]
        equal_taken += int((keys == key).sum())
        lowest = min(lowest, keys.min(initial=lowest))
    return Placed(
        group=group,
        score=_score(key),
        place=higher + 1,
        documents=documents,
        equal=equal,
        lowest=None if lowest == 2**32 - 1 else _score(lowest),
        equal_taken=equal_taken,
    )


def _score(key: np.uint32) -> float:
    return float(score_of(np.array([key], np.uint32))[0])
