"""One attempt at one item, in the process that runs it: a result or an error, and its cost.

Transient errors, of busy stores and of networks, are retried here, in the worker, so that no other
item waits for them. A store that is slow for a second must not cost a unit of work, and a permanent
error must not cost eight seconds a unit. So the list is explicit: an error that is not on it is
permanent. Errors of HTTP clients are recognised by name, so that no client need be imported; stores
recognise theirs.
"""

from __future__ import annotations

import copy
import itertools
import os
import pickle
import reprlib
import resource
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from penstock.display import logger_of
from penstock.errors import Failure, PenstockError, StorageError, WorkerError
from penstock.panics import is_panic, panic_reason
from penstock.storage import is_temporary_error

__all__ = ["MORE_MEMORY", "AttemptResult", "attempt", "delay", "is_transient", "label", "portable"]

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


def delay(label: str, attempt: int) -> float:
    """Return the seconds to wait before a retry: jittered by a hash of the label and the attempt,
    so that workers do not retry in lockstep."""
    draw = zlib.crc32(f"{label}\x1f{attempt}".encode()) / 2**32
    return _WAITS[attempt] * (0.75 + draw / 2)


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


MORE_MEMORY = (
    "run again with fewer --workers, give it more memory (machine, ulimit, cgroup), or lower "
    "clean.max_document_bytes; what is finished is kept"
)

_WIDTH = 80

_QUIET_SECONDS = 30.0
"""A process logs at most one retry in this time."""

_log = logger_of("penstock.runner")


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The outcome of one attempt at an item."""

    result: Any = None
    error: Exception | None = None
    trace: str = ""
    """Traceback of the error, if it was raised in another process."""

    fatal: bool = False
    """True if the state could not be read, so that no item can be run."""

    seconds: float = 0.0
    """Time in the function, in reading its state, and in waiting between retries."""

    peak_bytes: int = 0
    """Peak resident memory of the process so far."""

    retries: int = 0


def attempt(
    prepare: Callable[[], tuple[Callable[[Any, Any], Any], Any]], item: Any
) -> AttemptResult:
    """Call a function for an item and catch everything but KeyboardInterrupt.

    Args:
        prepare: Returns the function and the state; called for each item, so it caches them.
        item: First argument of the function; the second is the state.
    """
    began = time.perf_counter()
    retries = _Retries()
    fatal = True
    result: Any = None
    failure: Exception | None = None
    try:
        function, state = retries.call(prepare, lambda: "the state of the workers")
        fatal = False
        result = retries.call(lambda: function(item, state), lambda: label(item))
    except MemoryError as error:
        failure = WorkerError(f"{label(item)}: out of memory ({error})", fix=MORE_MEMORY)
        failure.__cause__ = error
    except SystemExit as error:
        failure = Failure(f"{label(item)}: the function called exit ({error.code})")
    except Exception as error:
        failure = error
    except BaseException as error:
        if not is_panic(error):
            raise
        failure = Failure(f"{label(item)}: a library panicked ({panic_reason(error)})")
    return AttemptResult(
        result=result,
        error=failure,
        fatal=fatal,
        seconds=time.perf_counter() - began,
        peak_bytes=_peak_bytes(),
        retries=retries.count,
    )


_logged = -_QUIET_SECONDS
"""Monotonic time of the last log line about a retry."""


def _log_retry(name: str, error: Exception) -> None:
    global _logged
    if time.monotonic() - _logged >= _QUIET_SECONDS:
        _logged = time.monotonic()
        _log.warning("%s: %s: %s; trying again", name, type(error).__name__, error)


class _Retries:
    """Retries calls that fail with a transient error, and counts the retries."""

    def __init__(self) -> None:
        self.count = 0

    def call(self, function: Callable[[], Any], name: Callable[[], str]) -> Any:
        for attempt in itertools.count():
            try:
                return function()
            except Exception as error:
                if not is_transient(error):
                    raise
                if not attempt:
                    _log_retry(name(), error)
                if attempt == len(_WAITS):
                    raise self._final(error, name()) from error
            time.sleep(delay(name(), attempt))
            self.count += 1

    def _final(self, error: Exception, name: str) -> PenstockError:
        tried = f"(tried {self.count + 1} times)"
        if isinstance(error, PenstockError):
            final = copy.copy(error)
            final.problem = f"{error.problem} {tried}".strip()
            return final
        return StorageError(
            f"{name}: {type(error).__name__}: {error} {tried}",
            fix="run again when the store or network answers",
        )


def portable(outcome: AttemptResult) -> AttemptResult:
    """Make an outcome that can be pickled: an error that cannot be is replaced by its text."""
    error = outcome.error
    if error is None:
        return outcome
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  made here
    except Exception:
        error = Failure(f"{type(error).__name__}: {error}")
    return replace(outcome, error=error, trace=trace)


def label(item: Any) -> str:
    """Name an item in a message: by its ``label``, that of its first element, or its repr."""
    named = item
    while isinstance(named, (tuple, list)) and named:
        named = named[0]
    name = getattr(named, "label", None)
    if isinstance(name, str):
        return name
    short = reprlib.Repr()
    short.maxstring = short.maxother = _WIDTH
    text = short.repr(item)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def _peak_bytes() -> int:
    # Not ru_maxrss on Linux: a process starts with that of the one that forked it.
    try:
        with open(f"/proc/{os.getpid()}/status", "rb") as status:
            for line in status:
                if line.startswith(b"VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
