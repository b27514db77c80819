"""Open files that the user named, in directories where others may have put links.

A link that another user put into a directory of inputs would have a file of ours read that he
cannot read himself, and its text would go into a corpus. Linux refuses such links in ``/tmp``
(``protected_symlinks``) and nowhere else. Here every link on the way to a file must be this user's,
root's, or of the owner of what it leads to; or everybody can read what it leads to. That holds for
links in the path that was named, in what they lead to, and for those that replace a directory or a
file between its listing and its opening: a path with links is resolved name by name, each relative
to the directory that was opened before, so that the link that is looked at is the one that is
followed, and the owner is that of the file that is open.

A hard link shows no maker. Linux lets only those make one who can read and write the file, or own
it (``protected_hardlinks``); where it does not, a private file with several names is refused in a
directory in which another user can have made one of them.

A pipe, a socket or a device is never waited for. Libraries that open files by path
(``datasets``, transformers) are given what :func:`check_links` has looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from penstock.errors import InputError, StorageError
from penstock.temporary import is_trusted

__all__ = ["check_links", "check_links_below", "open_plain", "read_plain", "walk_checked"]

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

_FIND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_MOST_LINKS = 40
"""Links on the way to a file, as for Linux."""


def open_plain(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a file to read its bytes.

    Raises:
        InputError: Another user made a link to it.
        StorageError: It is neither a file nor a directory.
        OSError: It is a directory, or cannot be opened.
    """
    name = _absolute(path)
    number = os.open(name, _READ)
    if not _has_one_name(number, name):
        os.close(number)
        number = _opened(name, _READ)
    try:
        status = os.fstat(number)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(
                file=path,
                expected="a file",
                got="a special file",
                fix="remove it, or write it to a file",
            )
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_plain(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file; raises as :func:`open_plain`."""
    with open_plain(path) as file:
        return file.read()


def check_links(path: str | os.PathLike[str]) -> None:
    """Check the links on the way to a file or a directory, and nothing where it is missing.

    Raises:
        InputError: Another user made one of them.
    """
    try:
        os.close(_opened(_absolute(path), os.O_PATH | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise


def check_links_below(directory: Path) -> None:
    """Check the links to a directory and all that lie below it.

    Raises:
        InputError: Another user made one of them.
    """
    for _ in walk_checked(directory):
        pass


def walk_checked(directory: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk a directory as :func:`os.walk`, also where links lead to, into each directory once.

    Links among the names that the caller leaves in the two lists are checked.

    Raises:
        InputError: Another user made one of them.
    """
    check_links(directory)
    seen = set()
    for here, below, names in os.walk(directory, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield here, below, names
        for name in (*below, *names):
            if os.path.islink(path := os.path.join(here, name)):
                check_links(path)


def _absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path; ``..`` is left, since it may come after a link."""
    return os.path.join(os.getcwd(), path) if not os.path.isabs(path) else os.fspath(path)


def _has_one_name(number: int, name: str) -> bool:
    """Return whether an open file lies at a path without links, and has no other names."""
    status = os.fstat(number)
    try:
        at = os.readlink(f"/proc/self/fd/{number}")
    except OSError:  # no /proc
        return False
    return at == os.path.normpath(name) and (status.st_nlink == 1 or stat.S_ISDIR(status.st_mode))


def _opened(name: str, flags: int) -> int:
    """Open a file by an absolute path, name by name; raises as :func:`open_plain`."""
    way = _Way(name)
    try:
        number = way.open(flags)
        try:
            way.check(number)
        except BaseException:
            os.close(number)
            raise
        return number
    finally:
        way.close()


@dataclass(slots=True)
class _Way:
    """The way to a file, name by name."""

    path: str
    """Absolute."""
    links: list[tuple[str, int, bool]] = field(default_factory=list)
    """The links that were followed, their owners, and whether they are hard links which others than
    these may have made."""
    _here: int = -1
    """The open directory in which the last name was looked up."""

    def open(self, flags: int) -> int:
        """Open the file at the end; the last name is no link.

        Raises:
            OSError: There is none, or it cannot be opened.
        """
        left = self.path.split("/")[::-1]
        self._enter("/")
        at = ""
        while left:
            name = left.pop()
            if name in ("", "."):
                continue
            if any(one not in ("", ".") for one in left):
                try:
                    self._enter(name)
                    at = f"{at}/{name}"
                    continue
                except NotADirectoryError:  # a link, or a file
                    pass
            number = os.open(name, _FIND, dir_fd=self._here)
            try:
                status = os.fstat(number)
                if not stat.S_ISLNK(status.st_mode):
                    if any(one not in ("", ".") for one in left):
                        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), at)
                    return os.open(name, flags | os.O_NOFOLLOW, dir_fd=self._here)
                # A link with several names may be one of ours that another user linked to.
                made_by_him = status.st_nlink > 1 and self._others_can_link(status.st_uid)
                owner = os.fstat(self._here).st_uid if made_by_him else status.st_uid
                self.links.append((f"{at}/{name}", owner, made_by_him))
                target = os.readlink("", dir_fd=number)
            finally:
                os.close(number)
            if len(self.links) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
            if target.startswith("/"):
                self._enter("/")
                at = ""
            left += target.split("/")[::-1]
        return os.open(".", flags, dir_fd=self._here)  # "/", or a link that ends in "."

    def check(self, number: int) -> None:
        """Check the links that lead to an open file, and its names.

        Raises:
            InputError: Another user made one.
        """
        status = os.fstat(number)
        strange = [
            (link, owner)
            for link, owner, hard in self.links
            if hard or not (is_trusted(owner) or owner == status.st_uid)
        ]
        if strange and not self._is_public(status):
            link, owner = strange[0]
            raise InputError(
                "a link that another user made to a file which he may not be able to read",
                file=link,
                expected="a link of yours, of root, or of the owner of what it leads to",
                got=f"a link of user {owner} to what belongs to user {status.st_uid}",
                fix="remove the link, or name in its place what it leads to",
            )
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            self._check_names(status)

    def close(self) -> None:
        if self._here >= 0:
            os.close(self._here)

    def _enter(self, name: str) -> None:
        # O_DIRECTORY mounts what is mounted on demand; a link is then no directory.
        flags = _FIND | os.O_DIRECTORY
        number = os.open(name, flags, dir_fd=None if name == "/" else self._here)
        self.close()
        self._here = number

    def _is_public(self, status: os.stat_result) -> bool:
        """Return whether all users can read the file, in a directory that all can reach."""
        directory = stat.S_ISDIR(status.st_mode)
        wanted = stat.S_IROTH | (stat.S_IXOTH if directory else 0)
        # /proc has empty files, whose text depends on who reads it.
        if status.st_mode & wanted != wanted or not (directory or status.st_size):
            return False
        above = os.fstat(self._here)
        number = os.dup(self._here)
        try:
            while True:
                if not above.st_mode & stat.S_IXOTH:
                    return False
                higher = os.open("..", _FIND | os.O_DIRECTORY, dir_fd=number)
                os.close(number)
                number, below = higher, above
                above = os.fstat(number)
                if os.path.samestat(above, below):
                    return True
        finally:
            os.close(number)

    def _others_can_link(self, owner: int) -> bool:
        """Return whether others can make a hard link here to what a user owns."""
        if _hard_links_are_protected():
            return False
        above = os.fstat(self._here)
        own = is_trusted(above.st_uid) or above.st_uid == owner
        return not own or bool(above.st_mode & stat.S_IWOTH)

    def _check_names(self, status: os.stat_result) -> None:
        """Check that no other user can have made one more name of a private file.

        Raises:
            InputError: He can have.
        """
        if status.st_mode & stat.S_IROTH or not self._others_can_link(status.st_uid):
            return
        above = os.fstat(self._here)
        raise InputError(
            "a private file with several names (hard links), of which another user may have made "
            "this one",
            file=self.path,
            expected="a directory to which only you, root or the owner of the file can write",
            got=f"one of user {above.st_uid}, mode {stat.S_IMODE(above.st_mode):04o}, with a file "
            f"of user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            fix="remove this name, or copy the file to a directory of your own",
        )


def _hard_links_are_protected() -> bool:
    try:
        return Path("/proc/sys/fs/protected_hardlinks").read_text().strip() == "1"
    except OSError:
        return False
