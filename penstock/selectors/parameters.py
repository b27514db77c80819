"""Checks of a selector's parameters.

A message begins with the key, since the registry puts ``select.<name>.`` before it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from penstock.errors import SelectorError

__all__ = ["flag", "listed", "model_name", "number", "one_of", "whole"]


def flag(key: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise SelectorError(f"{key}: expected true or false, got {value!r}")
    return value


def one_of(key: str, value: Any, *known: str) -> str:
    """A word that is known."""
    if not isinstance(value, str) or value not in known:
        raise SelectorError(f"{key}: expected {' or '.join(known)}, got {value!r}")
    return value


def model_name(key: str, value: Any) -> str:
    """A name or a directory."""
    if not isinstance(value, str) or not value:
        raise SelectorError(f"{key}: expected a name or a directory, got {value!r}")
    return value


def whole(key: str, value: Any, least: int = 1) -> int:
    """An integer, ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SelectorError(f"{key}: expected an integer of at least {least}, got {value!r}")
    return value


def number(key: str, value: Any, below: float = math.inf) -> float:
    """A number above 0 and below ``below``."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < below:
        bounds = "a positive number" if below == math.inf else f"a number in (0, {below})"
        raise SelectorError(f"{key}: expected {bounds}, got {value!r}")
    return float(value)


def listed(key: str, value: Any) -> Sequence[Any]:
    """One value or several."""
    values = value if isinstance(value, (list, tuple)) else [value]
    if not values:
        raise SelectorError(f"{key}: expected at least one value, got {value!r}")
    return values
