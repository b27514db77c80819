"""Commands in processes of their own, with what they print in files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Done:
    """The exit status and the output of a command that has ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> dict[str, Any]:
        assert self.status == 0, self.stderr
        (line,) = self.stdout.splitlines()  # libraries print nothing there
        value: dict[str, Any] = json.loads(line)
        return value

    @property
    def digest(self) -> str:
        return str(self.summary["digest"])


class Running:
    """A command under way, in a session of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._files = [log.with_suffix(".out"), log.with_suffix(".err")]
        with open(self._files[0], "wb") as out, open(self._files[1], "wb") as err:
            self.process = subprocess.Popen(
                command, env=dict(environment), stdout=out, stderr=err, start_new_session=True
            )

    @property
    def stderr(self) -> str:
        """Text written to stderr so far."""
        return self._files[1].read_text()

    def wait(self, seconds: float = 240) -> Done:
        status = self.process.wait(seconds)
        return Done(status, self._files[0].read_text(), self.stderr)

    def until(self, happened: Callable[[], Any], seconds: float = 180) -> Any:
        """Wait for a true value of ``happened()`` while the command runs; return it."""
        end = time.monotonic() + seconds
        while not (value := happened()):
            assert self.process.poll() is None, f"the command ended first: {self.stderr}"
            assert time.monotonic() < end, f"it did not happen in {seconds} s: {self.stderr}"
            time.sleep(0.003)
        return value

    def kill(self) -> None:
        """Send SIGKILL to the driver alone, not to its workers."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def sweep(self) -> None:
        """Send SIGKILL to the command and all its children."""
        alive = [self.process.pid]
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            alive += [child.pid for child in children]
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def running(started: Running) -> Iterator[Running]:
    """End a command, with all its children, when the block ends."""
    try:
        yield started
    finally:
        started.sweep()
