"""Order the documents of a pool by a recipe's ``budget.rank`` and ``budget.draw``.

A single column orders by its values. Several columns are mixed by their quantiles in the pool, so
that a weight means the same for every scale of scores; a quantile is read from counts by the top 24
bits of the value (16 bits of precision), gathered in one pass. ``random`` is the uniform draw and
needs no column. Each unit's order, 22 bytes a document, is kept in the cut's scratch and mapped by
every pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, FileRecord
from penstock.columnar import read_batch
from penstock.hashing import hash_documents, mix, uniform
from penstock.node_cache import local_file
from penstock.pipeline.cutting.radix import Order, order_bits
from penstock.pipeline.grouped import packed, read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit
from penstock.recipe import Budget
from penstock.storage import AnyPath, atomic_file

__all__ = [
    "GUMBEL",
    "RANDOM",
    "TIE",
    "OrderedUnit",
    "Ordering",
    "batches",
    "document_scores",
    "make_orders",
    "mid_quantiles",
    "order_of",
    "order_unit",
    "order_without_ties",
    "plan_orders",
    "write_order",
]

TIE = "tie"
"""Purpose of the hash of (seed, document) that orders documents of equal scores."""

GUMBEL = "gumbel"
"""Purpose of the hash that is the noise of a draw with a temperature."""

RANDOM = "random"
"""Purpose of the hash that is the score of ``rank: random``."""

_TASK_DOCUMENTS = 1 << 20
"""Documents of one task of a pass: 60 real units, so that there are fewer tasks and results than
units."""


class OrderedUnit(NamedTuple):
    """A unit and the directory of its order."""

    unit: Unit
    directory: AnyPath

    @property
    def path(self) -> AnyPath:
        return self.directory / f"{self.unit.name}.arrow"

    def read(self) -> tuple[Order, np.ndarray]:
        """Map the order of its n documents, and (n,) int64 bytes of text; nothing is copied."""
        batch = read_batch(local_file(self.path))
        key, tie, group, size = (
            batch.column(name).to_numpy() for name in ("key", "tie", "group", "bytes")
        )
        return Order(key, tie, group), size


def write_order(ordered: OrderedUnit, order: Order, sizes: np.ndarray) -> None:
    """Write a unit's order and the (n,) int64 bytes of its texts, for the passes to map."""
    batch = pa.record_batch(
        {"key": order.key, "tie": order.tie, "group": order.group, "bytes": sizes}
    )
    with (
        atomic_file(ordered.path, durable=False) as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


def batches(orders: Sequence[OrderedUnit], slots: int) -> list[list[OrderedUnit]]:
    """Group consecutive units, a group for each task: at least eight tasks a slot, and at most
    :data:`_TASK_DOCUMENTS` a task."""
    total = sum(ordered.unit.documents for ordered in orders)
    limit = min(_TASK_DOCUMENTS, total // (8 * slots) + 1)
    return list(packed(orders, lambda ordered: ordered.unit.documents, limit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """The state that every task of ordering shares."""

    ranks: Mapping[str, float]
    columns: Mapping[str, AnyPath]
    quantiles: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """For each column of a mixture, rising 24-bit values and the quantile of each."""
    temperature: float | None
    seed: int
    groups: Mapping[str, int]
    """Sources with a budget of their own; the others share group ``rest``."""
    rest: int


def make_orders(
    pool: Pool,
    columns: Mapping[str, Artefact],
    budget: Budget,
    seed: int,
    groups: Sequence[str],
    directory: AnyPath,
    runner: Runner,
) -> list[OrderedUnit]:
    """Write the order of every unit under ``directory``.

    Args:
        pool: Pool whose documents are ordered.
        columns: By name, all that ``budget.rank`` names but ``random``.
        budget: Budget with rank and draw.
        seed: Seed of random ranks, ties and noise.
        groups: Sources with shares of their own: groups 0, 1, ...; the group of the other sources
            comes after them.
        directory: Scratch of the cut.
        runner: Runs a task for each unit.
    """
    plan, items = plan_orders(pool, columns, budget, seed, groups, runner)
    for _ in runner.run(_write_unit, items, (plan, directory)):
        pass
    return [OrderedUnit(unit, directory) for unit in pool.units]


Item = tuple[Unit, Mapping[str, FileRecord]]
"""A unit, and the file of its scores in each column."""


def plan_orders(
    pool: Pool,
    columns: Mapping[str, Artefact],
    budget: Budget,
    seed: int,
    groups: Sequence[str],
    runner: Runner,
) -> tuple[Ordering, list[Item]]:
    """Plan the orders of all units: the state of their tasks, with a mixture's quantiles.

    Arguments as of :func:`make_orders`.
    """
    items: list[Item] = [
        (unit, {name: column.files[unit.number] for name, column in columns.items()})
        for unit in pool.units
    ]
    paths = {name: column.path for name, column in columns.items()}
    ranks = dict(sorted(budget.ranks.items()))  # float sums depend on the order of their terms
    plan = Ordering(
        ranks=ranks,
        columns=paths,
        quantiles=_quantiles(items, ranks, paths, seed, runner) if len(ranks) > 1 else {},
        temperature=budget.temperature,
        seed=seed,
        groups={source: number for number, source in enumerate(groups)},
        rest=len(groups),
    )
    return plan, items


def _values(
    name: str, item: Item, columns: Mapping[str, AnyPath], rows: pa.Table | None, seed: int
) -> np.ndarray:
    """Read a unit's scores in a column, or draw them: (n,) float32."""
    if name == RANDOM:
        assert rows is not None
        return uniform(hash_documents(rows, mix(seed, RANDOM))).astype(np.float32)
    return read_scores(columns[name], item[1][name])


def _quantiles(
    items: Sequence[Item],
    ranks: Mapping[str, float],
    columns: Mapping[str, AnyPath],
    seed: int,
    runner: Runner,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Compute, for each column, its values (top 24 bits) and their mid-quantiles in the pool."""
    counts = {name: _ValueCounts() for name in ranks}
    for _, found in runner.run(_count_values, items, (tuple(ranks), columns, seed)):
        for name, (values, number) in found.items():
            counts[name].add(values, number)
    quantiles = {}
    for name, gathered in counts.items():
        present, count = gathered.present()
        quantiles[name] = (present.astype(np.uint32), mid_quantiles(count))
    return quantiles


def mid_quantiles(count: np.ndarray) -> np.ndarray:
    """Compute the quantile of the middle of each value's documents.

    Args:
        count: (m,) int64 documents of each value, ascending by value; 0 changes no other value.

    Returns:
        (m,) float64 from 0 to 1.
    """
    middle: np.ndarray = (np.cumsum(count) - count / 2) / max(1, count.sum())
    return middle


class _ValueCounts:
    """Counts by 24-bit value, in pages of 512 KiB that are allocated on first use.

    A page is two octaves of one sign, so the scores of a selector use 5 to 20 of the 256 pages.
    """

    def __init__(self) -> None:
        self._pages: dict[int, np.ndarray] = {}

    def add(self, values: np.ndarray, number: np.ndarray) -> None:
        """Add (k,) counts of (k,) values, ascending and distinct."""
        pages, starts = np.unique(values >> np.uint32(16), return_index=True)
        for page, some, count in zip(
            pages.tolist(), np.split(values, starts[1:]), np.split(number, starts[1:])
        ):
            if page not in self._pages:
                self._pages[page] = np.zeros(1 << 16, dtype=np.int64)
            self._pages[page][some & np.uint32(0xFFFF)] += count

    def present(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the values that were counted, ascending, and their counts: (m,) int64 each."""
        values, counts = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for page, count in sorted(self._pages.items()):
            here = np.flatnonzero(count)
            values.append(here + (page << 16))
            counts.append(count[here])
        return np.concatenate(values), np.concatenate(counts)


def _count_values(
    item: Item, shared: tuple[Sequence[str], Mapping[str, AnyPath], int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names, columns, seed = shared
    rows = item[0].read_rows(["id", "hash"]) if RANDOM in names else None
    found = {}
    for name in names:
        scores = _values(name, item, columns, rows, seed)
        values, number = np.unique(
            order_bits(scores[~np.isnan(scores)]) >> np.uint32(8), return_counts=True
        )
        found[name] = (values, number)
    return found


def _write_unit(item: Item, shared: tuple[Ordering, AnyPath]) -> None:
    plan, directory = shared
    order, sizes = order_unit(item, plan)
    write_order(OrderedUnit(item[0], directory), order, sizes)


def order_unit(item: Item, plan: Ordering) -> tuple[Order, np.ndarray]:
    """Combine a unit's columns, and add noise if the draw has any.

    Returns:
        The order of its n documents, and (n,) int64 bytes of text.
    """
    table = item[0].read_rows(["id", "hash", "source", "bytes"])
    scores, group = _scores_of(item, plan, table), _groups_of(plan, table)
    order = order_of(scores, hash_documents(table, mix(plan.seed, TIE)), group)
    return order, table.column("bytes").to_numpy()


def order_without_ties(item: Item, plan: Ordering) -> Order:
    """Return the order of a unit's n documents with 0 in place of every hash that breaks a tie.

    Ids are read only where the order depends on them.
    """
    unit = item[0]
    drawn = plan.temperature is not None or "random" in plan.ranks
    names = [*(["id", "hash"] if drawn else []), *(["source"] if plan.groups else [])]
    table = unit.read_rows(names) if names else None
    group = np.zeros(unit.documents, np.int16) if not plan.groups else _groups_of(plan, table)
    return order_of(_scores_of(item, plan, table), np.zeros(unit.documents, np.uint64), group)


def _scores_of(item: Item, plan: Ordering, table: pa.Table | None) -> np.ndarray:
    """Return the scores that a unit's documents are ordered by: (n,) float32."""
    parts: dict[str, np.ndarray] = {}
    for name in plan.ranks:
        values = _values(name, item, plan.columns, table, plan.seed)
        if plan.quantiles:
            rising, quantile = plan.quantiles[name]
            high = order_bits(np.nan_to_num(values)) >> np.uint32(8)
            place = np.minimum(np.searchsorted(rising, high), len(rising) - 1)
            values = np.where(np.isnan(values), np.nan, quantile[place])
        parts[name] = values
    noise = None
    if plan.temperature is not None:
        assert table is not None
        noise = hash_documents(table, mix(plan.seed, GUMBEL))
    return document_scores(plan.ranks, parts, plan.temperature, noise)


def _groups_of(plan: Ordering, table: pa.Table | None) -> np.ndarray:
    """Return the group of each document, by its source: (n,) int16."""
    assert table is not None
    sources = table.column("source").combine_chunks().dictionary_encode()
    of_source = np.array(
        [plan.groups.get(name, plan.rest) for name in sources.dictionary.to_pylist()],
        dtype=np.int16,
    )
    return of_source[sources.indices.to_numpy()]


def document_scores(
    ranks: Mapping[str, float],
    parts: Mapping[str, np.ndarray],
    temperature: float | None,
    noise: np.ndarray | None,
) -> np.ndarray:
    """Combine the columns of ``budget.rank``, and add the noise of a Gumbel draw.

    Args:
        ranks: The weight of each column.
        parts: Of each column (n,) quantiles, float64; of a single column its scores, float32. NaN
            excludes a document.
        temperature: Of a Gumbel draw; None without noise.
        noise: (n,) uint64 hashes of the documents for :data:`GUMBEL`; None without a temperature.

    Returns:
        (n,) float32.
    """
    size = len(next(iter(parts.values())))
    total = np.zeros(size, dtype=np.float64)
    # Float sums depend on the order of their terms.
    for name, weight in sorted(ranks.items()):
        total += parts[name] if len(ranks) == 1 else weight * parts[name]
    if temperature is not None:
        assert noise is not None
        # As score / temperature + noise, times the temperature: small ones cannot overflow.
        total -= temperature * np.log(-np.log(uniform(noise)))
    return total.astype(np.float32)


def order_of(scores: np.ndarray, tie: np.ndarray, group: np.ndarray) -> Order:
    """Make the sort keys of documents.

    Args:
        scores: (n,) float32; NaN may not be taken.
        tie: (n,) uint64 hashes of the documents for :data:`TIE`.
        group: (n,) int16: the group whose quota each counts against.
    """
    excluded = np.isnan(scores)
    return Order(
        key=order_bits(np.where(excluded, np.float32(0), scores)),
        tie=tie,
        group=np.where(excluded, np.int16(-1), group),
    )
