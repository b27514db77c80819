"""The search for the cutoffs of a budget: plan by bytes of text, decide by tokens.

Two exact radix selections (:mod:`penstock.pipeline.radix`). The first is by bytes of text, and
only plans: it names the candidates that should hold the budget and a margin, so that no more than
those are tokenised; where the margin was too thin it is widened. The second is by tokens and
decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from penstock.artefact import FileRecord, atomic_file
from penstock.errors import BudgetError
from penstock.pipeline.budget import Quota
from penstock.pipeline.ordering import OrderedUnit
from penstock.pipeline.radix import Cutoff, Order, Tally, find_cutoffs, tally
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import TokenStore, open_tokens

__all__ = ["Search"]

_MARGIN = 1.05
"""Candidates' text over what the budget is expected to need. Bytes per token of a selection
differ from the pool's by a few per cent; a thin margin costs a second, small round at worst."""

_CERTAINLY_SHORT = 1.3
"""A budget this many times the pool's estimated tokens is refused before tokenising the pool."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search, with all it needs to know."""

    orders: Sequence[OrderedUnit]
    quotas: Sequence[Quota]
    length: int
    tokens: TokenStore
    runner: Runner

    def cutoffs(self, allow_short: bool) -> list[Cutoff]:
        """Where each group's budget of tokens is crossed; leaves token counts beside the orders.

        Raises:
            BudgetError: A group holds fewer tokens than asked for, or there is nothing at all.
        """
        wanted = [quota.sequences * self.length for quota in self.quotas]
        if not allow_short:
            self._refuse_hopeless(wanted)
        per_token = self.tokens.bytes_per_token
        bytes_wanted = [int(count * per_token * _MARGIN) for count in wanted]
        while True:
            candidates = find_cutoffs(bytes_wanted, lambda *what: self._tallies("bytes", *what))
            self._tokenise(candidates)
            found = find_cutoffs(wanted, lambda *what: self._tallies("tokens", *what))
            thin = [
                group
                for group, cutoff in enumerate(found)
                if cutoff.short and not candidates[group].everything
            ]
            if not thin:
                break
            for group in thin:
                missing = wanted[group] / max(1, found[group].total)
                bytes_wanted[group] = int(bytes_wanted[group] * missing * _MARGIN) + 1
        short = [group for group, cutoff in enumerate(found) if cutoff.short]
        if not short:
            return found
        if not allow_short:
            raise BudgetError(self._too_small(short, [cutoff.total for cutoff in found], ""))
        wanted = [
            min(count, cutoff.total // self.length * self.length)
            for count, cutoff in zip(wanted, found)
        ]
        if not any(wanted):
            raise BudgetError(self._too_small(short, [cutoff.total for cutoff in found], ""))
        return find_cutoffs(wanted, lambda *what: self._tallies("tokens", *what))

    def _tallies(
        self, unit_of_size: str, prefixes: Sequence[tuple[int, ...] | None], level: int
    ) -> Iterable[Tally]:
        shared = (unit_of_size, prefixes, level)
        for _, sums in self.runner.run(_tally_unit, self.orders, shared):
            yield sums

    def _tokenise(self, candidates: Sequence[Cutoff]) -> None:
        """Make sure that all candidates are tokenised, and leave their sizes beside the orders."""
        items = [(ordered, self.tokens.parts(ordered.unit)) for ordered in self.orders]
        shared = (candidates, self.tokens.directory, self.tokens.dtype)
        missing = {index: rows for index, rows in self.runner.run(_missing_rows, items, shared)}
        self.tokens.add(missing, self.runner)
        items = [(ordered, self.tokens.parts(ordered.unit)) for ordered in self.orders]
        for _ in self.runner.run(_write_sizes, items, shared):
            pass

    def _refuse_hopeless(self, wanted: Sequence[int]) -> None:
        """Refuse, before tokenising a pool, what it cannot hold by any estimate.

        Bytes per token are measured over the whole pool; one source may take several times the
        tokens for its bytes, so a share is refused early only above one token a byte
        (and its two ends a document).
        """
        estimates = [
            int(quota.pool_bytes / self.tokens.bytes_per_token) + quota.pool_documents
            for quota in self.quotas
        ]
        most = (
            estimates
            if len(self.quotas) == 1
            else [quota.pool_bytes + 2 * quota.pool_documents for quota in self.quotas]
        )
        hopeless = [
            group for group, count in enumerate(wanted) if count > most[group] * _CERTAINLY_SHORT
        ]
        if hopeless:
            raise BudgetError(self._too_small(hopeless, estimates, "about "))

    def _too_small(self, groups: Sequence[int], sizes: Sequence[int], about: str) -> str:
        parts = []
        for group in groups:
            quota = self.quotas[group]
            whose = "the pool" if len(self.quotas) == 1 else quota.name or "the rest of the pool"
            parts.append(
                f"asked for {quota.sequences * self.length:,} tokens of {whose}, which holds "
                f"{about}{sizes[group]:,} that may be taken ({quota.pool_documents:,} documents, "
                f"{quota.pool_bytes:,} bytes)"
            )
        key = "budget.shares" if any(self.quotas[g].name for g in groups) else "budget.tokens"
        return (
            f"{key}: {'; '.join(parts)}; lower it, add documents, or set budget.allow_short: true "
            f"to take the whole sequences of {self.length} tokens that there are"
        )


# -- tasks over one unit ----------------------------------------------------------------------


def _tally_unit(
    ordered: OrderedUnit, shared: tuple[str, Sequence[tuple[int, ...] | None], int]
) -> Tally:
    unit_of_size, prefixes, level = shared
    order, sizes = ordered.read()
    if unit_of_size == "tokens":
        sizes = ordered.sizes()
    return tally(order, sizes, prefixes, level)


def _candidate_rows(order: Order, cutoffs: Sequence[Cutoff]) -> np.ndarray:
    """Rows at or above their group's cutoff, ascending."""
    chosen = np.zeros(len(order.key), dtype=bool)
    for group, cutoff in enumerate(cutoffs):
        above, inside = order.against(cutoff.prefix)
        chosen |= (order.group == group) & (above | inside)
    return np.flatnonzero(chosen)


Item = tuple[OrderedUnit, Sequence[FileRecord]]
Candidates = tuple[Sequence[Cutoff], Path, str]


def _missing_rows(item: Item, shared: Candidates) -> np.ndarray:
    ordered, parts = item
    cutoffs, directory, dtype = shared
    rows = _candidate_rows(ordered.read()[0], cutoffs)
    return np.setdiff1d(rows, open_tokens(directory, parts, dtype).rows, assume_unique=True)


def _write_sizes(item: Item, shared: Candidates) -> None:
    """Tokens of each candidate, 0 for the others: (n,) int64."""
    ordered, parts = item
    cutoffs, directory, dtype = shared
    order, _ = ordered.read()
    rows = _candidate_rows(order, cutoffs)
    known = open_tokens(directory, parts, dtype)
    sizes = np.zeros(len(order.key), dtype=np.int64)
    sizes[rows] = known.sizes[np.searchsorted(known.rows, rows)]
    with atomic_file(ordered.sizes_path) as sink:
        np.save(sink, sizes, allow_pickle=False)
