"""Errors of the operating system as StorageError, with the path, the problem and a fix."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

from penstock.errors import StorageError
from penstock.storage.paths import AnyPath

__all__ = ["KEPT", "is_temporary_os_error", "os_errors"]

KEPT = "what is finished is kept"

_WORK = "or give another `work`"

_PROBLEMS = {
    errno.ENOSPC: ("no space is left", f"free some, {_WORK}, and run again"),
    errno.EDQUOT: ("the disk quota is used up", f"free some, {_WORK}, and run again"),
    errno.EFBIG: (
        "the file is larger than is allowed",
        f"raise the limit (`ulimit -f`, or the file system's), {_WORK}",
    ),
    errno.EROFS: ("the file system is read-only", "give another `work`"),
    errno.EACCES: ("permission denied", f"let this user write there, {_WORK}"),
    errno.EPERM: ("the operation is not permitted", "give another `work`"),
    errno.ENOTDIR: ("a file stands where a directory is needed", f"remove it, {_WORK}"),
    errno.EEXIST: ("a file stands where a directory is needed", f"remove it, {_WORK}"),
}

_TEMPORARY = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETDOWN,
    errno.ENETRESET,
    errno.ENETUNREACH,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
    121,  # EREMOTEIO of Linux, which s3fs raises for an InternalError
}


@contextlib.contextmanager
def os_errors(path: AnyPath, denied: str | None = None) -> Iterator[None]:
    """Raise errors of the operating system as StorageError; leave those without a known fix.

    Args:
        path: The file or directory that is read or written.
        denied: Fix where permission is denied, in place of the default one.

    Raises:
        StorageError: The place is full, read-only or denied, or a file is in the way.
    """
    try:
        yield
    except OSError as error:
        problem = _PROBLEMS.get(error.errno or 0)
        if denied is not None and isinstance(error, PermissionError):
            problem = "permission denied", denied
        if problem is None:
            raise
        raise StorageError(problem[0], file=path, fix=f"{problem[1]}; {KEPT}") from error


def is_temporary_os_error(error: BaseException) -> bool:
    """Return whether an error of the operating system or its network may pass within seconds."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    return isinstance(error, OSError) and error.errno in _TEMPORARY
