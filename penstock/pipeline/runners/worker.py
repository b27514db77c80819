"""A worker process: one pipe to the driver, one item at a time; it ends when the driver ends.

Each worker has its own pipe, so the driver can identify the item that a worker was running when it
was killed, and the other workers continue. A shared queue does not allow that: a killed worker
broke the whole pool, or blocked it if it was killed while it held the queue's lock. Sending an
empty item takes 0.09 ms through a pipe, 0.2 ms through a queue.

State is sent once to a node, and its arrays are shared by all workers there, not copied. Pickle's
protocol 5 serialises the bytes of arrays (NumPy, Arrow) apart from the rest. The local runner
writes them to a file, which workers map; Ray keeps them in the node's object store. Either way two
workers with a state of 200 MB hold 200 MB together; a plain pickle takes 200 MB each.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import faulthandler
import gc
import json
import mmap
import os
import pickle
import queue
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import numpy as np

from penstock.activity import add_counts, send_compiling, send_counts, set_compiling
from penstock.calls import Call, send_calls, set_crashed
from penstock.errors import StorageError
from penstock.garbage import collection_paused
from penstock.own_modules import OwnModules
from penstock.pipeline.runners.attempt import AttemptResult, attempt, portable

__all__ = ["Ending", "SharedState", "Worker", "serve"]

_ALIGNMENT = 64
"""Alignment in bytes, best for Arrow and vector instructions."""


@dataclass(frozen=True, slots=True)
class SharedState:
    """A value as bytes. When opened, its arrays are read-only views of them."""

    head: Any
    """The pickle without the contents of arrays: (n,) uint8, or bytes."""

    buffers: Sequence[Any]
    """The contents of arrays: each (n,) uint8, or a memoryview."""

    @classmethod
    def of(cls, value: Any) -> SharedState:
        """Pickle a value, with the functions and classes of ``__main__`` that it uses."""
        buffers: list[pickle.PickleBuffer] = []
        given = (OwnModules(), value)
        head = cloudpickle.dumps(given, protocol=5, buffer_callback=buffers.append)
        return cls(_array(head), [_array(buffer.raw()) for buffer in buffers])

    def open(self) -> Any:
        """Unpickle the value. Only a state that our own driver made may be opened."""
        buffers = [memoryview(buffer).toreadonly() for buffer in self.buffers]
        with collection_paused():  # it imports modules
            _, value = pickle.loads(self.head, buffers=buffers)  # noqa: S301  our driver made it
        return value

    def save(self, path: Path) -> None:
        """Write a file for :meth:`load`.

        Raises:
            StorageError: It cannot be written, mostly for lack of space.
        """
        sizes = [len(self.head), *(len(buffer) for buffer in self.buffers)]
        index = np.array([len(sizes), *sizes], dtype=np.int64)
        try:
            with open(path, "wb") as file:
                for piece in (index, self.head, *self.buffers):
                    file.write(piece)
                    file.write(bytes(-file.tell() % _ALIGNMENT))
        except OSError as error:
            raise StorageError(
                f"the workers' shared state could not be written ({error.strerror})",
                file=path,
                fix="free some space, or set TMPDIR to a directory with more",
            ) from error

    @classmethod
    def load(cls, path: Path) -> SharedState:
        """Map a file of :meth:`save`; it may be deleted while it is mapped."""
        with open(path, "rb") as file:
            view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        count = int(np.frombuffer(view, np.int64, 1)[0])
        sizes = np.frombuffer(view, np.int64, count, offset=8)
        pieces, position = [], _aligned(8 + 8 * count)
        for size in map(int, sizes):
            pieces.append(view[position : position + size])
            position += _aligned(size)
        return cls(pieces[0], pieces[1:])


def _array(data: Any) -> np.ndarray:
    return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)


def _aligned(size: int) -> int:
    return size + -size % _ALIGNMENT


_SINGLE_THREADED = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""One thread a worker: slots already fill the cores, and sums never depend on the thread count."""

# The path is set first: a module of the working directory may have a name of the standard library.
_BOOT = """\
import gc, sys
gc.disable()
sys.path[:] = sys.argv[2:]
from penstock.pipeline.runners.worker import serve
serve(int(sys.argv[1]))
"""

_PR_SET_PDEATHSIG = 1

_COUNTS = b"C"
"""Begins a message of two int64, documents and bytes; a pickled outcome begins with 0x80."""

_CALL = b"A"
"""Begins a message of two texts as JSON: a call of a plug-in begins."""

_COMPILING = {b"N1": True, b"N0": False}
"""Messages: the worker begins to compile a loop, and ends."""


# -- in the driver ----------------------------------------------------------------------------


class Ending:
    """The end of a worker process.

    Attributes:
        reason: A clause for messages, such as ``was killed by SIGKILL``.
        by: The signal that killed it, or None.
        peak_bytes: Its peak resident memory, or 0 where that is not known.
    """

    def __init__(self, code: int | None, peak_bytes: int) -> None:
        self.by = signal.Signals(-code) if code is not None and code < 0 else None
        self.reason = f"was killed by {self.by.name}" if self.by else f"exited with status {code}"
        self.peak_bytes = peak_bytes


class Worker:
    """The driver's handle of a worker process.

    Args:
        environment: Variables that differ from this process's and from those of one thread.
        quiet: Throw away what it writes to stdout and stderr.
    """

    def __init__(
        self, environment: Mapping[str, str] | None = None, *, quiet: bool = False
    ) -> None:
        self.connection, theirs = Pipe()
        # A process starts with the peak of the one that forked it: a lower peak is not known.
        self._floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        path = [place for place in sys.path if isinstance(place, str)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BOOT, str(theirs.fileno()), *path],
            env={**os.environ, **_SINGLE_THREADED, **(environment or {})},
            stdin=subprocess.DEVNULL,
            # A scorer's prints must not mix with a command's JSON.
            stdout=subprocess.DEVNULL if quiet else 2,
            stderr=subprocess.DEVNULL if quiet else None,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.given: collections.deque[int] = collections.deque()
        """The indices of its items, in the order they were sent; it is running the first."""
        self.ready = False
        """True once the worker has sent its first message."""
        self.call: Call | None = None
        """The call of a plug-in that it has begun last, of its first item; None before one."""
        self._ending: Ending | None = None
        self._compiling = 0

    def give(self, index: int, item: Any, state_file: Path, crashed: Collection[Call] = ()) -> None:
        """Send an item. A dead worker is noticed by :meth:`receive`, not here.

        Args:
            index: Its index.
            item: The item.
            state_file: The state of the run.
            crashed: Calls of the item in which other workers were lost.
        """
        given = (OwnModules(), str(state_file), item, tuple(crashed))
        message = cloudpickle.dumps(given, protocol=5)
        self.given.append(index)
        with contextlib.suppress(OSError):
            self.connection.send_bytes(message)

    def receive(self) -> AttemptResult | None:
        """Receive the outcome of the first item given, or None: it is ready, or has counts.

        Raises:
            EOFError: It is dead, and all its messages were received.
        """
        try:
            message = self.connection.recv_bytes()
        except OSError:  # killed in the middle of a message
            raise EOFError from None
        self.ready = True
        if not message:
            return None
        if message[:1] == _COUNTS:
            add_counts(*struct.unpack("<2q", message[1:]))
            return None
        if message[:1] == _CALL:
            key, documents = json.loads(message[1:])
            self.call = (key, documents)
            return None
        if (begins := _COMPILING.get(message)) is not None:
            self._compiling += 1 if begins else -1
            set_compiling(begins)
            return None
        self.given.popleft()
        self.call = None
        return pickle.loads(message)  # noqa: S301  our worker made it

    @property
    def dead(self) -> bool:
        """True if the process has ended, even if a child process holds its pipe open."""
        self._reap(os.WNOHANG)
        return self._ending is not None

    def end(self, wait: float = 0.0) -> Ending:
        """Wait until it has ended; kill it after ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while not self.dead and time.monotonic() < deadline:
            time.sleep(0.005)
        if not self.dead:
            self._process.kill()
        self.connection.close()
        for _ in range(self._compiling):
            set_compiling(False)
        self._compiling = 0
        self._reap(0)
        assert self._ending is not None
        return self._ending

    def _reap(self, options: int) -> None:
        """Collect its exit status by ``wait4``, which returns its peak memory, too."""
        if self._ending is not None:
            return
        try:
            pid, status, used = os.wait4(self._process.pid, options)
        except ChildProcessError:  # already collected elsewhere
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
    """Run the items that come through the pipe until the driver ends."""
    gc.enable()
    sys.argv = sys.argv[:1]
    os.set_inheritable(descriptor, False)
    # The driver decides what an interrupt ends. SIG_IGN would be inherited by child processes.
    signal.signal(signal.SIGINT, lambda *_: None)
    faulthandler.enable()
    _die_with_parent()
    connection = Connection(descriptor)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, messages), daemon=True).start()
    state: dict[str, Any] = {}
    sending = threading.Lock()  # a user's function may count in threads of its own

    def send(message: bytes) -> None:
        with sending:
            connection.send_bytes(message)

    def send_count(documents: int, size: int) -> None:
        with contextlib.suppress(OSError):  # the driver was killed; so is this process, soon
            send(_COUNTS + struct.pack("<2q", documents, size))

    def send_compile(begins: bool) -> None:
        with contextlib.suppress(OSError):
            send(b"N1" if begins else b"N0")

    def send_call(call: Call) -> None:
        with contextlib.suppress(OSError):
            send(_CALL + json.dumps(call).encode())

    send_calls(send_call)
    send_counts(send_count)
    send_compiling(send_compile)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the driver was killed
        send(b"")
        while True:
            send(_run_item(state, messages.get()))


def _run_item(state: dict[str, Any], message: bytes) -> bytes:
    """Run the item of a message and pickle its outcome; ``state`` caches the run's state."""

    def prepare() -> Any:
        if state_file not in state:
            state.clear()  # the last run's state is freed before this one's is read
            state[state_file] = SharedState.load(Path(state_file)).open()
        return state[state_file]

    outcome = AttemptResult()
    try:
        with collection_paused():  # the first item imports modules
            loaded = pickle.loads(message)  # noqa: S301  our driver made it
            _, state_file, item, crashed = loaded
        set_crashed(crashed)
        outcome = portable(attempt(prepare, item))
        return cloudpickle.dumps(outcome, protocol=5)
    except Exception as error:  # an item that cannot be read here, a result that cannot be sent
        return cloudpickle.dumps(portable(replace(outcome, result=None, error=error)), protocol=5)


def _listen(connection: Connection, messages: queue.SimpleQueue[bytes]) -> None:
    """Receive messages while an item runs, and exit the process when the driver is gone."""
    while True:
        try:
            messages.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(0)


def _die_with_parent() -> None:
    """Ask the kernel to kill this process with the driver, even in a call that holds the GIL.

    On other systems than Linux the end of the pipe must do. Linux watches the driver's thread that
    started this process: a worker that ends with its thread is replaced when one is next needed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
