"""The schedule of a run: which item runs next, and how failures are handled, for every runner.

A :class:`~penstock.pipeline.runners.schedule.WorkerPool` sends items to workers and receives
their outcomes; every decision is made here. An item that fails does not stop the others: they run
and are yielded to the caller, who commits them, and the error is raised at the end. A lost worker
costs an attempt only of the item that it was running; where workers share memory, that item then
runs alone.
"""

from __future__ import annotations

import contextlib
import copy
import heapq
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.activity import step
from penstock.calls import Call
from penstock.display import logger_of
from penstock.errors import PenstockError, WorkerError
from penstock.pipeline.runners.attempt import MORE_MEMORY, AttemptResult, label

__all__ = ["Completed", "Schedule", "Usage", "WorkerLost", "WorkerPool", "drain"]


@dataclass(frozen=True, slots=True)
class Completed:
    """An item was attempted; without an index, a worker became ready."""

    index: int | None
    outcome: AttemptResult


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker ended before it had finished its items."""

    reason: str
    """A clause for messages, such as ``was killed by SIGKILL``."""

    at: int | None = None
    """The item that it was running."""

    queued: tuple[int, ...] = ()
    """Items that it had been sent and had not begun."""

    blamed: bool = True
    """True if the running item may be the cause; False if the whole machine was lost."""

    memory: bool | None = False
    """True if memory is the likeliest cause; None if that is not known."""

    peak_bytes: int = 0
    """Its peak resident memory, or 0 where that is not known."""

    call: Call | None = None
    """The call of a plug-in that it had begun, where that is known."""


@dataclass(slots=True)
class Usage:
    """Counters of a runner's work since it was opened."""

    busy_seconds: float = 0.0
    """Time in functions and in reading their state, summed over workers."""

    wall_seconds: float = 0.0
    """Time from the first request for a result to the end of each run, the caller's work between
    results included: 1 - busy / (slots x wall) is the cost of scheduling and manifests."""

    items: int = 0
    peak_worker_bytes: int = 0
    """Peak resident memory of the largest process that ran items, shared pages included."""

    retries: int = 0
    """Further attempts after transient errors."""

    lost_workers: int = 0

    def add(self, outcome: AttemptResult) -> None:
        self.busy_seconds += outcome.seconds
        self.retries += outcome.retries
        self.peak_worker_bytes = max(self.peak_worker_bytes, outcome.peak_bytes)


class WorkerPool(Protocol):
    """Sends items to workers, and receives their outcomes."""

    in_flight: int
    """Items that may be queued for each slot."""

    @property
    def slots(self) -> int:
        """Items that can run at the same time now."""

    def room(self, left: int) -> bool:
        """Return whether to send another item now, with ``left`` items not yet sent."""

    def give(self, index: int, item: Any) -> None:
        """Send an item; call it only after :meth:`room` returned True."""

    def next(self) -> Completed | WorkerLost | None:
        """Wait for the next event; None if there was none for about a second."""

    def stop(self) -> None:
        """Stop the running items at once, and wait until none of them can write any more."""


_ATTEMPTS = 3
"""Workers that one item may crash: a second crash may still be chance, a third is not."""

_LOSSES = 10
"""Workers that may be lost while they run an item for another reason, as with spot machines."""

_WINDOW = 8
"""Items that an ordered run may start beyond its first unfinished one, in multiples of the items
in flight."""

_NAMED = 5
"""Failed items that a message names."""

_log = logger_of("penstock.runner")


class WorkerTracebackError(Exception):
    """The traceback in a worker, as the cause of the error that is raised in the driver."""

    def __init__(self, text: str) -> None:
        super().__init__(f"\n{text}")


class Schedule:
    """The states of a run's items: waiting, in flight, succeeded, failed.

    Args:
        items: All items.
        ordered: The caller needs all results, in the items' order: the first failure ends the run,
            and no item starts far ahead of the first unfinished one.
        isolate: An item whose worker was lost is run again while no other item runs.
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
        """True if no item is left and none is in flight."""
        return not self._in_flight and not self.left

    def take(self, window: int) -> int | None:
        """Take the next item to send, or None if none may start now.

        Args:
            window: Items that an ordered run may start beyond the first unfinished one.
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

    def mark_succeeded(self, index: int) -> None:
        self._mark_finished(index)
        self._succeeded += 1

    def mark_failed(self, index: int, error: Exception, slots: int) -> None:
        """Mark an item as failed, not to be run again.

        Raises:
            Exception: The error, where the run ends with the first one.
        """
        self._mark_finished(index)
        if self._ordered:
            raise error
        self._failed.append(index)
        if len(self._failed) > 1 or not self.over:  # else it is about to be raised
            name = label(self._items[index])
            _log.warning("%s", error if name in str(error) else f"{name} failed: {error}")
        if self._first is None or index < self._first[0]:
            self._first = (index, error)
        self._halted = not self._succeeded and len(self._failed) >= max(4, 2 * slots)

    def requeue_lost(self, event: WorkerLost, slots: int) -> None:
        """Requeue the items of a lost worker, or fail the one that has crashed too many."""
        _log.warning("a worker %s; its items will run again", event.reason)
        for index in event.queued:
            self._requeue(index)
        if event.at is None:
            return
        key = (event.at, event.blamed)
        times = self._losses[key] = self._losses.get(key, 0) + 1
        if times < (_ATTEMPTS if event.blamed else _LOSSES):
            self._requeue(event.at, suspect=event.blamed and self._isolate)
        else:
            self.mark_failed(event.at, self._worker_error(event.at, event, times), slots)

    def raise_failure(self) -> None:
        """Raise the error of the first item that failed, if one did.

        Raises:
            Exception: The error; it names the other failed items if it is a PenstockError.
        """
        if self._first is not None:
            raise self._summary(*self._first)

    def _requeue(self, index: int, suspect: bool = False) -> None:
        self._in_flight.discard(index)
        if index == self._alone:
            self._alone = None
        heapq.heappush(self._suspects if suspect else self._again, index)

    def _mark_finished(self, index: int) -> None:
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
            cause, fix = f", most likely out of memory{held}", MORE_MEMORY
        elif not event.blamed:
            cause, fix = "", "run again to go on when the machines are there"
        elif event.memory is None:
            cause, fix = f", by a crash or for lack of memory{held}", MORE_MEMORY
        else:  # memory was there
            cause, fix = f", by a crash{held}", "see stderr for the reason; or its code ended it"
        key, documents = event.call or (None, None)
        return WorkerError(
            f"{label(self._items[index])}: its worker {event.reason}, {times} times{cause}",
            key=key,
            file=documents,
            fix=fix,
        )

    def _summary(self, index: int, error: Exception) -> Exception:
        others = [label(self._items[i]) for i in sorted(self._failed) if i != index]
        if not others:
            return error
        names = ", ".join(others[: _NAMED - 1])
        more = f" and {len(others) - _NAMED + 1} more" if len(others) >= _NAMED else ""
        text = f"{len(others)} of {len(self._items) - 1} others failed too: {names}{more}"
        if self._halted:
            text += "; none had succeeded, so the rest was not started"
        if isinstance(error, PenstockError):
            summary = copy.copy(error)
            summary.fix = "; ".join(part for part in (error.fix, text) if part)
            summary.__cause__ = error.__cause__
            return summary
        if sys.version_info >= (3, 11):
            error.add_note(text)
        return error


def _pass_of(function: Any) -> str:
    """Return the name of a pass, ``score unit`` for ``_score_unit``; empty where it has none."""
    return str(getattr(function, "__name__", "")).strip("_<>").replace("_", " ")


def drain(
    pool: WorkerPool,
    items: Sequence[Any],
    usage: Usage,
    ordered: bool = False,
    isolate: bool = False,
    function: Any = None,
) -> Iterator[tuple[int, Any]]:
    """Run items in a pool and yield ``(index, result)`` as they complete; see :class:`Schedule`.

    Progress lines name the pass by the name of ``function``, which the pool calls.

    Raises:
        Exception: At the end, the error of the first item that failed; at once, an error in
            reading the state.
    """
    schedule = Schedule(items, ordered, isolate)
    began = time.perf_counter()
    work = contextlib.ExitStack()
    own = work.enter_context(step("", items, _pass_of(function)))
    try:
        while not schedule.over:
            while schedule.left and pool.room(schedule.left):
                index = schedule.take(_WINDOW * pool.slots * pool.in_flight)
                if index is None:
                    break
                pool.give(index, items[index])
            event = pool.next()
            if isinstance(event, WorkerLost):
                usage.lost_workers += 1
                usage.peak_worker_bytes = max(usage.peak_worker_bytes, event.peak_bytes)
                schedule.requeue_lost(event, pool.slots)
            elif event is not None:
                usage.add(event.outcome)
                error = event.outcome.error
                if error is not None and event.outcome.trace:
                    error.__cause__ = WorkerTracebackError(event.outcome.trace)
                if error is not None and event.outcome.fatal:
                    raise error
                if event.index is None:
                    continue
                usage.items += 1
                if error is not None:
                    schedule.mark_failed(event.index, error, pool.slots)
                else:
                    schedule.mark_succeeded(event.index)
                    own.done += 1
                    yield event.index, event.outcome.result
        schedule.raise_failure()
    finally:
        work.close()
        usage.wall_seconds += time.perf_counter() - began
        pool.stop()
