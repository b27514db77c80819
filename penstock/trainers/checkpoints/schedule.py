"""When a checkpoint is due, such that every worker comes to the same answer.

Tokens are the same everywhere, clocks are not: rank 0's counts, and the others have to be told.
Telling costs a collective, so with the answer goes the number of steps until the question is worth
asking again, half of those that fit into what is left of the time. A run of a minute asks about
once, one of an hour ten times between two checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from penstock.recipe import Checkpoint
from penstock.trainers.group import Group

__all__ = ["CheckpointSchedule"]


class CheckpointSchedule:
    """Asked after every step whether to save now.

    Args:
        settings: The recipe's ``train.checkpoint``; None for never.
        group: The workers.
        clock: Seconds; only rank 0's counts.
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
        """Whether a checkpoint is due after a step.

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
        """A checkpoint was written; from here on the next one is waited for."""
        self._since = self._clock()
        self._steps = 0
        self._wait = 1

    def _steps_left(self, seconds: float) -> int:
        """Steps until the question is worth asking again; 0 if it is due now."""
        gone = self._clock() - self._since
        if gone >= seconds:
            return 0
        return max(1, int((seconds - gone) / (gone / self._steps) / 2)) if gone else 1
