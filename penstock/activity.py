"""The activity of this process: the steps of a command, and the documents that workers have done.

A driver keeps a stack of steps; the innermost is what a heartbeat names. A step of a runner has
items, and gets the counts of documents that its workers send, at most one message a second from
each. Counts are for people alone: no output depends on them, and a worker that is lost takes its
last second with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "DocumentCounts",
    "Step",
    "add_counts",
    "compiling",
    "count_documents",
    "current_steps",
    "send_compiling",
    "send_counts",
    "set_compiling",
    "step",
]

SECONDS_BETWEEN_COUNTS = 1.0


@dataclass(slots=True)
class DocumentCounts:
    """Documents and their bytes of text."""

    documents: int = 0
    bytes: int = 0

    def add(self, documents: int, size: int) -> None:
        """Add some documents."""
        self.documents += documents
        self.bytes += size


@dataclass(slots=True, eq=False)
class Step:
    """A step of a command, which may take long."""

    name: str
    """Empty for the items of a runner."""
    items: int = 0
    """Items of a runner; 0 for a step that has none."""
    done: int = 0
    documents: int = 0
    """Documents of all its items, or 0 where that is not known."""
    counts: DocumentCounts = field(default_factory=DocumentCounts)
    """Documents that its items have done so far."""
    passing: str = ""
    """The pass of a runner over its items, such as ``score unit``."""
    began: float = field(default_factory=time.monotonic)
    counted: float | None = None
    """Monotonic seconds at which documents were counted last; None before the first."""

    def seconds(self, now: float) -> float:
        """Return the seconds since it began."""
        return max(0.0, now - self.began)

    def seconds_left(self, now: float) -> float | None:
        """Estimate the time to its end from the share that is done, or return None."""
        share = self.done / self.items if self.items else 0.0
        if self.documents:
            share = max(share, min(1.0, self.counts.documents / self.documents))
        if not 0 < share < 1:
            return None
        return self.seconds(now) * (1 - share) / share

    def counting_seconds(self, now: float) -> float:
        """Return the seconds until documents were counted last: a rate is of these."""
        return self.seconds(now if self.counted is None else self.counted)


_lock = threading.Lock()
_steps: list[Step] = []
_unsent = DocumentCounts()
_sent = 0.0
_send: Callable[[int, int], None] | None = None
_send_compiling: Callable[[bool], None] | None = None
_compiling = 0


@contextmanager
def step(name: str, items: Sequence[Any] = (), passing: str = "") -> Iterator[Step]:
    """Name what is done inside the context.

    Args:
        name: A noun or participle, such as ``fitting select.betr``; empty for items of a runner.
        items: Items of a runner. An item, or the first element of one, may have ``documents``.
        passing: The pass of a runner.
    """
    own = Step(name, len(items), documents=_documents_of(items), passing=passing)
    with _lock:
        _steps.append(own)
    try:
        yield own
    finally:
        with _lock:
            _steps.remove(own)


def _documents_of(items: Sequence[Any]) -> int:
    """Return the documents of all items, or 0 where one does not tell."""
    total = 0
    for item in items:
        first = item
        while isinstance(first, (tuple, list)) and first:
            first = first[0]
        own = getattr(first, "documents", None)
        if not isinstance(own, int):
            return 0
        total += own
    return total


def current_steps() -> list[Step]:
    """Return the steps that are under way, the outermost first."""
    with _lock:
        return list(_steps)


def count_documents(documents: int, size: int = 0) -> None:
    """Count documents that an item has done, in a worker or in the driver itself.

    Args:
        documents: Number of documents.
        size: Bytes of their texts.
    """
    if _send is None:
        add_counts(documents, size)
        return
    global _sent
    with _lock:
        _unsent.add(documents, size)
        now = time.monotonic()
        if now - _sent < SECONDS_BETWEEN_COUNTS:
            return
        due, _sent = (_unsent.documents, _unsent.bytes), now
        _unsent.documents = _unsent.bytes = 0
    _send(*due)


def add_counts(documents: int, size: int) -> None:
    """Add counts of a worker to the innermost step that has items."""
    with _lock:
        for own in reversed(_steps):
            if own.items:
                own.counts.add(documents, size)
                own.counted = time.monotonic()
                return


def send_counts(send: Callable[[int, int], None] | None) -> None:
    """In a worker: send counts of documents and bytes by a function, at most once a second."""
    global _send
    _send = send


def set_compiling(begins: bool) -> None:
    """Note that a compilation of a loop begins or ends, in a worker or in the driver itself."""
    global _compiling
    if _send_compiling is not None:
        _send_compiling(begins)
        return
    with _lock:
        _compiling = max(0, _compiling + (1 if begins else -1))


def compiling() -> bool:
    """Return whether this process or one of its local workers compiles loops now."""
    return _compiling > 0


def send_compiling(send: Callable[[bool], None] | None) -> None:
    """In a worker: send by a function that a compilation begins (True) or ends."""
    global _send_compiling
    _send_compiling = send
