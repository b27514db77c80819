"""One try at one item, in whatever process does it: its answer is a result or an error, and a cost.

Errors that pass are waited for here, beside the work, so that no other item stands still for them.
"""

from __future__ import annotations

import logging
import os
import pickle
import reprlib
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from penstock.errors import Failure, PenstockError, StorageError, WorkerError
from penstock.pipeline.runners.transient import delays, is_transient

__all__ = ["MORE_MEMORY", "Answer", "attempt", "label", "portable"]

MORE_MEMORY = (
    "run again with fewer --workers, give it more memory (machine, ulimit, cgroup), or lower "
    "clean.max_document_bytes; what is finished is kept"
)

_WIDTH = 80

_QUIET = 30.0
"""Seconds in which a process says once that something is tried again."""

_log = logging.getLogger("penstock.runner")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an item."""

    result: Any = None
    error: Exception | None = None
    trace: str = ""
    """Where the error was raised, if that was in another process."""

    fatal: bool = False
    """The state could not be made: no item can be done."""

    seconds: float = 0.0
    """In the function, in making its state, and in waiting for what passes."""

    peak_bytes: int = 0
    """The most memory that the process has held so far."""

    retries: int = 0


def attempt(prepare: Callable[[], tuple[Callable[[Any, Any], Any], Any]], item: Any) -> Answer:
    """Call a function for an item; nothing but a signal to stop gets out.

    Args:
        prepare: Gives the function and the state; asked each time, it keeps them.
        item: What the function is called with, beside the state.
    """
    began = time.perf_counter()
    tries = _Tries()
    fatal = True
    result: Any = None
    failure: Exception | None = None
    try:
        function, state = tries.call(prepare, lambda: "the state of the workers")
        fatal = False
        result = tries.call(lambda: function(item, state), lambda: label(item))
    except MemoryError as error:
        failure = WorkerError(f"{label(item)}: out of memory ({error}); {MORE_MEMORY}")
        failure.__cause__ = error
    except SystemExit as error:
        failure = Failure(f"{label(item)}: the function asked its process to exit ({error.code})")
    except Exception as error:
        failure = error
    return Answer(
        result=result,
        error=failure,
        fatal=fatal,
        seconds=time.perf_counter() - began,
        peak_bytes=_peak_bytes(),
        retries=tries.retries,
    )


_said = -_QUIET
"""When this process last said that something is tried again."""


def _say(name: str, error: Exception) -> None:
    global _said
    if time.monotonic() - _said >= _QUIET:
        _said = time.monotonic()
        _log.warning("%s: %s: %s; trying again", name, type(error).__name__, error)


class _Tries:
    """Calls again what fails for a reason that passes."""

    def __init__(self) -> None:
        self.retries = 0

    def call(self, function: Callable[[], Any], name: Callable[[], str]) -> Any:
        try:
            return function()
        except Exception as error:
            if not is_transient(error):
                raise
            last = error
        _say(name(), last)
        for delay in delays(name()):
            time.sleep(delay)
            self.retries += 1
            try:
                return function()
            except Exception as error:
                if not is_transient(error):
                    raise
                last = error
        tried = f"tried {self.retries + 1} times"
        if isinstance(last, PenstockError):
            raise type(last)(f"{last} ({tried})") from last
        raise StorageError(
            f"{name()}: {type(last).__name__}: {last} ({tried}); run again when it answers"
        ) from last


def portable(answer: Answer) -> Answer:
    """The answer as another process can read it: an error that cannot be becomes its text."""
    error = answer.error
    if error is None:
        return answer
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  made here
    except Exception:
        error = Failure(f"{type(error).__name__}: {error}")
    return replace(answer, error=error, trace=trace)


def label(item: Any) -> str:
    """What to call an item in a message: its ``label``, its first element's, else its repr."""
    first = item[0] if isinstance(item, (tuple, list)) and item else None
    for candidate in (item, first):
        name = getattr(candidate, "label", None)
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
