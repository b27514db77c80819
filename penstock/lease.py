"""One driver at a time for a work directory.

A lease is a small file, ``lease/00000007.json``, whose number only ever rises. A driver takes the
lease by creating the next number, which succeeds for exactly one driver; a driver that finds a
number above its own has lost the lease. So a driver that was suspended or cut off finds before it
records anything that another has taken over. The holder renews its file every 10 s. A lease that
was not renewed for 60 s may be taken over, or at once where its process was on this machine and
has ended.

The clocks of two machines need not agree: a renewal that looks old is first observed for 20 s, and
only a lease that stays the same is taken over.

A single file that is replaced if unchanged would need no numbers. Locally it needs a lock, which
some cluster file systems lack; to create a file is exclusive on all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from penstock.errors import LeaseError
from penstock.storage import (
    AnyPath,
    atomic_file,
    create_file,
    delete,
    files_under,
    kind_of,
    read_file,
    remove_temporaries,
)

__all__ = ["Lease"]

RENEWAL = 10.0
"""Seconds between renewals by the holder."""

EXPIRY = 60.0
"""Seconds without a renewal after which a lease may be taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """The holder of a lease, as written in its file."""

    owner: str
    host: str
    machine: str
    """Host, boot and process namespace, within which ``pid`` is unique."""
    pid: int
    started: str
    command: str
    since: float
    signed: float
    released: bool = False

    def alive(self) -> bool | None:
        """Return whether its process is running; None for a process of another machine."""
        return None if self.machine != _machine() else _started(self.pid) == self.started

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.command} (process {self.pid} on {self.host}, since {since})"


class Lease:
    """The right to make artefacts in a work directory.

    Args:
        root: The work directory.
        renewal: Seconds between renewals.
        expiry: Seconds without one after which another driver may take over.
    """

    def __init__(self, root: AnyPath, renewal: float = RENEWAL, expiry: float = EXPIRY) -> None:
        self._root = root
        self._directory = root / "lease"
        self._renewal = renewal
        self._expiry = expiry
        self._number = 0
        self._holder: _Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self) -> None:
        """Take the lease, unless this object holds it.

        Half-written files of a driver that was killed are deleted.

        Raises:
            LeaseError: Another driver holds it.
        """
        if self._holder is not None:
            self.check()
            return
        last = self._last()
        holder = self._read(last) if last else None
        if holder and not self._over(last, holder):
            raise LeaseError(
                f"in use by {holder}, last renewed {max(0, time.time() - holder.signed):.0f} s ago",
                key="work",
                file=self._root,
                fix="wait for that driver, stop it, or give another `work`; the directory may be "
                f"taken over {self._expiry:.0f} s after the last renewal",
            )
        now = time.time()
        mine = _Holder(
            owner=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]),
            since=now,
            signed=now,
        )
        try:
            first = create_file(self._path(last + 1), _encoded(mine))
        except FileNotFoundError:  # the driver that was first has deleted temporary files
            first = False
        if not first:
            raise LeaseError(
                "another driver began at the same moment",
                key="work",
                file=self._root,
                fix="wait for it, or give another `work`",
            )
        self._number, self._holder = last + 1, mine
        for number in range(max(1, last - 3), last):  # the last one names the previous holder
            delete(self._path(number))
        remove_temporaries(self._root, deep=False)  # of files written without a lease
        remove_temporaries(self._directory)
        if last and not (holder and holder.released):
            remove_temporaries(self._root)
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check, before anything is recorded, that no other driver took the lease over.

        Raises:
            LeaseError: Another driver did.
        """
        if self._holder is not None and kind_of(self._path(self._number + 1)) is not None:
            by = self._read(self._last())
            raise LeaseError(
                f"taken over by {by} while this driver did not renew its lease; this driver "
                "published nothing since",
                key="work",
                file=self._root,
                fix="run again when the other driver has finished",
            )

    def driver(self) -> str | None:
        """Describe the driver that holds the lease by what is written; None if none seems to.

        Nothing is written and there is no wait, so a driver whose clock is late may be missed.
        """
        last = self._last()
        holder = self._read(last) if last else None
        if holder is None or holder.released or holder.alive() is False:
            return None
        late = holder.alive() is None and time.time() - holder.signed >= self._expiry
        return None if late else str(holder)

    def release(self) -> None:
        """Give the lease back, if this object holds it."""
        if self._holder is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        # An error here must not replace the error that ended the work; the lease expires.
        with contextlib.suppress(Exception):
            self._write(replace(self._holder, released=True))
        self._holder = None

    def _over(self, number: int, holder: _Holder) -> bool:
        """Return whether a lease was given back, or its holder has ended."""
        if holder.released:
            return True
        alive = holder.alive()
        if alive is not None:
            return not alive
        if time.time() - holder.signed < self._expiry:
            return False
        time.sleep(2 * self._renewal)
        return self._read(number) == holder and self._last() == number

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._renewal):
            # A renewal that failed is tried again in 10 s; `check` decides, not this thread.
            with contextlib.suppress(Exception):
                assert self._holder is not None
                self._write(replace(self._holder, signed=time.time()))

    def _write(self, holder: _Holder) -> None:
        with atomic_file(self._path(self._number), durable=False) as sink:
            sink.write(_encoded(holder))

    def _read(self, number: int) -> _Holder | None:
        try:
            return _Holder(**json.loads(read_file(self._path(number))))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _last(self) -> int:
        """Return the highest number, 0 where there is none."""
        names = files_under(self._directory)
        return max((int(name[:8]) for name in names if name[:8].isdigit()), default=0)

    def _path(self, number: int) -> Any:
        return self._directory / f"{number:08d}.json"


def _encoded(holder: _Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _machine() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if "/ns/" in path else Path(path).read_text().strip())
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Return the start time of a process of this machine; None if it is not running."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # a zombie is dead
    except OSError:
        pass
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
    return "running"
