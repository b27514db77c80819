"""Runs of ``penstock curate`` that may be struck, one after another from a warm process."""

from __future__ import annotations

import json
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.faults.kills import ALONE, RAY, AnyPath, Inside, Outside, Way
from tests.faults.kills_project import UNIT_BYTES

HERE = Path(__file__).resolve().parent


@dataclass(slots=True, kw_only=True)
class Ended:
    """What a run came to."""

    status: int
    """Negative: the signal that ended it."""
    out: str
    err: str
    struck: list[dict[str, Any]] = field(default_factory=list)
    """Kills that were carried out."""
    lingering: int = 0
    """Processes of it that were still there five seconds after the driver."""

    @property
    def summary(self) -> dict[str, Any]:
        """The JSON of a run that came to its end."""
        assert self.status == 0, f"status {self.status}: {self.err[-3000:]}"
        return dict(json.loads(self.out.splitlines()[-1]))


class Warm:
    """Runs ``penstock curate`` in forks of a process that has imported it already."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        places = [str(HERE / "site"), str(HERE.parents[1])]
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "kills_warm.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(places),
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
        )
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
        """Run to the end, or to the kill.

        Args:
            recipe: In its own directory.
            way: With what runner.
            kills: What befalls it.
            settings: Keys of the recipe to override, as ``key=value``.
            census: Whether to write down every call at which it might have died.
            usual: Seconds that an undisturbed run takes, for kills from outside.
            timeout: Seconds after which it counts as hung.
        """
        files = self._directory / "kills"
        files.mkdir(exist_ok=True)
        for file in files.iterdir():
            file.unlink()
        inside = [] if isinstance(kills, Outside) else kills
        plan = {
            "work": str(recipe.parent / "work"),
            "census": census,
            "kills": [{**asdict(kill.place), "nth": kill.nth} for kill in inside],
        }
        (files / "plan.json").write_text(json.dumps(plan))
        out, err = files / "out", files / "err"
        scratch = self._directory / "tmp"
        scratch.mkdir(exist_ok=True)
        overrides = [argument for setting in settings for argument in ("--set", setting)]
        reaching = {"RAY_AUTH_MODE": "disabled"}
        if way == RAY:
            reaching["RAY_ADDRESS"] = self._ray_address()
        pid = self._ask(
            {
                "run": ["curate", str(recipe), "--json", *way.arguments, *overrides],
                "out": str(out),
                "err": str(err),
                "unit_bytes": UNIT_BYTES,
                "environment": {
                    "PENSTOCK_KILLS": str(files),
                    "TMPDIR": str(scratch),
                    **reaching,
                },
            }
        )
        struck = _strike(pid, kills, usual) if isinstance(kills, Outside) else []
        with _limit(pid, timeout):
            status = self._ask({"wait": pid})
        lingering = _outlived(pid)
        if (files / "struck").exists():
            struck = [json.loads(line) for line in (files / "struck").read_text().splitlines()]
        return Ended(
            status=status,
            out=out.read_text(),
            err=err.read_text(),
            struck=struck,
            lingering=lingering,
        )

    def census(self) -> Counter[AnyPath]:
        """What the last run, asked for it, wrote down."""
        lines = (self._directory / "kills" / "census").read_text().splitlines()
        return Counter(AnyPath(**json.loads(line)) for line in lines)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        for process in _session(self._ray) if self._ray else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _ray_address(self) -> str:
        """Of a Ray whose workers can be struck as well; started where it is first asked for."""
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
                    "PYTHONPATH": os.pathsep.join([str(HERE / "site"), str(HERE.parents[1])]),
                    "PENSTOCK_KILLS": str(self._directory / "kills"),
                    "RAY_AUTH_MODE": "disabled",
                },
            )
            self._ray = start.pid  # of the session in which Ray stays when its starter is done
            assert start.wait(60) == 0, "Ray did not start"
            self._address = f"127.0.0.1:{port}"
        return self._address

    def _ask(self, order: dict[str, Any]) -> int:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def _strike(pid: int, kill: Outside, usual: float) -> list[dict[str, Any]]:
    """Wait for the moment, then kill; where no worker is there yet, wait for one."""
    driver = psutil.Process(pid)
    time.sleep(kill.share * usual)
    deadline = time.monotonic() + usual
    while time.monotonic() < deadline:
        try:
            found = [driver] if kill.role == "driver" else _workers(driver)
            if found:
                victim = found[kill.pick % len(found)]
                if driver.status() != psutil.STATUS_ZOMBIE:
                    victim.kill()
                    return [{"role": kill.role, "stage": "any", "what": "any", "kind": "outside"}]
        except psutil.NoSuchProcess:
            pass
        if not driver.is_running() or driver.status() == psutil.STATUS_ZOMBIE:
            return []
        time.sleep(0.01)
    return []


def _workers(driver: psutil.Process) -> list[psutil.Process]:
    """Processes of the pool, without those that keep its accounts."""
    return [
        child
        for child in driver.children(recursive=True)
        if "resource_tracker" not in " ".join(child.cmdline())
    ]


@contextmanager
def _limit(pid: int, seconds: float) -> Iterator[None]:
    """SIGKILL, and a failure, for a run that does not end."""
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
    """How many processes of a run are there five seconds after its driver; they end here."""
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
