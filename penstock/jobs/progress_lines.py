"""Lines of progress on stderr: events, and a heartbeat where there are none.

On a terminal the lines of a heartbeat replace one another, and the next event replaces them: a long
step has one line. Elsewhere, as in a log, each is a line.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from penstock.activity import step
from penstock.cluster import DEBUG
from penstock.jobs.heartbeat import Heartbeat
from penstock.jobs.terminal import LineConsole

__all__ = ["ProgressLines"]


class ProgressLines:
    """Prints events with the seconds since the start, and a heartbeat while they fail to come.

    Args:
        console: The console of stderr.
    """

    def __init__(self, console: LineConsole) -> None:
        self._console = console
        self._start = time.monotonic()
        self._heart: Heartbeat | None = None
        self._has_bars = False
        self._lock = threading.Lock()
        # Of the console: the heartbeat is a thread.

    @contextmanager
    def working(self, name: str) -> Iterator[None]:
        """Print a line where the work inside is silent for three seconds (:class:`Heartbeat`).

        A debugger ends that: its prompt is left alone.

        Args:
            name: The command, which begins each line.
        """
        heart = self._heart = Heartbeat(self._beat)
        hook = sys.breakpointhook

        def stop_and_debug(*args: Any, **options: Any) -> Any:
            heart.close()
            self.end_status()
            if hook is sys.__breakpointhook__ and not os.environ.get("PYTHONBREAKPOINT"):
                import pdb  # of use here alone

                # As the hook does, but where `breakpoint()` is, and not here.
                return pdb.Pdb().set_trace(sys._getframe(1))
            return hook(*args, **options)

        sys.breakpointhook = stop_and_debug
        heart.start()
        try:
            with step(name):
                yield
        finally:
            sys.breakpointhook = hook
            heart.close()
            self.end_status()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Print no line of :meth:`working` inside, while a question waits for its answer."""
        if self._heart is None:
            yield
            return
        with self._heart.paused():
            self.end_status()
            yield

    @contextmanager
    def beside_bars(self) -> Iterator[None]:
        """Print each heartbeat as a line of its own inside: bars are rewritten below it."""
        self.end_status()
        self._has_bars = True
        try:
            yield
        finally:
            self._has_bars = False

    def heard(self) -> None:
        """Note that a bar moved."""
        if self._heart is not None:
            self._heart.heard()

    def write(self, line: str) -> None:
        """Print an event."""
        self.heard()
        with self._lock:
            self._console.end_status()
            self._console.write_line(self._timed(line))

    def end_status(self) -> None:
        """Erase the line of a heartbeat, before anything else is printed on the terminal."""
        with self._lock:
            self._console.end_status()

    def _beat(self, line: str) -> None:
        """Show a heartbeat; under ``--debug``, where libraries print, as a line of its own."""
        if self._has_bars or os.environ.get(DEBUG) or not self._console.keeps_status:
            self.write(line)
            return
        with self._lock:
            self._console.write_status(self._timed(line))

    def _timed(self, line: str) -> str:
        return f"[{time.monotonic() - self._start:7.1f} s] {line}"
