"""Files in a directory of this machine, or of a file system that it has mounted."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar

from penstock.errors import StorageError
from penstock.opening import open_plain, read_plain
from penstock.storage.locks import LOCK, lock_beside, remove_lock
from penstock.storage.store import (
    DANGLING,
    DIRECTORY,
    FILE,
    SPECIAL,
    AnyPath,
    Child,
    FileVersion,
    Sink,
    os_errors,
)

__all__ = [
    "LocalStore",
    "find_temporaries",
    "link_file",
    "make_directory",
    "new_file_status",
    "open_file",
    "remove_empty_directories",
    "sync_directory",
    "temporary_target",
    "version_of_status",
]


class LocalStore:
    """A directory. A file is written beside its path, synced and renamed."""

    requests = 1
    keeps_checksums = False

    parquet: ClassVar[dict[str, Any]] = {"buffer_size": 1 << 20}  # page by page

    def read(self, path: AnyPath) -> bytes:
        return read_plain(str(path))

    def open(self, path: AnyPath) -> IO[bytes]:
        return open_file(path)

    def read_ranges(self, path: AnyPath, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        found = []
        with open_file(path) as file:
            for start, end in ranges:
                file.seek(start)
                found.append(file.read(end - start))
        return found

    @contextlib.contextmanager
    def put(self, path: AnyPath, durable: bool = True) -> Iterator[Sink]:
        with os_errors(path):
            temporary = _beside(path)
            try:
                with open(temporary, "xb") as file:
                    yield Sink(file)
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                os.replace(temporary, str(path))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            if durable:
                sync_directory(temporary.parent)

    def create(self, path: AnyPath, data: bytes) -> bool:
        """Create a file; of several writers exactly one gets True, since only one can hard-link."""
        with os_errors(path), _written_beside(path, data) as temporary:
            try:
                os.link(temporary, str(path))
            except FileExistsError:
                return False
        sync_directory(temporary.parent)
        return True

    def replace(self, path: AnyPath, old: bytes, new: bytes) -> bool:
        """Replace a file if its bytes are ``old``; of several writers exactly one gets True.

        That holds even if writers are killed. A lock beside the file (``locks.py``) is held while
        it is compared and renamed over; it ends with its process. Where the file system has no
        locks (Lustre without ``-o flock``), two writers between comparison and renaming may both
        get True, and the later one's bytes stay.

        Raises:
            StorageError: As :func:`penstock.storage.locks.lock_beside`.
        """
        with os_errors(path), _written_beside(path, new) as temporary:
            try:
                with lock_beside(path):
                    if read_plain(str(path)) != old:
                        return False
                    os.replace(temporary, str(path))
            except FileNotFoundError:
                return False
        sync_directory(temporary.parent)
        return True

    def list(
        self, path: AnyPath, enter: Callable[[str], bool] = lambda name: True
    ) -> dict[str, int]:
        sizes = {}
        top = str(path)
        for directory, below, names in os.walk(top, onerror=_raise_unless_gone):
            prefix = "" if directory == top else f"{os.path.relpath(directory, top)}/"
            below[:] = [name for name in below if enter(prefix + name)]
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # it was renamed or deleted meanwhile
                    status = os.stat(os.path.join(directory, name))
                    if stat.S_ISREG(status.st_mode):
                        sizes[prefix + name] = status.st_size
        return dict(sorted(sizes.items()))

    def children(self, path: AnyPath) -> Sequence[Child]:
        with os.scandir(str(path)) as entries:
            found = [_child(entry.name, entry.path, entry.is_symlink()) for entry in entries]
        return sorted(child for child in found if child is not None)

    def child(self, path: AnyPath) -> Child | None:
        name = str(path)
        return _child(path.name, name, os.path.islink(name))

    def match(self, pattern: AnyPath) -> Sequence[AnyPath]:
        found = map(Path, glob.glob(str(pattern), recursive=True))
        return [path for path in found if path.is_file() or not path.exists()]

    def kind(self, path: AnyPath) -> str | None:
        return "file" if path.is_file() else "directory" if path.is_dir() else None

    def version(self, path: AnyPath) -> FileVersion:
        """Return size, times of modification and change, and inode.

        A copy may keep the first time; the second may be equal of files that are written within a
        few milliseconds.
        """
        try:
            return version_of_status(os.stat(str(path)))
        except FileNotFoundError:
            return ()

    def version_of_open(self, file: Any) -> FileVersion:
        """Return the version of an open file, whatever its path leads to by now."""
        return version_of_status(os.fstat(file.fileno()))

    def delete(self, path: AnyPath) -> None:
        """Delete a file or a directory; a lock that a process holds stays."""
        if LOCK.fullmatch(path.name):
            remove_lock(Path(str(path)))
            return
        with contextlib.suppress(FileNotFoundError):
            if path.is_dir():
                shutil.rmtree(Path(str(path)))
            else:
                path.unlink()

    def copy(self, path: AnyPath, target: Path) -> None:
        shutil.copyfile(str(path), target)

    def local(self, path: AnyPath) -> Path | None:
        return path if isinstance(path, Path) else None

    def errors(self, path: AnyPath) -> contextlib.AbstractContextManager[None]:
        return os_errors(path)

    def is_temporary(self, error: BaseException) -> bool:
        return False


def open_file(path: AnyPath) -> IO[bytes]:
    """Open a file to read it; raises as :func:`penstock.opening.open_plain`."""
    return open_plain(str(path))


def version_of_status(status: os.stat_result) -> FileVersion:
    """Return the version of a file by its status, as :meth:`LocalStore.version`."""
    if not stat.S_ISREG(status.st_mode):
        return ()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _child(name: str, path: str, link: bool) -> Child | None:
    """Describe an entry of a directory; None where it was deleted meanwhile."""
    try:
        status = os.stat(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise
        return Child(name, DANGLING, link) if link else None
    if stat.S_ISDIR(status.st_mode):
        return Child(name, DIRECTORY, link)
    if not stat.S_ISREG(status.st_mode):
        return Child(name, SPECIAL, link)
    twin = (status.st_dev, status.st_ino) if status.st_nlink > 1 else None
    return Child(name, FILE, link, twin)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
        raise error


def make_directory(path: AnyPath) -> None:
    """Make a directory and those above it, if they do not exist; a store has none.

    Raises:
        StorageError: The directory cannot be made.
    """
    if not isinstance(path, Path):
        return
    with os_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # as in /proc
            raise StorageError(
                f"no directory can be made there ({error})", file=path, fix="give another `work`"
            ) from error


def _beside(path: AnyPath) -> Path:
    """Return the path of a temporary file in the directory of ``path``, which is made."""
    directory = Path(str(path.parent))
    make_directory(directory)
    return directory / f".{path.name}.{uuid.uuid4().hex}.tmp"


@contextlib.contextmanager
def _written_beside(path: AnyPath, data: bytes) -> Iterator[Path]:
    """Write and sync a temporary file in the directory of ``path``; delete it at the end."""
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def link_file(source: Path, path: Path) -> bool:
    """Hard-link a file, in place of one at ``path``; return False where that cannot be done.

    That is between file systems, on one without links, and at the most links of a file.
    """
    with os_errors(path):
        temporary = _beside(path)
        try:
            os.link(source, temporary)
        except OSError:
            return False
        # A rename does nothing, and leaves its source, where both are links to one file.
        os.replace(temporary, path)
        temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    return True


_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{32}\.tmp", re.DOTALL)


def find_temporaries(path: AnyPath, deep: bool = True) -> list[AnyPath]:
    """Return the temporary files of writers, which may be at work; a store has none.

    Args:
        path: A directory.
        deep: True to return those in the directories below it, too.
    """
    if not isinstance(path, Path):
        return []
    found = (path.rglob if deep else path.glob)(".*.tmp")
    return [file for file in found if _TEMPORARY.fullmatch(file.name)]


def temporary_target(name: str) -> str | None:
    """Return the name of the file that a temporary file becomes; None for other files.

    Args:
        name: Name relative to any directory, with forward slashes.
    """
    directory, slash, last = name.rpartition("/")
    found = _TEMPORARY.fullmatch(last)
    return directory + slash + found[1] if found else None


def new_file_status(directory: Path) -> os.stat_result:
    """Return owner and mode of a file that a process makes in a directory now.

    The mode is 0666 without the umask; the owner may be another user's, as a file system shows it.
    A file is made and removed: reading the umask would change it for other threads.

    Raises:
        OSError: No file can be made there.
    """
    path = directory / f".{uuid.uuid4().hex}"
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return os.fstat(number)
    finally:
        os.close(number)
        os.unlink(path)


def remove_empty_directories(path: AnyPath) -> None:
    """Delete the empty directories below ``path``; a store has none."""
    for found in sorted(path.rglob("*"), reverse=True) if isinstance(path, Path) else ():
        if found.is_dir() and not any(found.iterdir()):
            found.rmdir()


def sync_directory(path: Path) -> None:
    """fsync a directory, so that renames in it survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
