"""Candidates: the documents of a pool that a budget may reach, each with its number of tokens.

A budget is a small part of a pool, so the passes by tokens read a table of the candidates alone:
30 bytes each, a tenth of the pool where the budget is a tenth. The table of a unit is written by
the task that tokenises it; no row passes through the driver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.artefact import FileRecord
from penstock.node_cache import local_file
from penstock.pipeline.cutting.ordering import OrderedUnit
from penstock.pipeline.cutting.radix import ABOVE, INSIDE, Cutoff, Order, Prefix
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import Tokenising, TokenStore, UnitTokens
from penstock.pipeline.units import Unit
from penstock.storage import AnyPath, atomic_file

__all__ = ["CandidateTable", "Candidates", "Taken", "write_candidates"]


@dataclass(frozen=True, slots=True)
class Taken:
    """The documents that are taken of a unit: k of them, in its order."""

    row: np.ndarray
    """(k,) int64."""
    tokens: np.ndarray
    """(k,) int64: tokens taken; less than the document's number if it is shortened."""
    order: Order


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """The candidates of a unit: c documents, in its order."""

    row: np.ndarray
    """(c,) int64."""
    tokens: np.ndarray
    """(c,) int64."""
    order: Order

    def on_cutoff(self, prefixes: Sequence[Prefix]) -> list[int]:
        """Sum the tokens of the documents inside the prefix of each group."""
        inside = self.order.against(prefixes) == INSIDE
        found = np.zeros(len(prefixes), dtype=np.int64)
        np.add.at(found, self.order.group[inside], self.tokens[inside])
        return found.tolist()

    def take(self, cutoffs: Sequence[Cutoff], allowed: Sequence[int]) -> Taken:
        """Take documents above the cutoff whole, and of those on it ``allowed`` tokens a group."""
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
    """The documents at or above a prefix for each group."""

    directory: AnyPath
    """Scratch of the cut: it has the orders and takes the tables."""
    number: int
    """Number of the round of the search: a table is never replaced by another."""
    prefixes: Sequence[Prefix]

    def rows(self, unit: Unit) -> np.ndarray:
        """Find the candidates of a unit: (c,) int64 rows, ascending."""
        order, _ = OrderedUnit(unit, self.directory).read()
        return np.flatnonzero(order.against(self.prefixes))

    def write(self, unit: Unit, rows: np.ndarray, sizes: np.ndarray) -> None:
        """Write the table of a unit, whose candidates ``rows`` have (c,) int64 tokens."""
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
            atomic_file(self._path(unit), durable=False) as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    def read(self, unit: Unit) -> CandidateTable:
        """Map the table of a unit; nothing is copied."""
        with pa.memory_map(str(local_file(self._path(unit)))) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        row, tokens, key, tie, group = (column.to_numpy() for column in batch.columns)
        return CandidateTable(row, tokens, Order(key, tie, group))

    def _path(self, unit: Unit) -> AnyPath:
        return self.directory / f"{unit.name}.{self.number}.arrow"


def write_candidates(candidates: Candidates, runner: Runner, store: TokenStore) -> int:
    """Write the table of every unit, tokenising the candidates whose tokens the store lacks.

    Returns:
        Documents tokenised now.
    """
    units = store.units()
    added = 0
    for index, part in runner.run(_write_table, units, (candidates, store.tokenising())):
        if part is not None:
            added += store.add(units[index], part)
    store.publish()
    return added


def _write_table(held: UnitTokens, shared: tuple[Candidates, Tokenising]) -> FileRecord | None:
    """Write a unit's table; returns the record of the file of new tokens, if there is one."""
    candidates, tokenising = shared
    rows = candidates.rows(held.unit)
    sizes, part = tokenising.sizes(held, rows)
    candidates.write(held.unit, rows, sizes)
    return part
