"""Start a session again after a failure that may not come back: ``train.max_failures``.

A worker that was killed, a node that was lost and a broken connection are of that kind: the next
session resumes from the newest checkpoint, as the same command run again does. An error of the
recipe, of a file or of a checkpoint, and a step that is not finite, come back, and are raised at
once. Ray Train can start workers again itself (``FailureConfig``), but after every error, without a
pause, and only on a cluster; so its own is left off, and both kinds of session are restarted here.

Pauses double, so that a node that reboots or a job that eats all memory has time to go.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence

from penstock.artefact import Workspace
from penstock.errors import NotFiniteError, PenstockError, TrainingError
from penstock.trainers.metrics import add_note
from penstock.trainers.spec import RunSpec

__all__ = ["FailedSession", "make_lane", "may_pass", "pause_before"]

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
"""Seconds before the first restart, and the most before any."""

MOST = 200
"""Characters of an error in a note: Ray's on a lost worker has 700."""


class FailedSession(Exception):
    """The end of a session that failed.

    Attributes:
        error: What the caller of the session is to raise.
        causes: The failures of its workers, at least one.
    """

    def __init__(self, error: Exception, causes: Sequence[Exception]) -> None:
        super().__init__(str(error))
        self.error = error
        self.causes = list(causes)


def make_lane(
    session: Callable[[], None],
    lane: Sequence[RunSpec],
    workspace: Workspace,
    stopped: threading.Event,
) -> None:
    """Call a session until the runs of its lane are made, at most ``max_failures`` times more.

    Failures are counted for each run. Each restart is a note of the run that had begun.

    Args:
        session: Makes the runs that are not finished yet.
        lane: Its runs, in order.
        workspace: Where they are made.
        stopped: Set once the command ends, after which nothing is started.

    Raises:
        Exception: The error of the last session.
    """
    failures: Counter[str] = Counter()
    while True:
        try:
            return session()
        except FailedSession as failed:
            run = next((spec for spec in lane if spec.run(workspace) is None), lane[-1])
            failures[run.fingerprint] += 1
            number, most = failures[run.fingerprint], run.train.max_failures
            lasting = not all(map(may_pass, failed.causes))
            if lasting or number > most or stopped.is_set():
                raise failed.error from failed.error.__cause__
            error = failed.error
        pause = pause_before(number)
        what = error.problem if isinstance(error, PenstockError) else str(error)
        what = what if len(what) <= MOST else f"{what[:MOST]}…"
        directory = run.draft(workspace).staging()
        directory.mkdir(parents=True, exist_ok=True)
        line = f"{what}; starting again in {pause:g} s, restart {number} of at most {most}"
        add_note(directory, line, restart=number)
        if stopped.wait(pause):
            raise error


def may_pass(error: Exception) -> bool:
    """Return whether a session that failed in this way may succeed when it is started again.

    An error of ours that names a key or a file needs a change of that.
    """
    if not isinstance(error, PenstockError):
        return True
    ours = isinstance(error, TrainingError) and not isinstance(error, NotFiniteError)
    return ours and error.key is None and error.file is None


def pause_before(restart: int) -> float:
    """Return the seconds before a restart, the first of which is number 1: 2, 4, 8, … 60."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(restart - 1, 10)))
