"""The place of one document by its score, computed on demand from the columns of a cut.

The draw ``uniform`` gives the documents that it draws from one score, so the cut itself does not
tell how good a document was. Here the documents of its group with a higher score are counted, unit
by unit: by one column, or by a mixture's quantiles as :mod:`.ordering` computes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.artefact import Artefact
from penstock.pipeline.cutting.ordering import order_unit, plan_orders
from penstock.pipeline.cutting.radix import score_of
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Budget

__all__ = ["Placed", "place_of"]


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


def place_of(
    pool: Pool,
    columns: Mapping[str, Artefact],
    budget: Budget,
    seed: int,
    groups: Sequence[str],
    unit: int,
    row: int,
) -> Placed | None:
    """Find the place of a document; None where it has no score.

    Args:
        pool, columns, budget, seed, groups: As of :func:`.ordering.make_orders`.
        unit: Number of its unit.
        row: Its row among the unit's documents that are kept.
    """
    runner = LocalRunner(1)
    plan, items = plan_orders(pool, columns, budget, seed, groups, runner)
    own, _ = order_unit(items[unit], plan)
    group, key = int(own.group[row]), own.key[row]
    if group < 0:
        return None
    higher = documents = 0
    for item in items:
        order, _ = order_unit(item, plan)
        mine = order.group == group
        documents += int(mine.sum())
        higher += int((order.key[mine] > key).sum())
    score = float(score_of(np.array([key], np.uint32))[0])
    return Placed(group=group, score=score, place=higher + 1, documents=documents)
