"""Numbers of tokens as people write them: ``20_000_000``, ``20M``, ``1.5B``, and shares as ``5%``.

A count with a letter is the same integer as its digits, so that both name the same artefacts.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, PositiveInt, Tag

from penstock.errors import RecipeError

__all__ = ["Amount", "PoolShare", "TokenCount", "share_of"]

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_COUNT = re.compile(r"(\d[\d_]*)(\.\d+)?\s*([kmbt]?)", re.IGNORECASE)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s*p(?:er\s*)?c(?:en)?t", re.IGNORECASE)
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)\s*%")

_EXPECTED = "a number of tokens, as 20_000_000, 20M or 1.5B (K, M, B, T)"
_WITH_SHARE = f"{_EXPECTED}; or a share of the kept text, as 5%"


def _count(value: Any) -> Any:
    """Return the integer of a text such as ``1.5B``; other values as they are."""
    if not isinstance(value, str):
        return value
    found = _COUNT.fullmatch(value.strip())
    if found is None:
        raise RecipeError(expected=_EXPECTED, got=repr(value[:60]))
    digits, part, letter = found.groups()
    exact = Fraction(f"{digits.replace('_', '')}{part or ''}") * _FACTORS[letter.lower()]
    if exact.denominator != 1:
        raise RecipeError(expected="a whole number of tokens", got=f"{value}, which is not one")
    return int(exact)


def _count_or_share(value: Any) -> Any:
    """Return :func:`_count`; an error names the form of a share, too."""
    if isinstance(value, float) and 0 < value < 1:
        share = f"{(100 * Decimal(repr(value))).normalize():f}%"
        raise RecipeError(expected=_WITH_SHARE, got=repr(value), fix=f"write {share}")
    try:
        return _count(value)
    except RecipeError as error:
        if error.expected != _EXPECTED:
            raise
        named = _PERCENT.fullmatch(value.strip())
        fix = f"write {named[1]}%" if named else None
        raise RecipeError(expected=_WITH_SHARE, got=error.got, fix=fix) from None


def _share(value: str) -> str:
    """Return a share in its shortest form, ``5%`` for ``5.0 %``: equal shares are equal values."""
    found = _SHARE.fullmatch(value.strip())
    exact = Decimal(found[1]).normalize() if found else Decimal(0)
    if not 0 < exact <= 100:
        raise RecipeError(
            expected="a share of the pool above 0% and of at most 100%, as 5% or 0.5%",
            got=repr(value[:60]),
        )
    return f"{exact:f}%"


def _shape(value: Any) -> str:
    return "<share>" if isinstance(value, str) and value.rstrip().endswith("%") else "<count>"


TokenCount = Annotated[PositiveInt, BeforeValidator(_count)]
"""A positive integer, also as ``20M``."""

PoolShare = Annotated[str, AfterValidator(_share)]
"""A share of the kept text of the pool, as ``5%``."""

Amount = Annotated[
    Annotated[PositiveInt, BeforeValidator(_count_or_share), Tag("<count>")]
    | Annotated[PoolShare, Tag("<share>")],
    Discriminator(_shape),
]
"""A number of tokens, or a share of the pool."""


def share_of(amount: int | str) -> Fraction | None:
    """Return the exact share that ``5%`` is; None of a number of tokens."""
    return Fraction(amount.removesuffix("%")) / 100 if isinstance(amount, str) else None
