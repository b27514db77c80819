"""Errors that pass: what a busy store or a shaken network raises, and how long to wait for it.

A store that is slow for a second must not cost a unit of work, and an error that will not pass
must not cost eight seconds a unit, so the list is explicit: what is not on it is for good.
Libraries' own errors are told by name, so that none of them need be imported.
"""

from __future__ import annotations

import errno
import socket
import zlib
from collections.abc import Iterator

__all__ = ["delays", "is_transient"]

_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try: 7.5 in all, above what S3 asks for after a SlowDown."""

_ERRNOS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
    getattr(errno, "EREMOTEIO", errno.EIO),  # Linux; s3fs says so of an InternalError
}

_LIBRARIES = {
    "aiobotocore",
    "aiohttp",
    "asyncio",
    "botocore",
    "concurrent",
    "fsspec",
    "httpx",
    "requests",
    "urllib3",
}

_NAMES = {
    "ChunkedEncodingError",
    "ClientConnectionError",
    "ClientPayloadError",
    "ConnectTimeout",
    "ConnectionClosedError",
    "ConnectionError",
    "HTTPClientError",  # of botocore: connections and time limits
    "IncompleteReadError",
    "NetworkError",
    "ProtocolError",
    "TimeoutException",
    "TimeoutError",  # those of asyncio and concurrent.futures are their own before Python 3.11
}

_CODES = {
    "InternalError",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}


def delays(label: str) -> Iterator[float]:
    """Seconds to wait before each further try; spread by a hash, so that workers do not march."""
    for attempt, wait in enumerate(_WAITS):
        draw = zlib.crc32(f"{label}\x1f{attempt}".encode()) / 2**32
        yield wait * (0.75 + draw / 2)


def is_transient(error: BaseException | None) -> bool:
    """Whether the same call may well succeed in a moment.

    What an error was raised ``from`` counts; what was merely being handled then does not.
    """
    seen = 0
    while error is not None and seen < 16:
        if _passes(error):
            return True
        error, seen = error.__cause__, seen + 1
    return False


def _passes(error: BaseException) -> bool:
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    if any(home in _LIBRARIES and name in _NAMES for home, name in kinds):
        return True
    return any(home in _LIBRARIES for home, _ in kinds) and _answered(error)


def _answered(error: BaseException) -> bool:
    """Whether a server said that it is busy or broken, by an HTTP status or an S3 code."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    code = None
    if isinstance(response, dict):  # botocore's ClientError
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = response.get("Error", {}).get("Code")
    return code in _CODES or (isinstance(status, int) and (status == 429 or 500 <= status < 600))
