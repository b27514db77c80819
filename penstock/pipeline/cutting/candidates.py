"""Candidates: the documents of a pool that a budget may reach, each with its tokens.

A budget is a small part of a pool, so what is decided by tokens is decided over a table of the
candidates alone: 30 bytes each, a tenth of the pool where the budget is a tenth. The table of a
unit is written by the task that tokenises it; no row passes through the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.node_cache import local_file
from penstock.pipeline.cutting.ordering import OrderedUnit
from penstock.pipeline.cutting.radix import ABOVE, INSIDE, Cutoff, Order, Prefix
from penstock.pipeline.units import Unit
from penstock.storage import AnyPath, atomic_file

__all__ = ["Candidates", "Table", "Taken"]


@dataclass(frozen=True, slots=True)
class Taken:
    """What is taken of a unit: k documents, in its order."""

    row: np.ndarray
    """(k,) int64."""
    tokens: np.ndarray
    """(k,) int64; less than the document has where it is shortened."""
    order: Order


@dataclass(frozen=True, slots=True)
class Table:
    """The candidates of a unit: c documents, in its order."""

    row: np.ndarray
    """(c,) int64."""
    tokens: np.ndarray
    """(c,) int64."""
    order: Order

    def on_cutoff(self, prefixes: Sequence[Prefix]) -> list[int]:
        """Tokens inside the prefix of each group."""
        inside = self.order.against(prefixes) == INSIDE
        found = np.zeros(len(prefixes), dtype=np.int64)
        np.add.at(found, self.order.group[inside], self.tokens[inside])
        return found.tolist()

    def take(self, cutoffs: Sequence[Cutoff], allowed: Sequence[int]) -> Taken:
        """Whole what stands above its cutoff; of what stands on it, ``allowed`` tokens a group."""
        stands = self.order.against([cutoff.prefix for cutoff in cutoffs])
        taken = np.where(stands == ABOVE, self.tokens, 0)
        inside = np.flatnonzero(stands == INSIDE)
        for group in np.unique(self.order.group[inside]).tolist():
            tied = inside[self.order.group[inside] == group]
            before = np.cumsum(self.tokens[tied]) - self.tokens[tied]
            taken[tied] = np.clip(allowed[group] - before, 0, self.tokens[tied])
        kept = np.flatnonzero(taken)
        order = Order(self.order.key[kept], self.order.tie[kept], self.order.group[kept])
        return Taken(self.row[kept], taken[kept], order)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Those at or above a prefix for each group; a :class:`penstock.pipeline.tokens.Wanted`."""

    directory: AnyPath
    """Where the orders are, and the tables will be."""
    number: int
    """Of the attempt: a table is never replaced by another."""
    prefixes: Sequence[Prefix]

    def rows(self, unit: Unit) -> np.ndarray:
        order, _ = OrderedUnit(unit, self.directory).read()
        return np.flatnonzero(order.against(self.prefixes))

    def sized(self, unit: Unit, rows: np.ndarray, sizes: np.ndarray) -> None:
        order, _ = OrderedUnit(unit, self.directory).read()
        batch = pa.record_batch(
            {
                "row": rows,
                "tokens": sizes,
                "key": order.key[rows],
                "tie": order.tie[rows],
                "group": order.group[rows],
            }
        )
        with (
            atomic_file(self._place(unit), durable=False) as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    def read(self, unit: Unit) -> Table:
        """The table of a unit, mapped, not copied."""
        with pa.memory_map(str(local_file(self._place(unit)))) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        row, tokens, key, tie, group = (column.to_numpy() for column in batch.columns)
        return Table(row, tokens, Order(key, tie, group))

    def _place(self, unit: Unit) -> AnyPath:
        return self.directory / f"{unit.name}.{self.number}.arrow"
