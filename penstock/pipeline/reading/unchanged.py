"""Input files as they were hashed: what is read later has to be the same file, unchanged.

A corpus is named by hashes of its inputs, and they are read after they were hashed. So every file
has its version: on a disk size, times of modification and change, and inode; in a store size and
entity tag. A hash is kept with the version at the descriptor that was hashed, the same before and
after (:func:`hash_block`). The version is compared before a file is read (:func:`as_hashed`), at
the descriptor that is read (:func:`open_input`), so that no other file is put
in its place between the comparison and the reading, and at the path afterwards. The device is not
compared: its number differs between machines that mount the same file system. An inode alone may
differ, too, where a file system in user space numbers files anew; then the bytes are hashed again.

The library `datasets` opens the files of ``hf:`` itself; they are compared before and after.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from penstock.errors import InputError
from penstock.node_cache import local_file
from penstock.storage import AnyPath, FileVersion, sha256_of_version, store_of

__all__ = [
    "BLOCK_BYTES",
    "HashedFile",
    "as_hashed",
    "hash_block",
    "joined",
    "local_copy",
    "open_input",
    "open_local",
]

BLOCK_BYTES = 256 << 20
"""Bytes of a block; the hash of a file depends on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedFile:
    """A file of an input."""

    name: str
    """Name within a dataset; empty where the file is the input."""
    path: AnyPath
    version: FileVersion
    """Size in bytes, then values that change when the file does, as it was hashed."""
    digest: str
    """The sha256 over the sha256 of its blocks: 64 hexadecimal digits."""

    def check(self) -> None:
        """Compare the file at the path.

        Raises:
            InputError: It is another, or was changed.
        """
        self.compare(store_of(self.path).version(self.path))

    def compare(self, found: FileVersion) -> None:
        """Compare the version of a file that was opened, or is at the path.

        Raises:
            InputError: It is another file, or it was changed.
        """
        if found == self.version:
            return
        if not (_inode_alone(self.path, found, self.version) and self._digest() == self.digest):
            raise InputError("changed since its bytes were hashed", file=self.path, fix="run again")

    def check_copy(self, copy: Path) -> None:
        """Compare the bytes of a copy: of an object it was made by its name, not by its tag.

        Raises:
            InputError: They are others than were hashed.
        """
        if replace(self, path=copy, version=store_of(copy).version(copy))._digest() != self.digest:
            raise InputError("changed since its bytes were hashed", file=self.path, fix="run again")

    def _digest(self) -> str:
        size = int(self.version[0])
        starts = range(0, max(1, size), BLOCK_BYTES)
        ends = (min(at + BLOCK_BYTES, size) for at in starts)
        blocks = [hash_block(self.path, self.version, *block) for block in zip(starts, ends)]
        return joined(blocks)[0]


def _inode_alone(path: AnyPath, found: FileVersion, expected: FileVersion) -> bool:
    return isinstance(path, Path) and found[:-1] == expected[:-1] != ()


def hash_block(
    path: AnyPath, version: FileVersion, start: int, end: int
) -> tuple[str, FileVersion]:
    """Hash the bytes of a file from ``start`` to ``end``, which has a version or an inode anew.

    Returns:
        The sha256 in hexadecimal, and the version of the file that was opened.

    Raises:
        InputError: The file that was opened is another than was found, or it changed meanwhile.
    """
    digest, found = sha256_of_version(path, start, end)
    if found != version and not _inode_alone(path, found, version):
        raise InputError("changed while its bytes were hashed", file=path, fix="run again")
    return digest, found


def joined(blocks: Sequence[tuple[str, FileVersion]]) -> tuple[str, FileVersion]:
    """Return the hash and the version of a file, whose blocks were hashed one by one.

    Where blocks are of files with several inodes, that of the version is -1, which no file has:
    then the bytes are compared whenever the file is read.
    """
    digest = hashlib.sha256("".join(text for text, _ in blocks).encode()).hexdigest()
    (_, version), *others = blocks
    same = all(found == version for _, found in others)
    return digest, version if same else (*version[:-1], -1)


_expected: contextvars.ContextVar[Mapping[str, HashedFile]] = contextvars.ContextVar("expected")
"""The files that are read now, by path; none in the reading of files without a hash."""


@contextlib.contextmanager
def as_hashed(files: Sequence[HashedFile]) -> Iterator[None]:
    """Check files before and after the block, and each at the descriptor by which it is read.

    Raises:
        InputError: One is another than was hashed, or was changed.
    """
    for file in files:
        file.check()
    token = _expected.set({str(file.path): file for file in files})
    try:
        yield
    except InputError:
        for file in files:  # a file that changes as it is read is damaged for its reader
            file.check()
        raise
    finally:
        _expected.reset(token)
    for file in files:
        file.check()


def local_copy(path: AnyPath) -> Path:
    """Return a local path of a file: its own, or that of its copy on this node.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It is another than was hashed, or changed while it was copied.
    """
    file = _expected.get({}).get(str(path))
    return (
        local_file(path) if file is None else local_file(path, None, file.version, file.check_copy)
    )


def open_input(path: AnyPath) -> IO[bytes]:
    """Open a file, and compare it at its descriptor, or by the entity tag of the request.

    Raises:
        InputError: It is another than was hashed, or another user made a link to it.
    """
    store = store_of(path)
    file = store.open(path)
    if (expected := _expected.get({}).get(str(path))) is not None:
        try:
            expected.compare(store.version_of_open(file))
        except BaseException:
            file.close()
            raise
    return file


@contextlib.contextmanager
def open_local(path: Path) -> Iterator[bytes]:
    """Give a name, for Arrow to open, of a file that :func:`open_input` opened.

    Raises:
        InputError: As :func:`open_input`.
    """
    with open_input(path) as file:
        again = f"/dev/fd/{file.fileno()}"  # the same file, whatever the path leads to by now
        yield os.fsencode(again if os.path.exists(again) else path)
