"""The steps after which a checkpoint is saved, equal on every worker.

Tokens are the same on all workers, clocks are not: rank 0's counts, and is broadcast. A broadcast
is a collective, so it carries the number of steps until the next one, half of those that fit into
the rest of the interval. A run of a minute broadcasts about once, one of an hour ten times between
two checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.recipe import Checkpoint
from penstock.trainers.group import Group

__all__ = ["CheckpointSchedule"]


class CheckpointSchedule:
    """Decide after every step whether to save.

    Args:
        settings: The recipe's ``train.checkpoint``; None for never.
        group: The workers.
        clock: Returns seconds; only rank 0's counts.
    """

    def __init__(
        self,
        settings: Checkpoint | None,
        group: Group,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens = settings.tokens if settings else None
        minutes = settings.minutes if settings else None
        self._seconds = None if minutes is None else 60 * minutes
        self._group = group
        self._clock = clock
        self._since = clock()
        self._steps = 0
        self._wait = 1

    def due(self, before: int, after: int) -> bool:
        """Return whether a checkpoint is due after a step.

        Args:
            before: Tokens trained on before it.
            after: Tokens trained on with it.
        """
        if self._tokens is not None and before // self._tokens < after // self._tokens:
            return True
        if self._seconds is None:
            return False
        self._steps += 1
        self._wait -= 1
        if self._wait:
            return False
        self._wait = self._group.broadcast(self._steps_left(self._seconds))
        return self._wait == 0

    def saved(self) -> None:
        """Begin the next interval, after a checkpoint was written or loaded."""
        self._since = self._clock()
        self._steps = 0
        self._wait = 1

    def _steps_left(self, seconds: float) -> int:
        """Return the steps until the next broadcast; 0 if a checkpoint is due now."""
        gone = self._clock() - self._since
        if gone >= seconds:
            return 0
        return max(1, int((seconds - gone) / (gone / self._steps) / 2)) if gone else 1
