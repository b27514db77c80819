"""Checks of a selector's parameters.

A message begins with the key, since the registry puts ``select.<name>.`` before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.errors import SelectorError, did_you_mean

__all__ = ["flag", "listed", "model_name", "model_shape", "number", "one_of", "options", "whole"]


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


def options(key: str, value: Any, known: Sequence[str]) -> Mapping[str, Any]:
    """``true`` or a mapping with keys that are known: the keys that are given."""
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise SelectorError(f"{key}: expected true or a mapping, got {value!r}")
    for own in value:
        if own not in known:
            raise SelectorError(f"{key}.{own}: unknown key{did_you_mean(str(own), known)}")
    return value


def model_shape(key: str, value: Any) -> tuple[int, int, int]:
    """Layers, width and heads of a model that is to be trained."""
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or any(type(one) is not int or one < 1 for one in value):
        raise SelectorError(f"{key}: expected [layers, width, heads], got {value!r}")
    if value[1] % (2 * value[2]):
        raise SelectorError(f"{key}: expected a width divisible by twice the heads, got {value!r}")
    return (value[0], value[1], value[2])


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
