"""Locks of files in a work directory, which only those who may write there can hold.

``flock`` needs no right to write, so that another user who may only read a manifest could hold its
lock for ever. So the lock is a file of its own beside it, ``.NAME.lock``, of mode 0600: others
cannot open it. A group (or all users) that may write to the directory may open the lock, too.

A lock ends with its process. Its file is removed by the process that holds it, so that none is
left over; a process that waited finds that its file is no longer at the path, and begins again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from penstock.errors import StorageError
from penstock.storage.store import AnyPath

__all__ = ["LOCK", "lock_beside", "lock_file", "remove_lock"]

LOCK = re.compile(r"\..+\.lock", re.DOTALL)
"""Names of locks."""

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
"""Errors of ``flock`` on a file system that has no locks."""

PATIENCE = 30.0
"""Seconds to wait for a lock, before the process that holds it counts as suspended."""

_PAUSE = 0.01


@contextlib.contextmanager
def lock_beside(path: AnyPath) -> Iterator[None]:
    """Hold the lock of a file in a directory of this machine.

    Raises:
        FileNotFoundError: There is no such directory.
        StorageError: Another process has held the lock for :data:`PATIENCE`, or its file cannot be
            opened.
    """
    lock = Path(str(path.parent), f".{path.name}.lock")
    end = time.monotonic() + PATIENCE
    while True:
        number = _opened(lock, end)
        try:
            lock_file(number, lock)
            if _is_at(number, lock):
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return
        finally:
            os.close(number)


def lock_file(file: Any, path: AnyPath) -> None:
    """Lock an open file, where the file system has locks; they are held for milliseconds.

    Others must not be able to open it.

    Raises:
        StorageError: A process that is suspended has held the lock for :data:`PATIENCE`.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise StorageError(
                    f"another process has locked it for {PATIENCE:.0f} s; it may be suspended",
                    file=path,
                    fix="end or continue that process (`lsof` names it), and run again",
                ) from None
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return
            raise


def remove_lock(lock: Path) -> None:
    """Remove the file of a lock that a killed process left; one that is held stays."""
    with contextlib.suppress(OSError):
        number = os.open(lock, _FLAGS)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(number, lock):
                lock.unlink()
        finally:
            os.close(number)


_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NFS locks what it may write


def _opened(lock: Path, end: float) -> int:
    """Open the file of a lock, which is made if it is missing.

    Raises:
        StorageError: It is a link or no file, or another user's whom no group joins with this one.
    """
    while True:
        try:
            number = os.open(lock, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            _share(number, lock.parent.stat())
            return number
        try:
            number = os.open(lock, _FLAGS)
        except FileNotFoundError:
            continue
        except OSError as error:
            if isinstance(error, PermissionError) and time.monotonic() < end:
                time.sleep(_PAUSE)  # its maker has not shared it yet, or is about to remove it
                continue
            raise _unusable(lock, error.strerror) from error
        if stat.S_ISREG(os.fstat(number).st_mode):
            return number
        os.close(number)
        raise _unusable(lock, "it is no file")


def _share(number: int, directory: os.stat_result) -> None:
    """Let those open a lock who may write to its directory: they can delete it anyway."""
    mode = 0o600
    if directory.st_mode & stat.S_IWOTH:
        mode |= 0o006
    if directory.st_mode & stat.S_IWGRP:
        with contextlib.suppress(OSError):  # not of that group
            os.fchown(number, -1, directory.st_gid)
        if os.fstat(number).st_gid == directory.st_gid:
            mode |= 0o060
    if mode != 0o600:
        with contextlib.suppress(PermissionError):  # some file systems have no modes
            os.fchmod(number, mode)


def _is_at(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.lstat())
    except FileNotFoundError:
        return False


def _unusable(lock: Path, why: str | None) -> StorageError:
    return StorageError(
        f"this lock cannot be opened ({why})",
        file=lock,
        expected="a file that all who share this directory may write to",
        fix=f"run `rm {lock}` when no other command is at work there; share a work directory by "
        "`chmod g+rwxs`",
    )
