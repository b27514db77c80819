"""Pauses of Python's garbage collection, for imports and for the first call of a kernel.

Both make some 400,000 objects, of which none is garbage. Python looks at all of them again and
again, as often as their number has grown by a quarter: a fifth of the CPU time in which a driver or
a worker starts (docs/lab.md, "Time of the tests").
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["collection_paused"]

_lock = threading.Lock()
_pauses = 0
_was_on = False


@contextmanager
def collection_paused() -> Iterator[None]:
    """Collect no garbage in this process until the block ends, or the last of those under way.

    Nothing changes where collection is off already.
    """
    global _pauses, _was_on
    with _lock:
        if _pauses == 0:
            _was_on = gc.isenabled()
            gc.disable()
        _pauses += 1
    try:
        yield
    finally:
        with _lock:
            _pauses -= 1
            if _pauses == 0 and _was_on:
                gc.enable()
