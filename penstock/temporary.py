"""This user's own directory in the temporary directory, which all users of a machine share.

Another user can make a name in ``/tmp`` before we do: a directory with files of theirs, or a link
to a file of ours, which we would then truncate. So all temporary files of Penstock lie in one
directory of mode 0700 that is checked before each use: it is a directory, no link, it is ours, and
others can neither write to it nor read it. If another user has taken its name, another name is
used, so that nobody can keep a run from starting. The temporary directory is checked, too: without
the sticky bit all users can rename what is in it, and its owner always can.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from penstock.errors import StorageError

__all__ = [
    "check_own_directory",
    "is_trusted",
    "open_lock",
    "others_can_write",
    "private_directory",
    "set_private_caches",
    "temporary_directory",
]

_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_chosen: dict[Path, Path] = {}
"""This process's directory by the name that it takes first: another one may become free later."""

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


def private_directory(name: str = "", base: str | None = None) -> Path:
    """Return this user's directory in the temporary directory, or the one of a name below it.

    It is ``penstock-UID``, of mode 0700; if that name is taken by another user, the first
    ``penstock-UID-*`` that is ours, else a new one. A process keeps the one that it has, as long as
    that is its own.

    Args:
        name: A directory below it, which is made.
        base: In place of the temporary directory (``TMPDIR``, else ``/tmp``).

    Raises:
        StorageError: The temporary directory cannot be written to, or another user can rename what
            is in it.
    """
    prefix = f"penstock-{os.geteuid()}"
    with _translated(base):
        above = Path(base or tempfile.gettempdir())
        _check_shared(above, "TMPDIR" if base is None else "RAY_TMPDIR")
        own = _chosen.get(above / prefix)
        if own is None or not _is_own(own):
            own = _own(above / prefix)
        if own is None:
            others = sorted(above.glob(f"{prefix}-*"))
            own = next((path for path in others if _is_own(path)), None)
        if own is None:
            own = Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=above))
        _chosen[above / prefix] = own
        if not name:
            return own
        below = own / name
        below.mkdir(mode=0o700, exist_ok=True)
        return below


@contextlib.contextmanager
def temporary_directory(prefix: str = "") -> Iterator[Path]:
    """Make a new directory in :func:`private_directory`, and delete it at the end.

    Raises:
        StorageError: It cannot be made, or there is no room for the files that are written there.
    """
    with tempfile.TemporaryDirectory(prefix=prefix, dir=private_directory()) as directory:
        try:
            yield Path(directory)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                raise
            raise StorageError(
                f"no room for temporary files ({error.strerror})",
                file=directory,
                fix="free some, or set TMPDIR to a directory with more, and run again",
            ) from error


_CACHES = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "TORCH_EXTENSIONS_DIR": "torch_extensions",
}
"""Variables that name where PyTorch, Triton and C++ extensions keep compiled code."""


def set_private_caches() -> None:
    """Set the caches of PyTorch, Triton and C++ extensions to this user's own directory.

    By default they are ``/tmp/torchinductor_NAME`` and ``/tmp/torch_extensions``, which another
    user can make first: PyTorch runs what it finds there, and its compiler cannot be imported where
    the first one is a file. Variables that are set already stay. Call it before the import.

    Raises:
        StorageError: As :func:`private_directory`.
    """
    for variable, name in _CACHES.items():
        if not os.environ.get(variable):
            os.environ[variable] = str(private_directory(name))


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


def _check_shared(path: Path, variable: str) -> None:
    """Check that no other user can rename what this user makes in a directory.

    Raises:
        StorageError: Another user owns it; or all users may write to it, or to one above it, and it
            has no sticky bit.
    """
    real = path.resolve()
    for directory in (real, *real.parents):
        status = directory.stat()
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            problem = "all users may write to it, and rename what is in it"
        elif directory == real and not is_trusted(status.st_uid):
            problem = f"belongs to another user ({status.st_uid}), who can rename what is in it"
        else:
            continue
        raise StorageError(
            problem,
            file=directory,
            expected="a directory of yours or of root, closed to others or with the sticky bit",
            got=f"mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}",
            fix=f"set {variable} to a directory of your own, such as one in your home",
        )


def is_trusted(owner: int) -> bool:
    """Return whether a user number is this user's or root's."""
    if owner in (0, os.geteuid()):
        return True
    # In a container of this user, root of the machine has no number of its own.
    with contextlib.suppress(OSError, ValueError):
        unmapped = int(Path("/proc/sys/kernel/overflowuid").read_text())
        mapped = Path("/proc/self/uid_map").read_text().split()
        return owner == unmapped and mapped != ["0", "0", "4294967295"]
    return False


def others_can_write(path: Path, owner: int) -> str | None:
    """Return why another user can put files into a directory, or replace it; None if none can.

    A group may write there: it is the user's own choice.

    Args:
        path: An existing directory.
        owner: A user number who may write there, too.
    """
    real = path.resolve()
    for directory in (real, *real.parents):
        status = directory.stat()
        if not is_trusted(status.st_uid) and status.st_uid != owner:
            return f"{directory} belongs to another user ({status.st_uid})"
        if status.st_mode & stat.S_IWOTH and (
            directory == real or not status.st_mode & stat.S_ISVTX
        ):
            return f"all users may write to {directory}"
    return None


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
