"""Directories in a work directory: made without following what another user put in their place.

Another user who may write to a work directory can make a name there before we do: a link to a
directory of ours, in which we would then write, and delete what no manifest names. So each
directory from the work directory to an artefact is made or looked at by itself. The work directory
may be a link, or lie below links: that is its user's own choice.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from penstock.errors import StorageError
from penstock.storage.local import make_directory
from penstock.storage.store import AnyPath, os_errors

__all__ = ["check_no_links", "check_own_place", "make_own_directory"]


def make_own_directory(root: AnyPath, path: AnyPath) -> None:
    """Make a directory below a work directory, and those between; a store has none.

    A link that this user or root made is followed: a stage may lie on another disk.

    Args:
        root: The work directory, which is made, too.
        path: The directory.

    Raises:
        StorageError: It cannot be made; or :func:`check_own_place` refuses it, or one between.
    """
    make_directory(root)
    if not (isinstance(root, Path) and isinstance(path, Path)):
        return
    check_own_place(root, path, make=True)


def check_own_place(root: Path, path: Path, make: bool = False) -> None:
    """Check that no other user put a directory, or one between a work directory and it, there.

    Args:
        root: The work directory.
        path: The directory, which may be missing.
        make: True to make what is missing.

    Raises:
        StorageError: One is a link or a directory of another user: neither this user's, nor
            root's, nor, for a directory, that of the user to whom the work directory belongs.
    """
    here = root
    with os_errors(path):
        for name in path.relative_to(root).parts:
            here = here / name
            if make:
                with contextlib.suppress(FileExistsError):
                    here.mkdir()
            try:
                found = here.lstat()
            except FileNotFoundError:
                return
            if stat.S_ISLNK(found.st_mode):
                if not _is_trusted(found.st_uid, root):
                    raise _planted(here, found)
                found = here.stat()
            if found.st_uid != root.stat().st_uid and not _is_trusted(found.st_uid, root):
                raise _planted(here, found)


def check_no_links(path: AnyPath) -> None:
    """Check that what lies in an unfinished artefact is neither a link nor another user's.

    A library follows a link that lies where it writes. A link of this user to a file is left alone.

    Args:
        path: Directory of the artefact.

    Raises:
        StorageError: There is a link to a directory, or a link or directory of another user.
    """
    if not isinstance(path, Path):
        return
    owner = path.stat().st_uid
    with os_errors(path):
        for directory, below, names in os.walk(path):
            for name in [*below, *names]:
                here = Path(directory, name)
                with contextlib.suppress(FileNotFoundError):  # renamed or deleted meanwhile
                    found = here.lstat()
                    link = stat.S_ISLNK(found.st_mode)
                    foreign = found.st_uid != owner and not _is_trusted(found.st_uid, path)
                    if (link and name in below) or (foreign and (link or name in below)):
                        raise _planted(here, found)


def _is_trusted(uid: int, directory: Path) -> bool:
    """Return whether a user is this one or root; some file systems show another as this one."""
    if uid in (0, os.geteuid()):
        return True
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            return os.fstat(probe.fileno()).st_uid == uid
    except OSError:
        return False


def _planted(path: Path, found: os.stat_result) -> StorageError:
    what = "a link" if stat.S_ISLNK(found.st_mode) else "a directory"
    return StorageError(
        f"{what} in the place of a directory of Penstock's",
        file=path,
        expected=f"a directory of user {os.geteuid()}",
        got=f"{what} of user {found.st_uid}",
        fix="see who else can write to the work directory; delete it, or give another `work`",
    )
