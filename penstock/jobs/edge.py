"""The documents on both sides of a cut: the last that it takes, and the first that it leaves."""

from __future__ import annotations

import heapq

import numpy as np

from penstock.columnar import read_parquet
from penstock.jobs.curate import Curated
from penstock.pipeline.cutting.ordering import order_unit, plan_orders
from penstock.pipeline.cutting.radix import score_of
from penstock.pipeline.runner import LocalRunner
from penstock.recipe import Budget

__all__ = ["nearest_to_cut", "order_name"]


def order_name(budget: Budget) -> str | None:
    """Name the score by which documents are ordered; None where it is that of one column.

    A mixture is the sum of the quantiles of the columns, times their weights; a Gumbel draw adds
    noise.
    """
    noise = "" if budget.temperature is None else " with noise"
    if len(budget.ranks) > 1:
        return f"mixture{noise}"
    return f"score{noise}" if noise else None


_Near = tuple[int, int, int, int]
"""Key and tie, both inverted on one side so that the nearest is least; unit; row."""

_INVERTED = 2**32 - 1


def nearest_to_cut(
    curated: Curated, count: int, place: str | None = None, source: str | None = None
) -> tuple[list[tuple[int, int, float]], int]:
    """Find the documents nearest to the cut, by score and then by the hash that breaks ties.

    Args:
        curated: A curated recipe; its draw is not ``uniform``.
        count: Documents at most: half on each side, of each group of the budget in turn.
        place: ``taken`` or ``left`` for one side alone.
        source: Of this source alone.

    Returns:
        (number of the unit, row in the corpus's unit, the score by which it is ordered) of each,
        from the highest score to the lowest of each group; and the number of documents that are
        taken or left with a score.
    """
    recipe, cut = curated.recipe, curated.cut
    groups = [own["source"] for own in cut.facts["groups"][:-1]]
    ranked = {name: curated.columns[name] for name in cut.manifest["inputs"]["columns"]}
    plan, items = plan_orders(
        curated.pool, ranked, recipe.budget, recipe.draw_seed, groups, LocalRunner(1)
    )
    of = 0
    nearest: dict[tuple[int, bool], list[_Near]] = {}
    for item in items:
        unit = item[0]
        order, _ = order_unit(item, plan)
        rows = unit.numbers()
        chosen = read_parquet(cut.verified(cut.files[unit.number]), ["row"]).column("row")
        taken = np.isin(rows, chosen.to_numpy())
        wanted = order.group >= 0
        if source is not None:
            wanted &= unit.read_rows(["source"]).column("source").to_numpy() == source
        if place is not None:
            wanted &= taken == (place == "taken")
        of += int(wanted.sum())
        for group in range(len(groups) + 1):
            for side in (True, False):
                own = np.flatnonzero(wanted & (order.group == group) & (taken == side))
                key, tie = (
                    values[own] if side else ~values[own] for values in (order.key, order.tie)
                )
                few = np.lexsort((tie, key))[:count]
                found = [
                    (int(key[at]), int(tie[at]), unit.number, int(rows[own[at]])) for at in few
                ]
                known = nearest.get((group, side), [])
                nearest[group, side] = heapq.nsmallest(count, [*known, *found])
    return _in_turn(nearest, count, len(groups) + 1), of


def _in_turn(
    nearest: dict[tuple[int, bool], list[_Near]], count: int, groups: int
) -> list[tuple[int, int, float]]:
    """Choose documents of all groups and sides in turn; return them by group, highest first."""
    chosen: dict[tuple[int, bool], int] = dict.fromkeys(nearest, 0)
    left = count
    while left:
        open_ones = [name for name, found in nearest.items() if chosen[name] < len(found)]
        if not open_ones:
            break
        for name in open_ones[:left]:
            chosen[name] += 1
        left = count - sum(chosen.values())
    places = []
    for group in range(groups):
        above, below = ((group, side) for side in (True, False))
        if above in nearest:
            places += nearest[above][: chosen[above]][::-1]
            # Keys of those below are inverted, so that the nearest is least.
            places += [
                (_INVERTED - key, tie, unit, row)
                for key, tie, unit, row in nearest[below][: chosen[below]]
            ]
    scores = score_of(np.array([key for key, *_ in places], np.uint32)).tolist()
    return [(unit, row, score) for (_, _, unit, row), score in zip(places, scores)]
