"""The call of a plug-in that is under way in a worker: what the error of a crash names.

An exception names its plug-in and its document; a crash takes the process with it. So a worker
tells its driver which call it begins, a message of 0.02 ms for each batch. When the worker is lost,
the next one gets the calls of the lost ones with the item, and makes such a call document by
document, so that the next crash names the document. Only local workers send: Ray's do not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

__all__ = ["Call", "begin_call", "has_crashed", "send_calls", "set_crashed"]

Call = tuple[str, str]
"""The plug-in's key in the recipe, as ``select.mine``, and the documents of the call."""

_send: Callable[[Call], Any] | None = None
_crashed: frozenset[Call] = frozenset()


def begin_call(key: str, documents: str) -> None:
    """Note, in a worker, that a call of a plug-in begins; do nothing in a driver."""
    if _send is not None:
        _send((key, documents))


def has_crashed(key: str, documents: str) -> bool:
    """Return whether a worker was lost in this call, of the item that runs here now."""
    return (key, documents) in _crashed


def send_calls(send: Callable[[Call], Any] | None) -> None:
    """In a worker: send calls that begin by a function."""
    global _send
    _send = send


def set_crashed(calls: Collection[Call]) -> None:
    """In a worker: set the calls in which workers were lost with the item that comes."""
    global _crashed
    _crashed = frozenset(calls)
