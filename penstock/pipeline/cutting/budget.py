"""Divide a token budget into quotas of whole sequences, one for each source with a share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction

from penstock.errors import BudgetError, RecipeError, did_you_mean
from penstock.recipe import Budget

__all__ = ["Quota", "check_shares", "quotas_of"]


_WHOLE = 1 - Fraction(1, 10**9)
"""Shares with at least this sum are taken as 1: three decimal thirds do not add up to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The tokens that one group of sources may take."""

    name: str | None
    """A source, or None for the group of all sources without a share of their own."""
    tokens: int
    """A whole number of sequences."""
    pool_bytes: int
    """Text of the group in the pool."""
    pool_documents: int


def check_shares(budget: Budget, sources: Collection[str]) -> None:
    """Check a budget's shares against the sources of the pool, which are known after cleaning.

    Args:
        budget: Budget whose shares name sources.
        sources: Those of the corpus and those that rewriters will add.

    Raises:
        RecipeError: A share names a source that the pool does not have.
    """
    for source in budget.named_shares:
        if source not in sources:
            raise RecipeError(
                f"the pool has no source {source!r}{did_you_mean(source, sources)}",
                key="budget.shares",
            )


def quotas_of(
    budget: Budget, sequence_length: int, by_source: Mapping[str, Mapping[str, int]]
) -> list[Quota]:
    """Divide a budget into quotas: each share rounded down to whole sequences, the total exact.

    Sources without a share compete for what is left; where shares leave nothing, sequences lost
    to rounding go to the shares that were cut most. Shares come by name, so that the order in
    which a recipe lists them changes nothing. With ``shares: pool`` every source has a share, its
    bytes of the pool's; one of less than a sequence may get none.

    Args:
        budget: Tokens and shares.
        sequence_length: Tokens of a sequence.
        by_source: The pool's ``documents`` and ``bytes`` of each source.

    Raises:
        BudgetError: The budget is less than one sequence.
        RecipeError: A share names a source that the pool does not have.
    """
    assert budget.count is not None  # of a share it is found before
    tokens = budget.count
    total = tokens // sequence_length
    if total == 0:
        raise BudgetError(
            key="budget.tokens",
            expected=f"at least one sequence of {sequence_length} tokens (shards.sequence_length)",
            got=tokens,
        )
    check_shares(budget, by_source)
    shares = _shares(budget, by_source)
    whole = sum(shares.values())
    if whole >= _WHOLE:
        shares = {name: share / whole for name, share in shares.items()}
    exact = {name: share * tokens / sequence_length for name, share in shares.items()}
    sequences = {name: int(value) for name, value in exact.items()}
    left = total - sum(sequences.values())
    if whole >= _WHOLE:
        for name in sorted(exact, key=lambda name: (sequences[name] - exact[name], name))[:left]:
            sequences[name] += 1
        left = 0
    others = [tally for source, tally in by_source.items() if source not in shares]
    return [
        *(
            Quota(
                name=name,
                tokens=sequences[name] * sequence_length,
                pool_bytes=by_source[name]["bytes"],
                pool_documents=by_source[name]["documents"],
            )
            for name in shares
        ),
        Quota(
            name=None,
            tokens=left * sequence_length,
            pool_bytes=sum(tally["bytes"] for tally in others),
            pool_documents=sum(tally["documents"] for tally in others),
        ),
    ]


def _shares(budget: Budget, by_source: Mapping[str, Mapping[str, int]]) -> dict[str, Fraction]:
    """Return the exact share of each source that has one, by name."""
    if budget.shares != "pool":
        return {name: Fraction(repr(share)) for name, share in sorted(budget.named_shares.items())}
    total = sum(tally["bytes"] for tally in by_source.values())
    return {name: Fraction(by_source[name]["bytes"], total) for name in sorted(by_source)}
