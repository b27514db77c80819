"""Transient errors of busy stores and of networks, and the delays between retries.

A store that is slow for a second must not cost a unit of work, and a permanent error must not cost
eight seconds a unit. So the list is explicit: an error that is not on it is permanent. Errors of
HTTP clients are recognised by name, so that no client need be imported; stores recognise theirs.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from penstock.storage import is_temporary_error

__all__ = ["delays", "is_transient"]

_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each retry: 7.5 in all, more than S3 recommends after a SlowDown."""

_CLIENTS = {"httpx", "requests", "urllib3"}

_NAMES = {
    "ChunkedEncodingError",
    "ConnectionError",
    "NetworkError",
    "ProtocolError",
    "TimeoutError",
    "TimeoutException",
}


def delays(label: str) -> Iterator[float]:
    """Yield the seconds to wait before each retry: jittered by a hash of the label and the attempt,
    so that workers do not retry in lockstep."""
    for attempt, wait in enumerate(_WAITS):
        draw = zlib.crc32(f"{label}\x1f{attempt}".encode()) / 2**32
        yield wait * (0.75 + draw / 2)


def is_transient(error: BaseException | None) -> bool:
    """Return whether the same call may succeed when it is tried again.

    An error that this one was raised ``from`` counts, too; one that was only handled does not.
    """
    seen = 0
    while error is not None and seen < 16:
        if _is_listed(error):
            return True
        error, seen = error.__cause__, seen + 1
    return False


def _is_listed(error: BaseException) -> bool:
    if is_temporary_error(error):
        return True
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    if any(home in _CLIENTS and name in _NAMES for home, name in kinds):
        return True
    return any(home in _CLIENTS for home, _ in kinds) and _is_busy_response(error)


def _is_busy_response(error: BaseException) -> bool:
    """Return whether a server answered HTTP 429 or 5xx."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(status, int) and (status == 429 or 500 <= status < 600)
