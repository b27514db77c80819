"""Suspend a driver of ``penstock curate`` at a planned call while another takes its work over.

Both drivers run in forks, as on two machines with leases of a second, so that neither sees whether
the other's process lives.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from tests.harness import curation
from tests.harness.campaign import Call, Inside
from tests.harness.commands import Done
from tests.harness.forks import ForkServer
from tests.harness.points import DIRECTORY, Plan

RENEWAL, EXPIRY, PATIENCE = 0.1, 0.5, 0.5
"""Seconds, as :mod:`penstock.lease` and :mod:`penstock.storage.locks` have them."""


def prepare() -> None:
    """Import what a run needs."""
    curation.prepare()


def run(order: dict[str, Any], rank: int) -> int:
    """Be a driver; return its exit status."""
    from penstock import lease
    from penstock.storage import locks

    lease._machine = lambda: str(order["machine"])
    lease.Lease.__init__.__defaults__ = (RENEWAL, EXPIRY, "work")  # type: ignore[misc]
    locks.PATIENCE = PATIENCE
    return curation.run(order, rank)


class Driver:
    """Runs of ``penstock curate`` on one machine, one after another."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "tmp").mkdir()
        self._directory = directory
        self._plan = Plan(directory / "plan")
        self._forks = ForkServer("tests.harness.pauses", directory)
        self._pid = 0

    def start(
        self, recipe: Path, settings: Sequence[str] = (), pause: Inside | None = None, **more: Any
    ) -> None:
        """Start a run, which suspends itself at a call."""
        planned = [(asdict(pause.call), pause.nth)] if pause else []
        work = str(recipe.parent / "work")
        self._plan.write(planned, census=more.get("census", False), pause=True, work=work)
        overrides = [argument for setting in settings for argument in ("--set", setting)]
        arguments = ["curate", str(recipe), "--json", "--runner", "local", "--workers", "1"]
        environment = {
            DIRECTORY: str(self._plan.directory),
            "TMPDIR": str(self._directory / "tmp"),
        }
        order = {
            "arguments": [*arguments, *overrides],
            "environment": environment,
            "machine": self._directory.name,
        }
        [self._pid] = self._forks.fork(order)

    def suspended(self) -> bool:
        """Wait until the run is suspended, or has ended; return whether it is suspended."""
        process = psutil.Process(self._pid)
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
            time.sleep(0.01)
        return process.status() == psutil.STATUS_STOPPED

    def proceed(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def wait(self) -> Done:
        [status] = self._forks.wait([self._pid])
        return Done(status, self._forks.output("out"), self._forks.output("err"))

    def census(self) -> Counter[Call]:
        """Return the calls that the last run made, if it was run with a census."""
        return Counter(Call(**point) for point in self._plan.census)

    def close(self) -> None:
        self._forks.close()
