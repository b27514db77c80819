"""Calls of plug-ins; errors get the recipe's key and the documents of the call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

from penstock.errors import PenstockError, ScoringError

__all__ = ["call_plugin"]

Result = TypeVar("Result")


def call_plugin(key: str, at: str, function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a method of a plug-in, which may be a user's code.

    Args:
        key: The plug-in's in the recipe, as ``select.mine``.
        at: The documents of the call, for messages.
        function: The method.
        arguments: Arguments of the method.

    Raises:
        PenstockError: The plug-in raised it; key and documents are put in front.
        ScoringError: The plug-in raised another error, which is its cause.
    """
    try:
        return function(*arguments)
    except PenstockError as error:
        placed = copy.copy(error).under(key)  # a plug-in may raise one object again and again
        placed.file = at if error.file is None else f"{at}: {error.file}"
        raise placed from None
    except Exception as error:
        raise ScoringError(
            f"the plug-in raised {type(error).__name__}: {error}", key=key, file=at
        ) from error
