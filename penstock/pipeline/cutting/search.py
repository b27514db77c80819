"""Search the cutoffs of a budget: plan by bytes of text, decide by tokens.

It makes two radix selections (:mod:`penstock.pipeline.cutting.radix`). The first is by bytes of
text and only a plan: it selects *candidates* that should hold the budget and a margin, so that no
other document is tokenised; where the margin was too thin it is widened. The second is by tokens,
exact, and decides.

A budget is a small part of a pool, so the passes by tokens read a table of the candidates alone:
30 bytes each, a tenth of the pool where the budget is a tenth. The table of a unit is written by
the task that tokenises it; no row passes through the driver.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.artefact import FileRecord
from penstock.columnar import read_batch
from penstock.errors import BudgetError
from penstock.node_cache import local_file
from penstock.pipeline.cutting.budget import Quota
from penstock.pipeline.cutting.ordering import OrderedUnit, batches
from penstock.pipeline.cutting.radix import (
    ABOVE,
    INSIDE,
    Cutoff,
    DigitSums,
    Order,
    Prefix,
    find_cutoffs,
    sum_by_digit,
)
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import Tokenising, TokenStore, UnitTokens
from penstock.pipeline.units import Unit
from penstock.storage import AnyPath, atomic_file

__all__ = [
    "CandidateTable",
    "Candidates",
    "Found",
    "reduce_quotas",
    "search_budget",
    "write_candidates",
]


@dataclass(frozen=True, slots=True)
class CandidateTable:
    """The candidates of a unit, or those that are taken: c documents, in its order."""

    row: np.ndarray
    """(c,) int64."""
    tokens: np.ndarray
    """(c,) int64; of a taken document that is shortened, those that are taken."""
    order: Order

    def on_cutoff(self, prefixes: Sequence[Prefix]) -> list[int]:
        """Sum the tokens of the documents inside the prefix of each group."""
        inside = self.order.against(prefixes) == INSIDE
        found = np.zeros(len(prefixes), dtype=np.int64)
        np.add.at(found, self.order.group[inside], self.tokens[inside])
        return found.tolist()

    def take(self, cutoffs: Sequence[Cutoff], allowed: Sequence[int]) -> CandidateTable:
        """Take documents above the cutoff whole, and of those on it ``allowed`` tokens a group."""
        stands = self.order.against([cutoff.prefix for cutoff in cutoffs])
        taken = np.where(stands == ABOVE, self.tokens, 0)
        inside = np.flatnonzero(stands == INSIDE)
        for group in np.unique(self.order.group[inside]).tolist():
            tied = inside[self.order.group[inside] == group]
            before = np.cumsum(self.tokens[tied]) - self.tokens[tied]
            taken[tied] = np.clip(allowed[group] - before, 0, self.tokens[tied])
        kept = np.flatnonzero(taken)
        return CandidateTable(
            self.row[kept],
            taken[kept],
            Order(self.order.key[kept], self.order.tie[kept], self.order.group[kept]),
        )


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
        batch = read_batch(local_file(self._path(unit)))
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
    sizes, part = tokenising.sizes(held, held.unit.numbers()[rows])
    candidates.write(held.unit, rows, sizes)
    return part


_MARGIN = 1.05
"""Text of the candidates over the text that the budget is expected to need. Bytes per token of a
selection differ from the pool's by a few per cent; a thin margin costs a second, small round."""

_SLACK = 0.01
"""Tolerance of the plan, as a part of the budget: it most often takes two passes."""

_CERTAINLY_SHORT = 1.3
"""A budget of this many times the pool's estimated tokens is refused before tokenising."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    cutoffs: Sequence[Cutoff]
    """The cutoff of each group, in tokens."""
    candidates: Candidates
    """The documents at or above the cutoffs, with their tokens."""


def search_budget(
    orders: Sequence[OrderedUnit],
    quotas: Sequence[Quota],
    *,
    length: int,
    bytes_per_token: float,
    write: Callable[[Candidates, Runner], object],
    runner: Runner,
    directory: AnyPath,
    allow_short: bool,
) -> Found:
    """Find the cutoff of each group's quota; writes the candidates beside the orders.

    Args:
        orders: The order of every unit.
        quotas: The quota of each group.
        length: Tokens of a sequence.
        bytes_per_token: Bytes of text for each token, over the whole pool.
        write: Writes the table of each unit's candidates, with their tokens.
        runner: Runs a task for some units.
        directory: Scratch of the cut.
        allow_short: Take what there is where a group holds less than its quota.

    Raises:
        BudgetError: A group holds fewer tokens than its quota, or no document may be taken.
    """
    wanted = [quota.tokens for quota in quotas]
    if not allow_short:
        refuse_hopeless(quotas, length, bytes_per_token)
    bytes_wanted = [int(count * bytes_per_token * _MARGIN) for count in wanted]
    for number in itertools.count():
        planned = find_cutoffs(bytes_wanted, _tallies(orders, runner, None), _SLACK)
        candidates = Candidates(directory, number, [plan.prefix for plan in planned])
        write(candidates, runner)
        found = find_cutoffs(wanted, _tallies(orders, runner, candidates))
        short = [group for group, cutoff in enumerate(found) if cutoff.short]
        thin = [group for group in short if not planned[group].everything]
        if not thin:
            break
        for group in thin:
            missing = wanted[group] / max(1, found[group].total)
            bytes_wanted[group] = int(bytes_wanted[group] * missing * _MARGIN) + 1
    if not short:
        return Found(found, candidates)
    wanted = reduce_quotas(quotas, found, length, allow_short)
    return Found(find_cutoffs(wanted, _tallies(orders, runner, candidates)), candidates)


def reduce_quotas(
    quotas: Sequence[Quota], found: Sequence[Cutoff], length: int, allow_short: bool
) -> list[int]:
    """Reduce the quotas that are more than their groups hold to the whole sequences there.

    Args:
        quotas: The quota of each group.
        found: The cutoff of each group, at its whole quota.
        length: Tokens of a sequence.
        allow_short: Whether that is allowed.

    Returns:
        The tokens of each group.

    Raises:
        BudgetError: A group holds fewer tokens than its quota, or no document may be taken.
    """
    totals = [cutoff.total for cutoff in found]
    wanted = [min(quota.tokens, total // length * length) for quota, total in zip(quotas, totals)]
    short = [group for group, cutoff in enumerate(found) if cutoff.short]
    if short and not (allow_short and any(wanted)):
        raise _too_small(quotas, length, short, totals, "")
    return wanted


def _tallies(
    orders: Sequence[OrderedUnit], runner: Runner, candidates: Candidates | None
) -> Callable[[Sequence[Prefix | None], int], Iterator[DigitSums]]:
    """Sum the candidates by tokens, or all documents by bytes of text, for a radix search."""
    items = batches(orders, runner.slots)

    def tallies(prefixes: Sequence[Prefix | None], width: int) -> Iterator[DigitSums]:
        for _, sums in runner.run(_sum_units, items, (candidates, prefixes, width)):
            yield sums

    return tallies


def refuse_hopeless(quotas: Sequence[Quota], length: int, bytes_per_token: float) -> None:
    """Refuse, before tokenising, a budget that the pool cannot hold by any estimate.

    Bytes per token are measured over the whole pool; a single source may have several times as
    many tokens for its bytes, so a share is refused early only above one token a byte (and two ends
    of text a document).

    Args:
        quotas: The quota of each group.
        length: Tokens of a sequence.
        bytes_per_token: Bytes of text for each token, over the whole pool.

    Raises:
        BudgetError: That is so.
    """
    estimates = [int(quota.pool_bytes / bytes_per_token) + quota.pool_documents for quota in quotas]
    most = (
        estimates
        if len(quotas) == 1
        else [quota.pool_bytes + 2 * quota.pool_documents for quota in quotas]
    )
    hopeless = [
        group for group, quota in enumerate(quotas) if quota.tokens > most[group] * _CERTAINLY_SHORT
    ]
    if hopeless:
        raise _too_small(quotas, length, hopeless, estimates, "about ")


def _too_small(
    quotas: Sequence[Quota], length: int, groups: Sequence[int], sizes: Sequence[int], about: str
) -> BudgetError:
    parts = []
    for group in groups:
        quota = quotas[group]
        pool = "the pool" if len(quotas) == 1 else quota.name or "the rest of the pool"
        parts.append(
            f"asked for {quota.tokens:,} tokens of {pool}, which holds "
            f"{about}{sizes[group]:,} that may be taken ({quota.pool_documents:,} documents, "
            f"{quota.pool_bytes:,} bytes)"
        )
    fix = (
        f"not one sequence of {length} tokens: add or allow documents, or lower "
        "shards.sequence_length"
    )
    if any(quota.tokens and size >= length for quota, size in zip(quotas, sizes)):
        fix = (
            "lower it, add documents, or set budget.allow_short: true to take the whole "
            f"sequences of {length} tokens that there are"
        )
    key = "budget.shares" if any(quotas[group].name for group in groups) else "budget.tokens"
    return BudgetError("; ".join(parts), key=key, fix=fix)


def _sum_units(
    orders: Sequence[OrderedUnit],
    shared: tuple[Candidates | None, Sequence[Prefix | None], int],
) -> DigitSums:
    candidates, prefixes, width = shared

    def read(ordered: OrderedUnit) -> tuple[Order, np.ndarray]:
        if candidates is None:
            return ordered.read()
        found = candidates.read(ordered.unit)
        return found.order, found.tokens

    return sum_by_digit((read(ordered) for ordered in orders), prefixes, width)
