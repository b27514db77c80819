"""The interface between the schedule of a run and the workers that carry out its items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from penstock.pipeline.runners.attempt import AttemptResult

__all__ = ["Completed", "Usage", "WorkerLost", "WorkerPool"]


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
        """Count an outcome."""
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
        ...

    def room(self, left: int) -> bool:
        """Return whether to send another item now, with ``left`` items not yet sent."""
        ...

    def give(self, index: int, item: Any) -> None:
        """Send an item; call it only after :meth:`room` returned True."""
        ...

    def next(self) -> Completed | WorkerLost | None:
        """Wait for the next event; None if there was none for about a second."""
        ...

    def stop(self) -> None:
        """Stop the running items at once, and wait until none of them can write any more."""
        ...
