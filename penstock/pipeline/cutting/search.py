"""Search the cutoffs of a budget: plan by bytes of text, decide by tokens.

It makes two radix selections (:mod:`penstock.pipeline.cutting.radix`). The first is by bytes of
text and only a plan: it selects candidates that should hold the budget and a margin, so that no
other document is tokenised; where the margin was too thin it is widened. The second is by tokens,
exact, and decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock.errors import BudgetError
from penstock.pipeline.cutting.budget import Quota
from penstock.pipeline.cutting.candidates import Candidates
from penstock.pipeline.cutting.ordering import OrderedUnit, batches
from penstock.pipeline.cutting.radix import (
    Cutoff,
    DigitSums,
    Order,
    Prefix,
    find_cutoffs,
    sum_by_digit,
)
from penstock.pipeline.runner import Runner
from penstock.storage import AnyPath

__all__ = ["BudgetSearch", "Found"]

_MARGIN = 1.05
"""Text of the candidates over the text that the budget is expected to need. Bytes per token of a
selection differ from the pool's by a few per cent; a thin margin costs a second, small round."""

_SLACK = 0.01
"""Tolerance of the plan, as a part of the budget: it most often takes two passes."""

_CERTAINLY_SHORT = 1.3
"""A budget of this many times the pool's estimated tokens is refused before tokenising."""

Tallies = Callable[[Sequence[Prefix | None], int], Iterator[DigitSums]]


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search."""

    cutoffs: Sequence[Cutoff]
    """The cutoff of each group, in tokens."""
    candidates: Candidates
    """The documents at or above the cutoffs, with their tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSearch:
    """The search of one cut: orders and quotas to cutoffs in tokens."""

    orders: Sequence[OrderedUnit]
    quotas: Sequence[Quota]
    length: int
    """Tokens of a sequence."""
    bytes_per_token: float
    """Bytes of text for each token, over the whole pool."""
    write_candidates: Callable[[Candidates, Runner], object]
    """Writes the table of each unit's candidates, with their tokens."""
    runner: Runner
    directory: AnyPath
    """Scratch of the cut."""

    def cutoffs(self, allow_short: bool) -> Found:
        """Find the cutoff of each group's quota; writes the candidates beside the orders.

        Raises:
            BudgetError: A group holds fewer tokens than its quota, or no document may be taken.
        """
        wanted = [quota.tokens for quota in self.quotas]
        if not allow_short:
            self._refuse_hopeless(wanted)
        bytes_wanted = [int(count * self.bytes_per_token * _MARGIN) for count in wanted]
        for number in itertools.count():
            planned = find_cutoffs(bytes_wanted, self._tallies(None), _SLACK)
            candidates = Candidates(self.directory, number, [plan.prefix for plan in planned])
            self.write_candidates(candidates, self.runner)
            found = find_cutoffs(wanted, self._tallies(candidates))
            thin = [
                group
                for group, cutoff in enumerate(found)
                if cutoff.short and not planned[group].everything
            ]
            if not thin:
                break
            for group in thin:
                missing = wanted[group] / max(1, found[group].total)
                bytes_wanted[group] = int(bytes_wanted[group] * missing * _MARGIN) + 1
        short = [group for group, cutoff in enumerate(found) if cutoff.short]
        if not short:
            return Found(found, candidates)
        if not allow_short:
            raise self._too_small(short, [cutoff.total for cutoff in found], "")
        wanted = [
            min(count, cutoff.total // self.length * self.length)
            for count, cutoff in zip(wanted, found)
        ]
        if not any(wanted):
            raise self._too_small(short, [cutoff.total for cutoff in found], "")
        return Found(find_cutoffs(wanted, self._tallies(candidates)), candidates)

    def _tallies(self, candidates: Candidates | None) -> Tallies:
        """Sum the candidates by tokens, or all documents by bytes of text, for a radix search."""
        items = batches(self.orders, self.runner.slots)

        def tallies(prefixes: Sequence[Prefix | None], width: int) -> Iterator[DigitSums]:
            shared = (candidates, prefixes, width)
            for _, sums in self.runner.run(_sum_units, items, shared):
                yield sums

        return tallies

    def _refuse_hopeless(self, wanted: Sequence[int]) -> None:
        """Refuse, before tokenising, a budget that the pool cannot hold by any estimate.

        Bytes per token are measured over the whole pool; a single source may have several times
        as many tokens for its bytes, so a share is refused early only above one token a byte (and
        two ends of text a document).
        """
        estimates = [
            int(quota.pool_bytes / self.bytes_per_token) + quota.pool_documents
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
            raise self._too_small(hopeless, estimates, "about ")

    def _too_small(self, groups: Sequence[int], sizes: Sequence[int], about: str) -> BudgetError:
        parts = []
        for group in groups:
            quota = self.quotas[group]
            pool = "the pool" if len(self.quotas) == 1 else quota.name or "the rest of the pool"
            parts.append(
                f"asked for {quota.tokens:,} tokens of {pool}, which holds "
                f"{about}{sizes[group]:,} that may be taken ({quota.pool_documents:,} documents, "
                f"{quota.pool_bytes:,} bytes)"
            )
        key = "budget.shares" if any(self.quotas[g].name for g in groups) else "budget.tokens"
        if any(quota.tokens and size >= self.length for quota, size in zip(self.quotas, sizes)):
            fix = (
                "lower it, add documents, or set budget.allow_short: true to take the whole "
                f"sequences of {self.length} tokens that there are"
            )
        else:
            fix = (
                f"not one sequence of {self.length} tokens: add or allow documents, or lower "
                "shards.sequence_length"
            )
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
