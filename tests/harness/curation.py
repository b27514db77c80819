"""Run ``penstock curate`` in forks of one process, and kill it: at a planned call, or any time."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.harness import ROOT
from tests.harness.campaign import ALONE, RAY, Call, Inside, Outside, Way
from tests.harness.commands import Done
from tests.harness.forks import ForkServer
from tests.harness.points import DIRECTORY, Plan

UNIT_BYTES = 5_000

_ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""All of Ray's servers listen on loopback; without it a driver asks at the machine's address."""

SITE = Path(__file__).resolve().parent / "site"


def prepare() -> None:
    """Import what a run needs, which takes longer than the run, and compile."""
    import pandas  # noqa: F401
    import pyarrow as pa
    import pyarrow.dataset
    import rich.progress  # noqa: F401
    import zstandard  # noqa: F401

    from penstock.hashing import hash_ids
    from penstock.jobs import curate  # noqa: F401
    from tests.harness import curation_points, small  # noqa: F401

    hash_ids(pa.array(["compiled code is loaded by its first call"]), 0)


def run(order: dict[str, Any], rank: int) -> int:
    """Be the driver of one run; return its exit status."""
    from tests.harness import curation_points, small

    os.environ.update(order["environment"])
    os.environ[curation_points.DRIVER] = str(os.getpid())
    curation_points.watch()
    try:
        small.main(order["arguments"], UNIT_BYTES)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    return 0


@dataclass(frozen=True, kw_only=True)
class Ended(Done):
    """Result of a run."""

    struck: list[dict[str, Any]]
    """Kills that were carried out."""
    lingering: int
    """Its processes that were still there five seconds after the driver."""


class Curations:
    """Start runs of ``penstock curate``, one after another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._plan = Plan(directory / "kills")
        self._forks = ForkServer("tests.harness.curation", directory, [SITE])
        self._ray = 0
        self._address = ""

    def run(
        self,
        recipe: Path,
        way: Way = ALONE,
        kills: Sequence[Inside] | Outside = (),
        *settings: str,
        census: bool = False,
        usual: float = 10.0,
        timeout: float = 120.0,
    ) -> Ended:
        """Run until it ends or is killed.

        Args:
            recipe: In its own directory.
            way: The runner.
            kills: At calls, or from outside.
            settings: Keys of the recipe to override, as ``key=value``.
            census: Record every call at which a process could be killed.
            usual: Seconds that an undisturbed run takes, for kills from outside.
            timeout: Seconds after which the run counts as hung.
        """
        outside = isinstance(kills, Outside)
        planned = [] if outside else [(asdict(kill.call), kill.nth) for kill in kills]
        self._plan.write(planned, census=census, work=str(recipe.parent / "work"))
        scratch = self._directory / "tmp"
        scratch.mkdir(exist_ok=True)
        overrides = [argument for setting in settings for argument in ("--set", setting)]
        environment = {
            DIRECTORY: str(self._plan.directory),
            "TMPDIR": str(scratch),
            "RAY_AUTH_MODE": "disabled",
        }
        if way == RAY:
            environment["RAY_ADDRESS"] = self._ray_address()
            environment |= _ON_LOOPBACK
        arguments = ["curate", str(recipe), "--json", *way.arguments, *overrides]
        [pid] = self._forks.fork({"arguments": arguments, "environment": environment})
        struck = _strike(pid, kills, usual) if isinstance(kills, Outside) else []
        with _limit(pid, timeout):
            [status] = self._forks.wait([pid])
        lingering = _outlived(pid)
        return Ended(
            status=status,
            stdout=self._forks.output("out"),
            stderr=self._forks.output("err"),
            struck=struck or self._plan.struck,
            lingering=lingering,
        )

    def census(self) -> Counter[Call]:
        """Return the calls that the last run made, if it was run with a census."""
        return Counter(Call(**point) for point in self._plan.census)

    def close(self) -> None:
        """End all processes, Ray's among them."""
        self._forks.close()
        for process in _session(self._ray) if self._ray else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _ray_address(self) -> str:
        """Return the address of a Ray whose workers have points; start it the first time."""
        if not self._address:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            ray = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
            options = ["--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
            options += ["--include-dashboard=false", "--disable-usage-stats"]
            options += [f"--object-store-memory={80 * 2**20}"]
            start = subprocess.Popen(
                [sys.executable, "-c", ray, "start", *options],
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{SITE}{os.pathsep}{ROOT}",
                    DIRECTORY: str(self._plan.directory),
                    "RAY_AUTH_MODE": "disabled",
                    **_ON_LOOPBACK,
                },
            )
            self._ray = start.pid  # the session in which Ray remains when its starter has ended
            assert start.wait(60) == 0, "Ray did not start"
            self._address = f"127.0.0.1:{port}"
        return self._address


def _strike(pid: int, kill: Outside, usual: float) -> list[dict[str, Any]]:
    """Wait for the moment, then kill; where there is no worker yet, wait for one."""
    driver = psutil.Process(pid)
    time.sleep(kill.share * usual)
    deadline = time.monotonic() + usual
    while time.monotonic() < deadline:
        try:
            found = [driver] if kill.role == "driver" else _workers(driver)
            if found:
                process = found[kill.pick % len(found)]
                if driver.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    return [{"role": kill.role, "stage": "any", "what": "any", "kind": "outside"}]
        except psutil.NoSuchProcess:
            pass
        if not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE:
            return []
        time.sleep(0.01)
    return []


def _workers(driver: psutil.Process) -> list[psutil.Process]:
    """Return the processes of the pool, without Python's resource tracker."""
    return [
        child
        for child in driver.children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    ]


@contextmanager
def _limit(pid: int, seconds: float) -> Iterator[None]:
    """Kill a run that does not end, and fail."""
    hung = threading.Event()

    def end() -> None:
        hung.set()
        os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not hung.is_set(), f"the run did not end in {seconds:.0f} s"


def _outlived(pid: int) -> int:
    """Return how many processes of a run exist five seconds after its driver; kill them."""
    deadline = time.monotonic() + 5
    while (left := _session(pid)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in left:
        process.kill()
    return len(left)


def _session(pid: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            pass
    return found
