"""Input files as they were hashed: what is read later has to be the same file, unchanged.

A corpus is named by hashes of its inputs, and they are read after they were hashed. So every file
has its version: on a disk size, times of modification and change, and inode; in a store size and
entity tag. The version is compared before a file is read (:func:`as_hashed`), at the descriptor
that is read (:func:`open_local`, :func:`check_open`), so that no other file is put in its place
between the comparison and the reading, and at the path afterwards. The device is not compared: its
number differs between machines that mount the same file system. An inode alone may differ, too,
where a file system in user space numbers files anew; then the bytes are hashed again.

The library `datasets` opens the files of ``hf:`` itself; they are compared before and after.
"""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import InputError
from penstock.storage import AnyPath, FileVersion, store_of, version_of_status
from penstock.storage.remote import RemoteStore

__all__ = [
    "BLOCK_BYTES",
    "HashedFile",
    "as_hashed",
    "check_open",
    "expected_version",
    "hash_blocks",
    "open_local",
]

BLOCK_BYTES = 256 << 20
"""Bytes of a block; the hash of a file depends on it."""

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedFile:
    """A file of an input."""

    name: str
    """Name within a dataset; empty where the file is the input."""
    path: AnyPath
    version: FileVersion
    """Size in bytes, then values that change when the file does, before it was hashed."""
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
        inode_alone = isinstance(self.path, Path) and found[:-1] == self.version[:-1] != ()
        if not (inode_alone and self._digest() == self.digest):
            raise InputError("changed since its bytes were hashed", file=self.path, fix="run again")

    def _digest(self) -> str:
        size = int(self.version[0])
        starts = range(0, max(1, size), BLOCK_BYTES)
        texts = (hash_blocks(self.path, at, min(at + BLOCK_BYTES, size)) for at in starts)
        return hashlib.sha256("".join(texts).encode()).hexdigest()


def hash_blocks(path: AnyPath, start: int, end: int) -> str:
    """Return the sha256 of the bytes of a file from ``start`` to ``end``, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        left = end - start
        while left and (chunk := file.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()


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


def expected_version(path: AnyPath) -> FileVersion:
    """Return the version that a file must have; empty where it was not hashed."""
    file = _expected.get({}).get(str(path))
    return () if file is None else file.version


def check_open(path: AnyPath, file: Any, store: RemoteStore) -> None:
    """Compare a file of a store that was opened, by the entity tag of the request.

    Raises:
        InputError: It is another than was hashed.
    """
    if (expected := _expected.get({}).get(str(path))) is not None:
        expected.compare(store.version_of(file.details))


@contextlib.contextmanager
def open_local(path: Path) -> Iterator[bytes]:
    """Give a name, for Arrow to open, of a file that was compared at its descriptor.

    Raises:
        InputError: It is another than was hashed.
    """
    expected = _expected.get({}).get(str(path))
    if expected is None:
        yield os.fsencode(path)
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        expected.compare(version_of_status(os.fstat(descriptor)))
        again = f"/dev/fd/{descriptor}"  # the same file, whatever the path leads to by now
        yield os.fsencode(again if os.path.exists(again) else path)
    finally:
        os.close(descriptor)
