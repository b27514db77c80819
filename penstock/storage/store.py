"""The protocol of a store, and the file that is being written to one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from penstock.storage.paths import AnyPath

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FileVersion", "Sink", "Store"]

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


class Store(Protocol):
    """A place for files. Every method takes the full path of a file or directory in it.

    A method raises :class:`~penstock.errors.StorageError` where the store is full, read-only,
    unreachable or denied, and FileNotFoundError where the file to read does not exist.
    """

    requests: int
    """Requests to have under way at a time: 1 where each is fast, more where each waits for a
    network."""
    keeps_checksums: bool
    """True if the store keeps checksums of its files, so that names and sizes suffice to check
    files before they are read."""
    parquet: dict[str, Any]
    """Options of ``pyarrow.parquet.ParquetFile`` for the few large or many small reads that suit
    the store."""

    def read(self, path: AnyPath) -> bytes:
        """Return a small file's bytes, as they were at one moment."""

    def read_ranges(self, path: AnyPath, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of a file from each start up to its end."""

    def open(self, path: AnyPath) -> pa.NativeFile:
        """Open a file for Arrow, which reads ranges of it."""

    def put(self, path: AnyPath, durable: bool = True) -> AbstractContextManager[Sink]:
        """Write a file that appears whole at the end of the block, or not at all.

        ``durable``: whether the file must survive a power loss; scratch need not.
        """

    def create(self, path: AnyPath, data: bytes) -> bool:
        """Write a small file that does not exist yet; return False, and do nothing, if it does.

        Of several writers exactly one gets True.
        """

    def replace(self, path: AnyPath, old: bytes, new: bytes) -> bool:
        """Replace a small file if its bytes are still ``old``; return whether it holds ``new``.

        Of several writers that replace the same ``old`` by different bytes, exactly one gets True.
        """

    def list(
        self, path: AnyPath, enter: Callable[[str], bool] = lambda name: True
    ) -> dict[str, int]:
        """Return the bytes of all files below a directory by their names relative to it, sorted.

        Names have forward slashes. ``enter`` is called with the relative name of a directory;
        where it returns False, the files below that directory are left out.
        """

    def match(self, pattern: AnyPath) -> Sequence[AnyPath]:
        """Return the files that match a pattern (``*``, ``**``, ``?``, ``[]``), in any order.

        Links to files that do not exist are among them: opening one raises FileNotFoundError.
        """

    def kind(self, path: AnyPath) -> str | None:
        """Return ``file``, ``directory``, or None where there is neither."""

    def version(self, path: AnyPath) -> FileVersion:
        """Return the size of a plain file and what changes when it does."""

    def delete(self, path: AnyPath) -> None:
        """Delete a file, or a directory with all below it, if there is one."""

    def copy(self, path: AnyPath, target: Path) -> None:
        """Copy a file to this machine."""

    def local(self, path: AnyPath) -> Path | None:
        """Return the path by which the operating system can open, map and append to a file; None
        where it has to be copied first."""

    def errors(self, path: AnyPath) -> AbstractContextManager[None]:
        """Raise errors of the operating system and of the store as StorageError with a fix."""

    def is_temporary(self, error: BaseException) -> bool:
        """Return whether an error of the store's client may pass within seconds."""
