"""This user's own directory in the temporary directory, which all users of a machine share.

Whoever may write to ``/tmp`` can make a name there before we do: a directory that he fills, or a
link to a file of ours that we then truncate. So all temporary files of Penstock lie in one
directory of mode 0700 that is checked before each use: it is a directory, no link, it is ours, and
others can neither write to it nor read it. If another user has taken its name, another name is
used, so that nobody can keep a run from starting.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from penstock.errors import StorageError

__all__ = ["check_own_directory", "open_lock", "private_directory", "temporary_directory"]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def private_directory(name: str = "", base: str | None = None) -> Path:
    """Return this user's directory in the temporary directory, or the one of a name below it.

    It is ``penstock-UID``, of mode 0700; if that name is taken by another user, the first
    ``penstock-UID-*`` that is ours, else a new one.

    Args:
        name: A directory below it, which is made.
        base: In place of the temporary directory (``TMPDIR``, else ``/tmp``).

    Raises:
        StorageError: The temporary directory cannot be written to.
    """
    prefix = f"penstock-{os.geteuid()}"
    with _translated(base):
        above = Path(base or tempfile.gettempdir())
        own = _own(above / prefix)
        if own is None:
            others = sorted(above.glob(f"{prefix}-*"))
            own = next((path for path in others if _is_own(path)), None)
        if own is None:
            own = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=above))
        if not name:
            return own
        below = own / name
        below.mkdir(mode=0o700, exist_ok=True)
        return below


@contextlib.contextmanager
def temporary_directory(prefix: str = "") -> Iterator[Path]:
    """Make a new directory in :func:`private_directory`, and delete it at the end."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=private_directory()) as directory:
        yield Path(directory)


def check_own_directory(path: Path, fix: str) -> None:
    """Check that a directory which a setting names is this user's, and closed to all users.

    A link is followed, and its group may write: both are the user's own choice.

    Args:
        path: An existing directory.
        fix: The remedy.

    Raises:
        StorageError: It belongs to another user, or all users may write to it.
    """
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise StorageError(
            f"belongs to another user ({status.st_uid}), who could change what is read from it",
            file=path,
            fix=fix,
        )
    if status.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"all users may write to it (mode {stat.S_IMODE(status.st_mode):04o}), and could "
            "change what is read from it",
            file=path,
            fix=f"run `chmod o-w {path}`, or {fix}",
        )


def open_lock(path: Path) -> int:
    """Open a file to lock it, and return its descriptor; it is neither truncated nor a link.

    Raises:
        OSError: It is a link, or belongs to another user.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _own(path: Path) -> Path | None:
    """Make a directory of mode 0700, or take one of ours; None where the name is another's."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    return path if _is_own(path) else None


def _is_own(path: Path) -> bool:
    """Return whether a path is a directory that only this user could have written to."""
    try:
        # Opened, so that the directory that is checked is the one whose mode is changed.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE:
            return False
        if status.st_mode & _OTHERS or status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(descriptor, 0o700)
        return True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _translated(base: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"no directory for temporary files can be made ({error.strerror or error})",
            file=error.filename or base,
            fix="set TMPDIR to a directory that you can write to",
        ) from error
