"""The documents that a person is shown: those taken first, those about the cut, some others.

All are found in one pass over the rows of the units, without their texts, which are read for the
few documents that were found.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.columnar import OwnParquet, read_parquet
from penstock.hashing import hash_documents, mix
from penstock.jobs.curate import Curated
from penstock.jobs.unit_fates import UnitFates, dropped_earlier, dropped_of
from penstock.pipeline.cutting.ordering import order_unit, plan_orders
from penstock.pipeline.cutting.radix import order_bits, score_of
from penstock.pipeline.cutting.ranks import first_ranked
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner
from penstock.pipeline.units import Unit

__all__ = ["Excerpt", "about_the_cut", "excerpt", "first_taken", "some_dropped", "some_left"]

_GROUPS = 10
"""Groups of a budget with shares of which documents about the cut are shown, the largest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """One document of a report."""

    id: str
    source: str
    text: str
    rank: int | None = None
    unit: int = field(default=0, compare=False)
    """Number of its unit."""
    row: int = field(default=0, compare=False)
    """Its row in the corpus's unit."""
    scores: Mapping[str, float | None] = field(default_factory=dict, compare=False)
    """Its score in each column, None where it has none."""
    cut_score: float | None = field(default=None, compare=False)
    """The score by which it is ordered, after mixture and noise; None where that is not known."""
    reason: str | None = None
    """The rule that excludes it, first of all; None where it is kept."""

    def excerpt(self, length: int = 240) -> str:
        """Return the beginning of the text, on one line."""
        return excerpt(self.text, length)


def excerpt(text: str, length: int = 240) -> str:
    """Return the beginning of a text, on one line, cut between words."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[:length].rsplit(" ", 1)[0] + " …"


def first_taken(curated: Curated, count: int) -> list[Excerpt]:
    """Read the ``count`` documents that the cut takes first, in the order of their ranks."""
    units = curated.pool.units
    first = first_ranked(curated.cut, count)
    found = [_read(units[number], row) for number, row in first]
    scores: dict[tuple[int, int], float] = {}
    for number, places in _by_unit(found):
        record = curated.cut.files[number]
        chosen = read_parquet(curated.cut.verified(record), ["row", "score"])
        rows = [found[place].row for place in places]
        at = np.searchsorted(chosen.column("row").to_numpy(), rows)
        own = chosen.column("score").to_numpy()[at].tolist()
        scores |= {(number, row): score for row, score in zip(rows, own)}
    return [
        replace(one, rank=rank, cut_score=scores[one.unit, one.row])
        for rank, one in enumerate(_scored(curated, found), 1)
    ]


def some_left(curated: Curated, count: int) -> list[Excerpt]:
    """Read ``count`` documents that were not taken, drawn by hash of id."""
    key = mix(curated.recipe.seed, "look")
    drawn: list[tuple[int, int, int]] = []
    units = curated.pool.units
    for unit in units:
        hashes, rows = hash_documents(unit.read_rows(["id", "hash"]), key), unit.numbers()
        left = np.flatnonzero(~np.isin(rows, _taken(curated, unit)))
        few = left[np.argsort(hashes[left], kind="stable")[:count]].tolist()
        drawn = heapq.nsmallest(
            count, [*drawn, *((int(hashes[at]), unit.number, int(rows[at])) for at in few)]
        )
    return _scored(curated, [_read(units[number], row) for _, number, row in drawn])


def some_dropped(curated: Curated, count: int) -> list[Excerpt]:
    """Read documents that rules exclude, drawn by hash of id: ``count``, of every rule as many.

    Of rules with fewer documents all are read, and there may be more of others in their place. With
    rewriters those are among them that were dropped before one, with the text of that time.
    """
    key = mix(curated.recipe.seed, "look")
    names: list[str] = []
    drawn: dict[str, list[tuple[int, int, int, Unit]]] = {}
    for place, fates in enumerate(_dropped(curated.pool) if count else ()):
        names += [name for name in fates.reasons if name not in names]
        hashes = hash_documents(fates.documents, key)
        for code in np.unique(fates.reason).tolist():
            mine = np.flatnonzero(fates.reason == code)
            few = mine[np.argsort(hashes[mine], kind="stable")[:count]].tolist()
            found = [(int(hashes[at]), place, int(fates.rows[at]), fates.unit) for at in few]
            known = drawn.get(fates.reasons[code], [])
            drawn[fates.reasons[code]] = heapq.nsmallest(count, [*known, *found], lambda o: o[:3])
    # In turn one of each rule, until there are enough.
    order = {name: number for number, name in enumerate(names)}
    turns = [(turn, order[name]) for name, own in drawn.items() for turn in range(len(own))]
    of_rule = Counter(number for _, number in sorted(turns)[:count])
    return [
        replace(_read(unit, row), reason=names[number])
        for number, wanted in sorted(of_rule.items())
        for _, _, row, unit in drawn[names[number]][:wanted]
    ]


def _dropped(pool: Pool) -> Iterator[UnitFates]:
    """Yield the documents that the verdicts of the pool drop, then those that earlier ones did."""
    for unit in pool.units:
        if unit.documents < unit.of:
            yield dropped_of(pool, unit)
    yield from dropped_earlier(pool)


def about_the_cut(curated: Curated, count: int) -> tuple[list[Excerpt], list[Excerpt]]:
    """Read the documents that were taken last, and those that were left most narrowly.

    With shares these are of each group, the same number of each of the ten largest. Documents are
    ordered by the score that ranks them, after mixture and noise; of the draw ``uniform`` those
    below the score from which it draws are left narrowly.

    Returns:
        ``count`` documents just above the cut, or a few more, the highest first; and as many just
        below it. Documents without a score are in neither.
    """
    pool, budget, facts = curated.pool, curated.recipe.budget, curated.cut.facts
    groups = facts["groups"]
    columns = {name: own for name, own in curated.columns.items() if name in budget.ranks}
    named = [group["source"] for group in groups[:-1]]
    plan, items = plan_orders(
        pool, columns, budget, curated.recipe.draw_seed, named, LocalRunner(1)
    )
    largest = sorted(range(len(groups)), key=lambda number: -groups[number]["tokens"])[:_GROUPS]
    largest = [number for number in largest if groups[number]["tokens"]]
    each = -(-count // max(1, len(largest)))
    bounds = {group: _bound(facts, group) for group in largest}
    above: dict[int, list[tuple[int, ...]]] = {group: [] for group in largest}
    below: dict[int, list[tuple[int, ...]]] = {group: [] for group in largest}
    for unit, item in zip(pool.units, items):
        order, _ = order_unit(item, plan)
        rows = unit.numbers()
        taken = np.zeros(len(rows), bool)
        taken[np.searchsorted(rows, _taken(curated, unit))] = True
        for group in largest:
            mine = order.group == group
            low = _extremes(order, np.flatnonzero(mine & taken), each, highest=False)
            narrow = mine & ~taken
            if bounds[group] is not None:
                narrow &= order.key < bounds[group]
            high = _extremes(order, np.flatnonzero(narrow), each, highest=True)
            for found, places, order_of in ((above, low, 1), (below, high, -1)):
                keyed = (
                    (
                        order_of * int(order.key[at]),
                        order_of * int(order.tie[at]),
                        order_of * -unit.number,
                        order_of * -int(rows[at]),
                    )
                    for at in places.tolist()
                )
                found[group] = heapq.nsmallest(each, [*found[group], *keyed])
    # Both lists go down: above the cut the last one is the one that was taken last.
    return (
        _places(curated, (own[::-1] for own in above.values())),
        _places(curated, iter(below.values())),
    )


def _bound(facts: Mapping[str, Any], group: int) -> np.uint32 | None:
    """Return the key from which the draw ``uniform`` draws documents; None of other draws."""
    drawn_from = facts.get("drawn_from")
    lowest = drawn_from[group]["lowest"] if drawn_from else None
    return None if lowest is None else order_bits(np.array([lowest], np.float32))[0]


def _extremes(order: Any, places: np.ndarray, count: int, highest: bool) -> np.ndarray:
    """Return the ``count`` places of the highest or lowest keys, without sorting all of them."""
    keys = order.key[places]
    if len(places) > count:
        at = len(places) - count if highest else count - 1
        bound = np.partition(keys, at)[at]
        few = keys >= bound if highest else keys <= bound
        places = places[few]
    sorting = np.lexsort((order.tie[places], order.key[places]))
    return places[sorting[-count:] if highest else sorting[:count]]


def _places(curated: Curated, found: Iterable[list[tuple[int, ...]]]) -> list[Excerpt]:
    places = [(abs(key), abs(unit), abs(row)) for own in found for key, _, unit, row in own]
    units = curated.pool.units
    scores = score_of(np.array([key for key, *_ in places], np.uint32)).tolist()
    read = (_read(units[number], row) for _, number, row in places)
    return _scored(curated, [replace(one, cut_score=own) for one, own in zip(read, scores)])


def _taken(curated: Curated, unit: Unit) -> np.ndarray:
    """Read the rows of a unit that the cut takes: (m,) int64, ascending."""
    table = read_parquet(curated.cut.verified(curated.cut.files[unit.number]), ["row"])
    return np.asarray(table.column("row").to_numpy())


def _scored(curated: Curated, found: list[Excerpt]) -> list[Excerpt]:
    """Add the score in each column to documents that are kept."""
    scores: list[dict[str, float | None]] = [{} for _ in found]
    for number, places in _by_unit(found):
        unit = curated.pool.units[number]
        at = np.searchsorted(unit.numbers(), [found[place].row for place in places])
        for name, column in curated.columns.items():
            values = read_scores(column.path, column.files[number])[at].tolist()
            for place, value in zip(places, values):
                scores[place][name] = None if np.isnan(value) else value
    return [replace(one, scores=own) for one, own in zip(found, scores, strict=True)]


def _by_unit(found: list[Excerpt]) -> Iterator[tuple[int, list[int]]]:
    units: dict[int, list[int]] = {}
    for place, one in enumerate(found):
        units.setdefault(one.unit, []).append(place)
    return iter(units.items())


def _read(unit: Unit, row: int) -> Excerpt:
    with OwnParquet(unit.path()) as file:
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            if row < end:
                break
            start = end
        table = file.read_row_group(group, ["id", "source", "text"])
    (document,) = table.take(pa.array([row - start])).to_pylist()
    return Excerpt(**document, unit=unit.number, row=row)
