"""One driver at a time for a work directory.

A lease is a small file, ``lease/00000007.json``, whose number only ever rises. A driver takes the
lease by creating the next number, which succeeds for exactly one driver; a driver that finds a
number above its own has lost the lease. So a driver that was suspended or cut off finds before it
records anything that another has taken over. The holder renews its file every 10 s. A lease that
was not renewed for 60 s may be taken over, or at once where its process was on this machine and
has ended. Each file also holds a random token of its driver: if the directory is removed or
restored from a copy, two drivers can have one number, and the token decides.

No clock of another machine counts. A driver that meets a lease of another machine, or of a process
that ``/proc`` hides from it, observes its bytes for 60 s by its own monotonic clock (C. Gray and
D. Cheriton, "Leases", SOSP 1989, let a term be measured by the one who waits), and takes over a
lease that did not change. One that is renewed is refused at its next renewal, after 10 s. So a
clock that runs ahead locks nothing, and one that runs behind loses nothing.

A lease does not stop a driver that is suspended between its check and its next write. That write
is conditional: a driver reads, then checks its lease, then creates or replaces what it read only
if it is unchanged (:mod:`penstock.artefact.draft`). So what a successor wrote is not replaced.

A single file that is replaced if unchanged would need no numbers. Locally it needs a lock, which
some cluster file systems lack; to create a file is exclusive on all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from penstock.display import logger_of
from penstock.errors import LeaseError
from penstock.ray_job import current_job
from penstock.storage import (
    AnyPath,
    atomic_file,
    create_file,
    delete,
    delete_files,
    find_temporaries,
    make_own_directory,
    read_file,
    sizes_under,
)

__all__ = ["Lease"]

RENEWAL = 10.0
"""Seconds between renewals by the holder."""

EXPIRY = 60.0
"""Seconds without a renewal after which a lease may be taken over."""

_LAST = 10**8 - 1
"""Highest number of a lease; at one driver a second it is reached after three years."""

_LARGEST = 2**16
"""Bytes of the largest file that is read as a lease; ours have about 400."""

_END_OF_TIME = 253_402_300_800
"""Seconds since 1970 at which the year 10000 begins, which no clock formats."""

_log = logger_of("penstock.lease")


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
        """Return whether its process is running; None where this process cannot know it."""
        if self.machine != _machine():
            return None
        try:
            return _started(self.pid) == self.started
        except PermissionError:
            return None

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.command} (process {self.pid} on {self.host}, since {since})"


class Lease:
    """The right to make artefacts in a work directory, or to write an export.

    Args:
        root: The directory.
        renewal: Seconds between renewals.
        expiry: Seconds without one after which another driver may take over.
        key: The recipe key, or the option, that names the directory.
    """

    def __init__(
        self,
        root: AnyPath,
        renewal: float = RENEWAL,
        expiry: float = EXPIRY,
        key: str = "work",
    ) -> None:
        self._root = root
        self._key = key
        self._directory = root / "lease"
        self._renewal = renewal
        self._expiry = expiry
        self._number = 0
        self._holder: _Holder | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def number(self) -> int:
        """Number of the lease that this object holds or held; 0 before."""
        return self._number

    def hold(self) -> bool:
        """Take the lease, unless this object holds it.

        Half-written files of a driver that was killed are deleted. A lease of another machine that
        is not given back is observed first, for up to ``expiry`` seconds.

        Returns:
            True if it was taken now, of a driver that did not give it back.

        Raises:
            LeaseError: Another driver holds it.
            StorageError: Another user put a link or a directory in its place.
        """
        if self._holder is not None:
            self.check()
            return False
        make_own_directory(self._root, self._directory)
        last = self._last()
        content = self._content(last)
        holder = _decoded(content)
        if last >= _LAST:
            raise LeaseError(
                f"no driver has numbered its lease {last}: the highest number is {_LAST}",
                key=self._key,
                file=self._path(last),
                expected=f"a number below {_LAST}",
                got=last,
                fix="delete the file if no driver is at work there",
            )
        if content is not None and not self._over(last, content):
            raise LeaseError(
                f"in use by {holder or 'a driver of another version of Penstock'}",
                key=self._key,
                file=self._root,
                fix=f"wait for that driver, stop it, or give another `{self._key}`; the directory "
                "may be taken over when its process has ended, and that of another machine "
                f"{self._expiry:.0f} s after its last renewal",
            )
        now = time.time()
        mine = _Holder(
            owner=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()) or "",
            command=_command(),
            since=now,
            signed=now,
        )
        encoded = _encoded(mine)
        try:
            # The answer to a request that succeeded may be lost: then it is made again, and fails.
            first = create_file(self._path(last + 1), encoded)
            if not first and self._last() <= last:
                raise LeaseError(
                    "is in the way of the next lease, and is no file",
                    key=self._key,
                    file=self._path(last + 1),
                    fix="delete it",
                )
            first = first or self._content(last + 1) == encoded
        except FileNotFoundError:  # the driver that was first has deleted temporary files
            first = False
        if not first:
            raise LeaseError(
                "another driver began at the same moment",
                key=self._key,
                file=self._root,
                fix=f"wait for it, or give another `{self._key}`",
            )
        self._number, self._holder = last + 1, mine
        for number in range(max(1, last - 3), last):  # the last one names the previous holder
            delete(self._path(number))
        given_back = last == 0 or (holder is not None and holder.released)
        # Their names are of one use: what was found before the check is of no later driver.
        left = [
            *find_temporaries(self._root, deep=not given_back),  # at the top without a lease, too
            *find_temporaries(self._directory),
        ]
        self.check()
        delete_files(left)
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)
        self._thread.start()
        return not given_back

    def check(self) -> None:
        """Check, before anything is recorded, that no other driver took the lease over.

        Raises:
            LeaseError: Another driver did.
        """
        if self._holder is None:
            return
        # Not by the next number alone: later drivers delete it.
        last = self._last()
        other = _decoded(self._content(last))
        if last > self._number or (other and other.owner != self._holder.owner):
            raise LeaseError(
                f"taken over by {other or 'a driver of another version of Penstock'} while this "
                "driver did not renew its lease; this driver published nothing since",
                key=self._key,
                file=self._root,
                fix="run again when the other driver has finished",
            )
        if last < self._number or other is None:
            raise LeaseError(
                "the file of this driver's lease was removed or replaced; this driver published "
                "nothing since",
                key=self._key,
                file=self._path(self._number),
                fix="run again, and leave the directory of the lease as it is",
            )

    def driver(self) -> str | None:
        """Describe the driver that holds the lease by what is written; None if none seems to.

        Nothing is written and there is no wait, so a driver of another machine that was killed is
        still described.
        """
        last = self._last()
        content = self._content(last)
        holder = _decoded(content)
        if content is None or (holder and (holder.released or holder.alive() is False)):
            return None
        return str(holder or "a driver of another version of Penstock")

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

    def remove(self) -> None:
        """Give the lease back with its directory, so that none is left; later numbers begin at 1.

        Only where nothing depends on rising numbers, as in a directory that is written once.
        """
        if self._holder is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(Exception):  # as in `release`
            self.check()
            delete(self._directory)
        self._holder = None

    def _over(self, number: int, content: bytes) -> bool:
        """Return whether a lease was given back, or its holder has ended."""
        holder = _decoded(content)
        if holder is not None:
            if holder.released:
                return True
            alive = holder.alive()
            if alive is not None:
                return not alive
        _log.warning(
            "%s: held by %s; waiting up to %.0f s to see whether that driver is at work",
            self._root,
            holder or "a driver of another version of Penstock",
            self._expiry,
        )
        end = time.monotonic() + self._expiry
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, self._renewal / 2))
            if self._content(number) != content or self._last() != number:
                return False
        return True

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._renewal):
            # A renewal that failed is tried again in 10 s; `check` decides, not this thread.
            with contextlib.suppress(Exception):
                assert self._holder is not None
                self._write(replace(self._holder, signed=time.time()))

    def _write(self, holder: _Holder) -> None:
        """Replace this driver's file, unless it is gone or another driver's."""
        found = _decoded(self._content(self._number))
        if found is None or found.owner != holder.owner:
            return
        with atomic_file(self._path(self._number), durable=False) as sink:
            sink.write(_encoded(holder))

    def _content(self, number: int) -> bytes | None:
        try:
            return read_file(self._path(number)) if number else None
        except FileNotFoundError:
            return None

    def _last(self) -> int:
        """Return the highest number, 0 where there is none."""
        found = {
            int(match[1]): size
            for name, size in sizes_under(self._directory).items()
            if (match := re.fullmatch(r"([0-9]{8}|[1-9][0-9]{8,11})\.json", name))
        }
        last = max(found, default=0)
        if last and found[last] > _LARGEST:
            raise LeaseError(
                "is no lease of a driver: it is too large",
                key=self._key,
                file=self._path(last),
                expected=f"at most {_LARGEST} bytes",
                got=found[last],
                fix="delete the file if no driver is at work there",
            )
        return last

    def _path(self, number: int) -> Any:
        return self._directory / f"{number:08d}.json"


def _encoded(holder: _Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


_TYPES = {
    field.name: {"int": int, "float": float, "bool": bool}.get(str(field.type), str)
    for field in fields(_Holder)
}


def _decoded(content: bytes | None) -> _Holder | None:
    """Return the holder that a file names; None if no driver of this version wrote it."""
    try:
        values = {} if content is None else json.loads(content)
        holder = _Holder(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    sound = (
        all(type(getattr(holder, name)) is kind for name, kind in _TYPES.items())
        and 0 < holder.pid < 2**31
        and all(0 <= moment < _END_OF_TIME for moment in (holder.since, holder.signed))
    )
    return holder if sound else None


def _command() -> str:
    """Describe this process: its command, and the job whose driver it is."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    command = " ".join([name, *sys.argv[1:2]])
    job = current_job()
    return command if job is None else f"{command} of job {job}, `penstock stop {job}`"


def _machine() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if "/ns/" in path else Path(path).read_text().strip())
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """Return the start time of a process of this machine; None if it is not running.

    Raises:
        PermissionError: It is another user's, and hidden from this one.
    """
    try:
        state, *after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else after[18]  # a zombie is dead
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    return "running"
