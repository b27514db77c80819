"""What every store needs: paths, errors with a fix, and the file that is being written.

A path is as a recipe writes it: a local path, or a URI such as ``s3://bucket/work``. Errors of the
operating system become StorageError, with the path, the problem and a fix.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from upath import UPath

from penstock.errors import StorageError

__all__ = [
    "DANGLING",
    "DIRECTORY",
    "FILE",
    "KEPT",
    "NO_ROOM",
    "SPECIAL",
    "WORK",
    "AnyPath",
    "Child",
    "FileVersion",
    "Sink",
    "is_temporary_os_error",
    "is_uri",
    "os_errors",
    "real_path",
]

AnyPath: TypeAlias = Path | UPath
"""A local path is a :class:`pathlib.Path`; any other is a :class:`upath.UPath` over fsspec, with
the same methods."""

DIRECTORY, FILE, DANGLING, SPECIAL = "directory", "file", "dangling link", "special file"


class Child(NamedTuple):
    """An entry of a directory; a link is described by what it leads to."""

    name: str
    kind: str
    """``DIRECTORY``, ``FILE``, ``DANGLING`` (a link to nothing, or to itself), or ``SPECIAL`` (a
    pipe, a socket, a device)."""
    link: bool = False
    """True of a symbolic link."""
    twin: tuple[int, int] | None = None
    """Device and inode of a file that has several names, by hard links."""


KEPT = "what is finished is kept"

WORK = "give another `work`"
"""What to do where a place is unfit, as most are in the work directory."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""Errors of a place on this machine that takes no more bytes; no store raises them."""

_PROBLEMS = {
    errno.ENOSPC: ("no space is left", "free some, or {instead}, and run again"),
    errno.EDQUOT: ("the disk quota is used up", "free some, or {instead}, and run again"),
    errno.EFBIG: (
        "the file is larger than is allowed",
        "raise the limit (`ulimit -f`, or the file system's), or {instead}",
    ),
    errno.ENAMETOOLONG: ("the path is longer than this system can open", "give a shorter path"),
    errno.EROFS: ("the file system is read-only", "{instead}"),
    errno.EACCES: ("permission denied", "let this user write there, or {instead}"),
    errno.EPERM: ("the operation is not permitted", "{instead}"),
    errno.ENOTDIR: ("a file stands where a directory is needed", "remove it, or {instead}"),
    errno.EEXIST: ("a file stands where a directory is needed", "remove it, or {instead}"),
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
def os_errors(path: AnyPath, denied: str | None = None, instead: str = WORK) -> Iterator[None]:
    """Raise errors of the operating system as StorageError; leave those without a known fix.

    Args:
        path: The file or directory that is read or written.
        denied: Fix where permission is denied, in place of the default one.
        instead: What to do to have another place.

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
        raise StorageError(
            problem[0], file=path, fix=f"{problem[1].format(instead=instead)}; {KEPT}"
        ) from error


def is_temporary_os_error(error: BaseException) -> bool:
    """Return whether an error of the operating system or its network may pass within seconds."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    known = isinstance(error, OSError) and error.errno in _TEMPORARY
    return known or isinstance(error, (TimeoutError, ConnectionError))


def is_uri(text: str | os.PathLike[str] | UPath) -> bool:
    """Return whether the text of a path is a URI."""
    return re.match(r"[A-Za-z][\w+.-]+://", str(text)) is not None


def real_path(path: AnyPath) -> str:
    """Return a path as text, with the symbolic links of a local one resolved."""
    return os.path.realpath(path) if isinstance(path, Path) else str(path)


FileVersion = tuple[int | str, ...]
"""Size in bytes, then values that change when the file does; empty where there is no plain file."""


class Sink(io.RawIOBase):
    """A file being written from front to back; counts its bytes and computes its checksum."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0
        """Bytes written so far."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data).cast("B")
        self._file.write(view)
        self._digest.update(view)
        self.bytes += len(view)
        return len(view)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.bytes

    @property
    def sha256(self) -> str:
        """The sha256 of the bytes written so far, in hexadecimal."""
        return self._digest.hexdigest()
