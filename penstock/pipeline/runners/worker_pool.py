"""What lies between workers, wherever they are, and the schedule of a run: items and answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from penstock.pipeline.runners.attempt import Answer

__all__ = ["Completed", "Usage", "WorkerLost", "WorkerPool"]


@dataclass(frozen=True, slots=True)
class Completed:
    """An item was tried to its end; without an index, a worker just got ready."""

    index: int | None
    answer: Answer


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker is gone, and with it what it had been given."""

    reason: str
    """After "its worker": ``was killed by SIGKILL``."""

    at: int | None = None
    """The item that it was at."""

    queued: tuple[int, ...] = ()
    """Items that it had been given and had not begun."""

    blamed: bool = True
    """Whether the item it was at may be the cause; not where the whole machine went."""

    memory: bool | None = False
    """Whether memory is the likeliest cause; None where nobody can tell."""

    peak_bytes: int = 0
    """The most it had held, where that is known."""


@dataclass(slots=True)
class Usage:
    """What a runner's work has cost since it was made."""

    busy_seconds: float = 0.0
    """Spent in functions and in making their state, summed over workers."""

    wall_seconds: float = 0.0
    """From the first result asked for to the end of each run, so with what the caller does between
    results: 1 - busy / (slots x wall) is what scheduling and manifests cost."""

    items: int = 0
    peak_worker_bytes: int = 0
    """Resident, of the largest process that did items, shared pages included."""

    retries: int = 0
    """Further tries after errors that pass."""

    lost_workers: int = 0

    def add(self, answer: Answer) -> None:
        """Count an answer."""
        self.busy_seconds += answer.seconds
        self.retries += answer.retries
        self.peak_worker_bytes = max(self.peak_worker_bytes, answer.peak_bytes)


class WorkerPool(Protocol):
    """Carries items to workers, and answers back."""

    in_flight: int
    """Items for each slot that may be handed over."""

    @property
    def slots(self) -> int:
        """Items that can be worked on at once, as of now."""
        ...

    def room(self, left: int) -> bool:
        """Whether another item should be given, where ``left`` are not handed out."""
        ...

    def give(self, index: int, item: Any) -> None:
        """Hand an item over; after :meth:`room` said yes."""
        ...

    def next(self) -> Completed | WorkerLost | None:
        """What happened; None if that was nothing for about a second."""
        ...

    def stop(self) -> None:
        """End what is under way, at once, and wait until nothing can write any more."""
        ...
