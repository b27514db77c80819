"""A worker process: one pipe to the driver, one item at a time, and an end when the driver ends.

Each worker has a pipe of its own, so the driver knows which item one was at when it died, and the
others go on. A shared queue cannot tell: with the pool we had before, a killed worker took the
whole pool down, or hung it where it died with the queue's lock in its hand. Handing an empty item
over takes 0.09 ms, where it took 0.2.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import os
import pickle
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

from penstock.pipeline.runners.attempt import Answer, attempt, portable
from penstock.pipeline.runners.shared_state import SharedState

__all__ = ["Ending", "Worker", "serve"]

_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One thread a worker: slots already fill the cores, and sums never depend on the thread count."""

# The path comes first: a module of the working directory may bear a name of the standard library's.
_BOOT = """\
import sys
sys.path[:] = sys.argv[2:]
from penstock.pipeline.runners.worker import serve
serve(int(sys.argv[1]))
"""

_PR_SET_PDEATHSIG = 1


# -- in the driver ----------------------------------------------------------------------------


class Ending:
    """How a worker process ended.

    Attributes:
        reason: After "its worker": ``was killed by SIGKILL``.
        by: The signal that killed it, if one did.
        peak_bytes: The most memory it had held, or 0 where that is not known.
    """

    def __init__(self, code: int | None, peak_bytes: int) -> None:
        self.by = signal.Signals(-code) if code is not None and code < 0 else None
        self.reason = f"was killed by {self.by.name}" if self.by else f"exited with status {code}"
        self.peak_bytes = peak_bytes


class Worker:
    """A worker process, seen from the driver."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        # A process starts with the peak of the one that forked it: below this we know nothing.
        self._floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        path = [place for place in sys.path if isinstance(place, str)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), *path],
            env={**os.environ, **_SINGLE_THREADED},
            stdin=subprocess.DEVNULL,
            stdout=2,  # what a scorer prints is no part of a command's answer
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.given: collections.deque[int] = collections.deque()
        """The items it has, in the order of being given; it is at the first."""
        self.ready = False
        """Whether it has come up."""
        self._ending: Ending | None = None

    def give(self, index: int, item: Any, parcel: Path) -> None:
        """Send an item. A worker that is dead does not say so here, but to :meth:`receive`."""
        message = cloudpickle.dumps((str(parcel), item), protocol=5)
        self.given.append(index)
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message)

    def receive(self) -> Answer | None:
        """The next message: an answer to the first item given, or None, said once when it is up.

        Raises:
            EOFError: It is dead, and everything it had said was heard.
        """
        try:
            message = self.connection.recv_bytes()
        except OSError:  # killed in the middle of a message
            raise EOFError from None
        self.ready = True
        if not message:
            return None
        self.given.popleft()
        return pickle.loads(message)  # noqa: S301  our worker made it

    @property
    def dead(self) -> bool:
        """Whether the process has ended, though a process of its own may hold its pipe open."""
        self._reap(os.WNOHANG)
        return self._ending is not None

    def end(self, wait: float = 0.0) -> Ending:
        """Wait for its end, and kill it if that does not come within ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while not self.dead and time.monotonic() < deadline:
            time.sleep(0.005)
        if not self.dead:
            self._process.kill()
        self.connection.close()
        self._reap(0)
        assert self._ending is not None
        return self._ending

    def _reap(self, options: int) -> None:
        """Ask how it ended; by ``wait4``, which also says how much memory it had held."""
        if self._ending is not None:
            return
        try:
            pid, status, used = os.wait4(self._process.pid, options)
        except ChildProcessError:  # somebody else has asked
            self._process.returncode = 0
            self._ending = Ending(None, 0)
            return
        if pid:
            code = self._process.returncode = os.waitstatus_to_exitcode(status)
            unit = 1 if sys.platform == "darwin" else 1024
            known = used.ru_maxrss > self._floor
            self._ending = Ending(code, used.ru_maxrss * unit if known else 0)


# -- in the worker ----------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Do what comes through the pipe until the driver ends."""
    sys.argv = sys.argv[:1]
    os.set_inheritable(descriptor, False)
    # The driver decides what an interrupt ends. To ignore it would be inherited by what we start.
    signal.signal(signal.SIGINT, lambda *_: None)
    faulthandler.enable()
    _die_with_parent()
    connection = Connection(descriptor)
    orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    state: dict[str, Any] = {}
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the driver was killed
        connection.send_bytes(b"")
        while True:
            answer = _answer(state, orders.get())
            connection.send_bytes(answer)


def _answer(state: dict[str, Any], order: bytes) -> bytes:
    def prepare() -> Any:
        if parcel not in state:
            state.clear()  # what is held of the last run goes before the next comes
            function, shared, setup = SharedState.load(Path(parcel)).open()
            state[parcel] = function, setup(shared) if setup else shared
        return state[parcel]

    answer = Answer()
    try:
        parcel, item = pickle.loads(order)  # noqa: S301  our driver made it
        answer = portable(attempt(prepare, item))
        return cloudpickle.dumps(answer, protocol=5)
    except Exception as error:  # an item that cannot be read here, a result that cannot be sent
        return cloudpickle.dumps(portable(replace(answer, result=None, error=error)), protocol=5)


def _listen(connection: Connection, orders: queue.SimpleQueue[bytes]) -> None:
    """Take orders at once, whatever the worker is at, and end it when there is no driver."""
    while True:
        try:
            orders.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _die_with_parent() -> None:
    """Have the kernel end this process with the driver, even in a call that holds Python's lock.

    Elsewhere than on Linux the end of the pipe must do. Linux means the driver's thread that
    started us: a worker that goes with one is replaced when it is next needed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
