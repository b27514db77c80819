"""Transient errors of busy stores and of networks, and the delays between retries.

A store that is slow for a second must not cost a unit of work, and a permanent error must not cost
eight seconds a unit. So the list is explicit: an error that is not on it is permanent. Errors of
libraries are recognised by name, so that no library need be imported.
"""

from __future__ import annotations

import errno
import socket
import zlib
from collections.abc import Iterator

__all__ = ["delays", "is_transient"]

_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each retry: 7.5 in all, more than S3 asks for after a SlowDown."""

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
    getattr(errno, "EREMOTEIO", errno.EIO),  # Linux; s3fs raises it for an InternalError
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
    """Yield the seconds to wait before each retry: jittered by a hash of the label and the attempt,
    so that workers do not retry in lockstep."""
    for attempt, wait in enumerate(_WAITS):
        draw = zlib.crc32(f"{label}\x1f{attempt}".encode()) / 2**32
        yield wait * (0.75 + draw / 2)


def is_transient(error: BaseException | None) -> bool:
    """Whether the same call may succeed in a moment.

    The error that it was raised ``from`` counts, too; one that was only being handled does not.
    """
    seen = 0
    while error is not None and seen < 16:
        if _is_listed(error):
            return True
        error, seen = error.__cause__, seen + 1
    return False


def _is_listed(error: BaseException) -> bool:
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, OSError) and error.errno in _ERRNOS:
        return True
    kinds = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    if any(home in _LIBRARIES and name in _NAMES for home, name in kinds):
        return True
    return any(home in _LIBRARIES for home, _ in kinds) and _is_busy_response(error)


def _is_busy_response(error: BaseException) -> bool:
    """Whether a server answered that it is busy or broken, by an HTTP status or an S3 code."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    code = None
    if isinstance(response, dict):  # botocore's ClientError
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        code = response.get("Error", {}).get("Code")
    return code in _CODES or (isinstance(status, int) and (status == 429 or 500 <= status < 600))
