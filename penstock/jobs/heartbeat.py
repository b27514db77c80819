"""A line where a command was silent for three seconds: the step, its counts, and the time left.

A thread of the command's process looks at the clock. It needs the interpreter's lock for some
microseconds four times a second; compiled kernels, PyTorch, faiss and tokenizers release it while
they work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from penstock.activity import Step, compiling, current_steps

__all__ = ["Heartbeat", "describe_steps"]

SILENCE_SECONDS = 3.0
"""Less than the five after which a command looks dead, by two for a busy machine."""

_TICK_SECONDS = 0.25

_COMPILING = "; compiling loops"
_EXPLAINED = ", once for each stage on a machine: up to two minutes in all if it is busy"


class Heartbeat:
    """Calls a function with a line whenever nothing was printed for three seconds.

    Args:
        progress: Called with the line, in a thread of its own.
        steps: Returns the steps under way.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        progress: Callable[[str], None],
        steps: Callable[[], Sequence[Step]] = current_steps,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._progress = progress
        self._steps = steps
        self._clock = clock
        self._heard = clock()
        self._ended = threading.Event()
        self._paused = False
        self._explained = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def heard(self) -> None:
        """Note that a line was printed, or a bar moved."""
        self._heard = self._clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Print no line inside; the silence counts from its end."""
        self._paused = True
        try:
            yield
        finally:
            self.heard()
            self._paused = False

    def close(self) -> None:
        """End the thread, and wait for its last line."""
        self._ended.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def beat(self) -> None:
        """Print a line if none was printed for three seconds and a step is under way."""
        now = self._clock()
        if self._paused or now - self._heard < SILENCE_SECONDS:
            return
        if steps := self._steps():
            self.heard()
            self._progress(describe_steps(steps, now) + self._compiling())

    def _compiling(self) -> str:
        """Return the words of a compilation: explained once, so that later lines are short."""
        if not compiling():
            return ""
        explained, self._explained = self._explained, True
        return _COMPILING if explained else f"{_COMPILING}{_EXPLAINED}"

    def _run(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self.beat()


def describe_steps(steps: Sequence[Step], now: float) -> str:
    """Describe the steps under way in one line.

    Args:
        steps: The outermost first, at least one.
        now: Monotonic seconds.
    """
    names = [own.name for own in steps if own.name]
    text = ", ".join(dict.fromkeys(names)) or "working"
    work = next((own for own in reversed(steps) if own.items), None)
    seconds = steps[-1].seconds(now)
    if work is None:
        return f"{text}: for {seconds:.0f} s"
    text += f" ({work.passing})" if work.passing else ""
    parts = [f"for {seconds:.0f} s"]
    spent = work.counting_seconds(now)
    counts = work.counts
    if counts.documents and spent:
        of = f" of {work.documents:,}" if work.documents >= counts.documents else ""
        parts = [f"{counts.documents:,}{of} documents", f"{counts.documents / spent:,.0f}/s"]
        if counts.bytes:
            parts.append(f"{counts.bytes / spent / 1e6:,.1f} MB/s")
    elif work.documents:
        parts.append(f"0 of {work.documents:,} documents")
    if work.items > 1:
        parts.append(f"{work.done:,} of {work.items:,} parts")
    left = work.seconds_left(now)
    if left is not None and left >= 1:
        parts.append(f"about {timedelta(seconds=round(left))} left")
    return f"{text}: {', '.join(parts)}"
