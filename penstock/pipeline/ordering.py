"""Columns to an order: what a recipe's ``budget.rank`` and ``budget.draw`` say of each document.

One column ranks by its own values. Several are mixed by their quantiles in the pool, so that
weights mean the same whatever the scale of a score; a quantile is read from counts by the top 24
bits of the value (16 bits of precision), gathered in one pass. ``random`` is the uniform draw and
needs no column. Each unit's order is kept beside the cut while it is made, mapped by every pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, FileRecord, atomic_file
from penstock.keyed import hash_ids, mix, uniform
from penstock.pipeline.columns import read_scores
from penstock.pipeline.radix import Order, order_bits
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, units_of
from penstock.recipe import Budget, GumbelDraw

__all__ = ["OrderedUnit", "Ordering", "make_orders"]


@dataclass(frozen=True, slots=True)
class OrderedUnit:
    """A unit and where its order lies."""

    unit: Unit
    path: Path

    def read(self) -> tuple[Order, np.ndarray]:
        """The order of its n documents, and (n,) int64 bytes of text; mapped, not copied."""
        with pa.memory_map(str(self.path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        key, tie, group, size = (
            batch.column(name).to_numpy() for name in ("key", "tie", "group", "bytes")
        )
        return Order(key, tie, group), size

    @property
    def sizes_path(self) -> Path:
        """Where the tokens of its documents are noted while a cut is made."""
        return self.path.with_suffix(".sizes.npy")

    def sizes(self) -> np.ndarray:
        """(n,) int64 tokens of each document, 0 where it was not a candidate."""
        return np.asarray(np.load(self.sizes_path, mmap_mode="r"))

    def scores(self) -> np.ndarray:
        """(n,) float32, what the documents were ordered by."""
        with pa.memory_map(str(self.path)) as source:
            return pa.ipc.open_file(source).get_batch(0).column("score").to_numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordering:
    """How documents are ordered: what every unit's task is told."""

    ranks: Mapping[str, float]
    columns: Mapping[str, Path]
    quantiles: Mapping[str, tuple[np.ndarray, np.ndarray]]
    """For each column of a mixture, rising 24-bit values and the quantile of each."""
    temperature: float | None
    seed: int
    groups: Mapping[str, int]
    """Sources with a budget of their own; the others share group ``rest``."""
    rest: int
    directory: Path


def make_orders(
    corpus: Artefact,
    columns: Mapping[str, Artefact],
    budget: Budget,
    seed: int,
    groups: Sequence[str],
    directory: Path,
    runner: Runner,
) -> list[OrderedUnit]:
    """Write the order of every unit under ``directory``.

    Args:
        corpus: Whose documents are ordered.
        columns: By name, for all that ``budget.rank`` names but ``random``.
        budget: Its rank and draw.
        seed: Of random ranks, ties and noise.
        groups: Sources with shares of their own, groups 0, 1, ...; the rest come after them.
        directory: Scratch of the cut.
        runner: Who does it.
    """
    units = units_of(corpus)
    items = [
        (unit, {name: column.files[unit.number] for name, column in columns.items()})
        for unit in units
    ]
    paths = {name: column.path for name, column in columns.items()}
    ranks = dict(sorted(budget.ranks.items()))  # float sums depend on the order of their terms
    plan = Ordering(
        ranks=ranks,
        columns=paths,
        quantiles=_quantiles(items, ranks, paths, seed, runner) if len(ranks) > 1 else {},
        temperature=(
            budget.draw.gumbel.temperature if isinstance(budget.draw, GumbelDraw) else None
        ),
        seed=seed,
        groups={source: number for number, source in enumerate(groups)},
        rest=len(groups),
        directory=directory,
    )
    directory.mkdir(parents=True, exist_ok=True)
    done = dict(runner.run(_order_unit, items, plan))
    return [OrderedUnit(unit, done[unit.number]) for unit in units]


Item = tuple[Unit, Mapping[str, FileRecord]]


def _values(
    name: str, item: Item, columns: Mapping[str, Path], ids: pa.ChunkedArray, seed: int
) -> np.ndarray:
    """(n,) float32: a column as it is, or the uniform draw."""
    if name == "random":
        return uniform(hash_ids(ids, mix(seed, "random"))).astype(np.float32)
    return read_scores(columns[name], item[1][name])


def _quantiles(
    items: Sequence[Item],
    ranks: Mapping[str, float],
    columns: Mapping[str, Path],
    seed: int,
    runner: Runner,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each column, values (top 24 bits) and their mid-quantile in the pool."""
    counts: dict[str, np.ndarray] = {name: np.zeros(1 << 24, dtype=np.int64) for name in ranks}
    for _, found in runner.run(_count_values, items, (tuple(ranks), columns, seed)):
        for name, (values, number) in found.items():
            counts[name][values] += number
    quantiles = {}
    for name, number in counts.items():
        present = np.flatnonzero(number)
        count = number[present]
        middle = np.cumsum(count) - count / 2
        quantiles[name] = (present.astype(np.uint32), middle / max(1, count.sum()))
    return quantiles


def _count_values(
    item: Item, shared: tuple[Sequence[str], Mapping[str, Path], int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    names, columns, seed = shared
    ids = _ids(item[0]).column("id")
    found = {}
    for name in names:
        scores = _values(name, item, columns, ids, seed)
        high = order_bits(scores[~np.isnan(scores)]) >> np.uint32(8)
        values, number = np.unique(high, return_counts=True)
        found[name] = (values, number)
    return found


def _ids(unit: Unit) -> pa.Table:
    with pq.ParquetFile(unit.path()) as file:
        return file.read(["id", "source", "bytes"])


def _order_unit(item: Item, plan: Ordering) -> Path:
    """Combine a unit's columns, add noise where asked, and write its order."""
    unit, _ = item
    table = _ids(unit)
    ids = table.column("id")
    total = np.zeros(len(table), dtype=np.float64)
    for name, weight in plan.ranks.items():
        values = _values(name, item, plan.columns, ids, plan.seed)
        if plan.quantiles:
            rising, quantile = plan.quantiles[name]
            high = order_bits(np.nan_to_num(values)) >> np.uint32(8)
            place = np.minimum(np.searchsorted(rising, high), len(rising) - 1)
            total += np.where(np.isnan(values), np.nan, weight * quantile[place])
        else:
            total += values
    if plan.temperature is not None:
        draws = uniform(hash_ids(ids, mix(plan.seed, "gumbel")))
        # As score / temperature + noise, times the temperature: small ones cannot overflow.
        total -= plan.temperature * np.log(-np.log(draws))
    scores = total.astype(np.float32)
    excluded = np.isnan(scores)
    sources = table.column("source").combine_chunks().dictionary_encode()
    of_source = np.array(
        [plan.groups.get(name, plan.rest) for name in sources.dictionary.to_pylist()],
        dtype=np.int16,
    )
    group = of_source[sources.indices.to_numpy()]
    order = pa.table(
        {
            "key": order_bits(np.where(excluded, np.float32(0), scores)),
            "tie": hash_ids(ids, mix(plan.seed, "tie")),
            "group": np.where(excluded, np.int16(-1), group),
            "bytes": table.column("bytes"),
            "score": scores,
        }
    ).combine_chunks()
    path = plan.directory / f"{unit.name}.arrow"
    with atomic_file(path) as sink, pa.ipc.new_file(sink, order.schema) as writer:
        writer.write_table(order)
    return path
