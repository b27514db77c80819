"""One driver at a time for a work directory.

A lease is a small file, ``lease/00000007.json``, whose number only ever rises. To take the lease is
to create the next number, which a file system or S3 grants to exactly one; whoever finds a number
above its own has lost it. So a driver that slept, or was cut off, learns before it records anything
that another has taken over. The holder signs every ten seconds; a lease without a sign for a minute
may be taken over, and at once where its process is on this machine and dead.

Nothing here trusts clocks of two machines to agree: a signature that looks old is first watched
for a while, and only one that stays the same is taken over.
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
    files_under,
    read_file,
    remove_temporaries,
)

__all__ = ["Lease"]

SIGN = 10.0
"""Seconds between signatures of the holder."""

EXPIRY = 60.0
"""Seconds without one after which a lease may be taken over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """Who holds a lease, as its file says."""

    owner: str
    host: str
    machine: str
    """Host, boot and process namespace: where ``pid`` means something."""
    pid: int
    started: str
    command: str
    since: float
    signed: float
    released: bool = False

    def alive(self) -> bool | None:
        """Whether its process lives; None where that cannot be known from here."""
        if self.machine != _machine():
            return None
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.command} (process {self.pid} on {self.host}, since {since})"


class Lease:
    """The right to make artefacts in a work directory.

    Args:
        root: The work directory.
        sign: Seconds between signatures.
        expiry: Seconds without one after which others may take over.
    """

    def __init__(self, root: AnyPath, sign: float = SIGN, expiry: float = EXPIRY) -> None:
        self._root = root
        self._directory = root / "lease"
        self._sign_every = sign
        self._expiry = expiry
        self._number = 0
        self._holder: _Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def hold(self) -> None:
        """Take the lease, unless this object holds it.

        After a driver that was killed, what it left half-written is cleared away.

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
                f"work: {self._root} is in use by {holder}, which gave a sign "
                f"{max(0, time.time() - holder.signed):.0f} s ago; wait for it, stop it, or give "
                f"another `work`. It may be taken over {self._expiry:.0f} s after its last sign"
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
        except FileNotFoundError:  # the one that was first has cleared away
            first = False
        if not first:
            raise LeaseError(
                f"work: {self._root}: another driver began at the same moment; wait for it, or "
                "give another `work`"
            )
        self._number, self._holder = last + 1, mine
        for number in range(max(1, last - 3), last):  # the last one tells who lost it
            with contextlib.suppress(FileNotFoundError):
                self._path(number).unlink()
        remove_temporaries(self._root, deep=False)  # of before a lease was taken
        remove_temporaries(self._directory)
        if last and not (holder and holder.released):
            remove_temporaries(self._root)
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_signing, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure, before anything is recorded, that nobody took the lease over.

        Raises:
            LeaseError: Somebody did.
        """
        if self._holder is not None and self._path(self._number + 1).exists():
            by = self._read(self._last())
            raise LeaseError(
                f"work: {self._root} was taken over by {by} while this driver gave no sign; "
                "nothing of it was published since. Run again when that one is done"
            )

    def release(self) -> None:
        """Give the lease back, if this object holds it."""
        if self._holder is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        # A full disk or a lost network must not hide how the work ended; the lease expires.
        with contextlib.suppress(Exception):
            self._write(replace(self._holder, released=True))
        self._holder = None

    def _over(self, number: int, holder: _Holder) -> bool:
        """Whether a lease was given back, or its holder is gone."""
        if holder.released:
            return True
        alive = holder.alive()
        if alive is not None:
            return not alive
        if time.time() - holder.signed < self._expiry:
            return False
        time.sleep(2 * self._sign_every)
        return self._read(number) == holder and self._last() == number

    def _keep_signing(self) -> None:
        while not self._stop.wait(self._sign_every):
            # A sign that could not be given is given next time; `check` decides, not this thread.
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
        """The highest number there is, 0 where there is none."""
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
    """When a process of this machine was started, in its own terms; None where there is none."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]  # a zombie is dead
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
