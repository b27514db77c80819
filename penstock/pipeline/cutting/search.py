"""The search for the cutoffs of a budget: plan by bytes of text, decide by tokens.

Two exact radix selections (:mod:`penstock.pipeline.cutting.radix`). The first is by bytes of text,
and only plans: it names the candidates that should hold the budget and a margin, so that no more
than those are tokenised; where the margin was too thin it is widened. The second is by tokens and
decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from penstock.errors import BudgetError
from penstock.pipeline.cutting.budget import Quota
from penstock.pipeline.cutting.candidates import Candidates
from penstock.pipeline.cutting.ordering import OrderedUnit, batches
from penstock.pipeline.cutting.radix import Cutoff, Order, Prefix, Tally, find_cutoffs, tally
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import Wanted
from penstock.storage import AnyPath

__all__ = ["Found", "Search", "Sizes"]

_MARGIN = 1.05
"""Candidates' text over what the budget is expected to need. Bytes per token of a selection
differ from the pool's by a few per cent; a thin margin costs a second, small round at worst."""

_SLACK = 0.01
"""The plan is not made finer than this part of a budget: most often two passes."""

_CERTAINLY_SHORT = 1.3
"""A budget this many times the pool's estimated tokens is refused before tokenising the pool."""

Tallies = Callable[[Sequence[Prefix | None], int], Iterator[Tally]]


class Sizes(Protocol):
    """Where the tokens of documents are known from, or found out: the token store."""

    @property
    def bytes_per_token(self) -> float: ...

    def add(self, wanted: Wanted, runner: Runner, /) -> int:
        """Find out what is wanted and not known yet, and tell ``wanted`` all of it."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found."""

    cutoffs: Sequence[Cutoff]
    """Of each group, in tokens."""
    candidates: Candidates
    """Where the documents at or above the cutoffs are, with their tokens."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search, with all it needs to know."""

    orders: Sequence[OrderedUnit]
    quotas: Sequence[Quota]
    length: int
    tokens: Sizes
    runner: Runner
    directory: AnyPath
    """Scratch of the cut."""

    def cutoffs(self, allow_short: bool) -> Found:
        """Where each group's budget of tokens is crossed; leaves the candidates beside the orders.

        Raises:
            BudgetError: A group holds fewer tokens than asked for, or there is nothing at all.
        """
        wanted = [quota.sequences * self.length for quota in self.quotas]
        if not allow_short:
            self._refuse_hopeless(wanted)
        per_token = self.tokens.bytes_per_token
        bytes_wanted = [int(count * per_token * _MARGIN) for count in wanted]
        for number in itertools.count():
            planned = find_cutoffs(bytes_wanted, self._tallies(None), _SLACK)
            candidates = Candidates(self.directory, number, [plan.prefix for plan in planned])
            self.tokens.add(candidates, self.runner)
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
            raise BudgetError(self._too_small(short, [cutoff.total for cutoff in found], ""))
        wanted = [
            min(count, cutoff.total // self.length * self.length)
            for count, cutoff in zip(wanted, found)
        ]
        if not any(wanted):
            raise BudgetError(self._too_small(short, [cutoff.total for cutoff in found], ""))
        return Found(find_cutoffs(wanted, self._tallies(candidates)), candidates)

    def _tallies(self, candidates: Candidates | None) -> Tallies:
        """Tallies of the candidates by tokens, or of all documents by bytes of text."""
        items = batches(self.orders, self.runner.slots)

        def tallies(prefixes: Sequence[Prefix | None], width: int) -> Iterator[Tally]:
            shared = (candidates, prefixes, width)
            for _, sums in self.runner.run(_tally_units, items, shared):
                yield sums

        return tallies

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
        if any(quota.sequences and size >= self.length for quota, size in zip(self.quotas, sizes)):
            fix = (
                "lower it, add documents, or set budget.allow_short: true to take the whole "
                f"sequences of {self.length} tokens that there are"
            )
        else:
            fix = (
                f"not one sequence of {self.length} tokens: add or allow documents, or lower "
                "shards.sequence_length"
            )
        return f"{key}: {'; '.join(parts)}; {fix}"


def _tally_units(
    orders: Sequence[OrderedUnit],
    shared: tuple[Candidates | None, Sequence[Prefix | None], int],
) -> Tally:
    candidates, prefixes, width = shared

    def read(ordered: OrderedUnit) -> tuple[Order, np.ndarray]:
        if candidates is None:
            return ordered.read()
        found = candidates.read(ordered.unit)
        return found.order, found.tokens

    return tally((read(ordered) for ordered in orders), prefixes, width)
