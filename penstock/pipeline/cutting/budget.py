"""A token budget as whole sequences, for each group of sources that has a share of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

from penstock.errors import BudgetError, RecipeError, did_you_mean
from penstock.recipe import Budget

__all__ = ["Quota", "check_shares", "quotas_of"]


_WHOLE = 1 - Fraction(1, 10**9)
"""Shares of at least this sum are meant to be everything: thirds do not add up in decimals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one group may take."""

    name: str | None
    """A source, or None for all sources without a share of their own."""
    sequences: int
    pool_bytes: int
    """Text that the group has in the pool."""
    pool_documents: int


def check_shares(budget: Budget, sources: Collection[str]) -> None:
    """Refuse a share of a source that is not there.

    Raises:
        RecipeError: Names it, and the nearest one.
    """
    for source in budget.shares:
        if source not in sources:
            raise RecipeError(
                f"budget.shares: the pool has no source {source!r}{did_you_mean(source, sources)}"
            )


def quotas_of(
    budget: Budget, sequence_length: int, by_source: Mapping[str, Mapping[str, int]]
) -> list[Quota]:
    """Divide a budget: each share rounded down to whole sequences, the total exact.

    Sources without a share compete for what is left; where shares leave nothing, sequences lost
    to rounding go to the shares that were cut most. Shares come by name, so that the order in
    which a recipe lists them changes nothing.

    Args:
        budget: Tokens and shares.
        sequence_length: Tokens of a sequence.
        by_source: The pool's ``documents`` and ``bytes`` of each source.

    Raises:
        BudgetError: The budget is less than one sequence.
        RecipeError: A share names a source that the pool does not have.
    """
    total = budget.tokens // sequence_length
    if total == 0:
        raise BudgetError(
            f"budget.tokens: expected at least one sequence of {sequence_length} tokens "
            f"(shards.sequence_length), got {budget.tokens}"
        )
    check_shares(budget, by_source)
    shares = {name: Fraction(repr(share)) for name, share in sorted(budget.shares.items())}
    whole = sum(shares.values())
    if whole >= _WHOLE:
        shares = {name: share / whole for name, share in shares.items()}
    exact = {name: share * budget.tokens / sequence_length for name, share in shares.items()}
    sequences = {name: int(value) for name, value in exact.items()}
    left = total - sum(sequences.values())
    if whole >= _WHOLE:
        by_loss = sorted(exact, key=lambda name: (sequences[name] - exact[name], name))
        for name in by_loss[:left]:
            sequences[name] += 1
        left = 0
    others = [tally for source, tally in by_source.items() if source not in shares]
    return [
        *(
            Quota(
                name=name,
                sequences=sequences[name],
                pool_bytes=by_source[name]["bytes"],
                pool_documents=by_source[name]["documents"],
            )
            for name in shares
        ),
        Quota(
            name=None,
            sequences=left,
            pool_bytes=sum(tally["bytes"] for tally in others),
            pool_documents=sum(tally["documents"] for tally in others),
        ),
    ]
