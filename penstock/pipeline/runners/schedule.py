"""Which item is done next, and what becomes of those that fail: one policy for every runner.

A runner is a :class:`~penstock.pipeline.runners.worker_pool.WorkerPool`, which carries items to
workers and
answers back; everything it does not decide is here. An item that fails for good does not stop the
others: they are done and handed to the caller, who commits them, and its error is raised at the
end. A worker that is lost costs an attempt only of the item that it was at, and where memory is
shared that item is then done with nothing beside it.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.errors import PenstockError, WorkerError
from penstock.pipeline.runners.attempt import MORE_MEMORY, label
from penstock.pipeline.runners.worker_pool import Usage, WorkerLost, WorkerPool

__all__ = ["Schedule", "drain"]

_ATTEMPTS = 3
"""Workers that one item may take down: a second death may still be chance, a third is not."""

_LOSSES = 10
"""Workers lost over an item without its doing, as when machines are taken away."""

_WINDOW = 8
"""Times the items in flight that an ordered run goes ahead of its first unfinished item."""

_NAMED = 5
"""Failed items that are named in a message."""

_log = logging.getLogger("penstock.runner")


class WorkerTracebackError(Exception):
    """The traceback in a worker, as the cause of the error that is raised here."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n{text}")


class Schedule:
    """The items of one run: to be done, in flight, done, failed.

    Args:
        items: All of them.
        ordered: The caller wants results in the items' order, and all of them: the first failure
            ends the run, and nothing is done far ahead of the first unfinished item.
        isolate: An item whose worker was lost is tried again with nothing beside it.
    """

    def __init__(self, items: Sequence[Any], ordered: bool = False, isolate: bool = False) -> None:
        self._items = items
        self._ordered = ordered
        self._isolate = isolate
        self._begun = 0
        self._again: list[int] = []
        self._suspects: list[int] = []
        self._alone: int | None = None
        self._in_flight: set[int] = set()
        self._losses: dict[tuple[int, bool], int] = {}
        self._unfinished = 0
        self._ahead: set[int] = set()
        self._succeeded = 0
        self._failed: list[int] = []
        self._first: tuple[int, Exception] | None = None
        self._halted = False

    @property
    def left(self) -> int:
        """Items that are neither in flight nor finished."""
        if self._halted:
            return 0
        return len(self._items) - self._begun + len(self._again) + len(self._suspects)

    @property
    def over(self) -> bool:
        """Whether nothing is left and nothing in flight."""
        return not self._in_flight and not self.left

    def take(self, window: int) -> int | None:
        """The next item to hand out, if one may be now.

        Args:
            window: How far beyond the first unfinished item an ordered run may go.
        """
        if self._halted or self._alone is not None:
            return None
        index: int
        if self._suspects:
            if self._in_flight:
                return None
            index = self._alone = heapq.heappop(self._suspects)
        elif self._again:
            index = heapq.heappop(self._again)
        elif self._begun < len(self._items):
            if self._ordered and self._begun >= self._unfinished + window:
                return None
            index = self._begun
            self._begun += 1
        else:
            return None
        self._in_flight.add(index)
        return index

    def succeeded(self, index: int) -> None:
        """An item's result is there."""
        self._finished(index)
        self._succeeded += 1

    def failed(self, index: int, error: Exception, slots: int) -> None:
        """An item failed for good.

        Raises:
            Exception: The error, where the run ends with the first.
        """
        self._finished(index)
        if self._ordered:
            raise error
        self._failed.append(index)
        if len(self._failed) > 1 or not self.over:  # else it is about to be raised
            name = label(self._items[index])
            _log.warning("%s", error if name in str(error) else f"{name} failed: {error}")
        if self._first is None or index < self._first[0]:
            self._first = (index, error)
        self._halted = not self._succeeded and len(self._failed) >= max(4, 2 * slots)

    def lost(self, event: WorkerLost, slots: int) -> None:
        """A worker was lost: its items are done again, but not one that has taken too many."""
        _log.warning("a worker %s; what it was given will be done again", event.reason)
        for index in event.queued:
            self._requeue(index)
        if event.at is None:
            return
        key = (event.at, event.blamed)
        times = self._losses[key] = self._losses.get(key, 0) + 1
        if times < (_ATTEMPTS if event.blamed else _LOSSES):
            self._requeue(event.at, suspect=event.blamed and self._isolate)
        else:
            self.failed(event.at, self._worker_error(event.at, event, times), slots)

    def end(self) -> None:
        """Raise the error of the first item that failed, if one did.

        Raises:
            Exception: The error, naming others that failed where it is one of ours.
        """
        if self._first is not None:
            raise self._summary(*self._first)

    def _requeue(self, index: int, suspect: bool = False) -> None:
        self._in_flight.discard(index)
        if index == self._alone:
            self._alone = None
        heapq.heappush(self._suspects if suspect else self._again, index)

    def _finished(self, index: int) -> None:
        self._in_flight.discard(index)
        if index == self._alone:
            self._alone = None
        if not self._ordered:
            return
        self._ahead.add(index)
        while self._unfinished in self._ahead:
            self._ahead.remove(self._unfinished)
            self._unfinished += 1

    def _worker_error(self, index: int, event: WorkerLost, times: int) -> WorkerError:
        held = f" (it held up to {event.peak_bytes / 2**30:.2f} GiB)" if event.peak_bytes else ""
        if event.memory:
            text = f", most likely for memory{held}; {MORE_MEMORY}"
        elif not event.blamed:
            text = "; run again to go on when the machines are there"
        elif event.memory is None:
            text = f"; what it called broke, or memory did not suffice: {MORE_MEMORY}"
        else:
            text = f"{held}; what it called broke, and may have said why on stderr"
        return WorkerError(
            f"{label(self._items[index])}: its worker {event.reason}, {times} times{text}"
        )

    def _summary(self, index: int, error: Exception) -> Exception:
        others = [label(self._items[i]) for i in sorted(self._failed) if i != index]
        if not others:
            return error
        names = ", ".join(others[: _NAMED - 1])
        more = f" and {len(others) - _NAMED + 1} more" if len(others) >= _NAMED else ""
        text = f"{len(others)} of {len(self._items) - 1} others failed too: {names}{more}"
        if self._halted:
            text += "; none had succeeded, so the rest was not begun"
        if isinstance(error, PenstockError):
            said = type(error)(f"{error}; {text}")
            said.__cause__ = error.__cause__
            return said
        if hasattr(error, "add_note"):
            error.add_note(text)
        return error


def drain(
    crew: WorkerPool,
    items: Sequence[Any],
    usage: Usage,
    ordered: bool = False,
    isolate: bool = False,
) -> Iterator[tuple[int, Any]]:
    """Yield ``(index, result)`` as a crew finishes items; see :class:`Schedule`.

    Raises:
        Exception: At the end, the error of the first item that failed; at once, one in making
            the state.
    """
    schedule = Schedule(items, ordered, isolate)
    began = time.perf_counter()
    try:
        while not schedule.over:
            while schedule.left and crew.room(schedule.left):
                index = schedule.take(_WINDOW * crew.slots * crew.in_flight)
                if index is None:
                    break
                crew.give(index, items[index])
            event = crew.next()
            if isinstance(event, WorkerLost):
                usage.lost_workers += 1
                usage.peak_worker_bytes = max(usage.peak_worker_bytes, event.peak_bytes)
                schedule.lost(event, crew.slots)
            elif event is not None:
                usage.add(event.answer)
                error = event.answer.error
                if error is not None and event.answer.trace:
                    error.__cause__ = WorkerTracebackError(event.answer.trace)
                if error is not None and event.answer.fatal:
                    raise error
                if event.index is None:
                    continue
                usage.items += 1
                if error is not None:
                    schedule.failed(event.index, error, crew.slots)
                else:
                    schedule.succeeded(event.index)
                    yield event.index, event.answer.result
        schedule.end()
    finally:
        usage.wall_seconds += time.perf_counter() - began
        crew.stop()
