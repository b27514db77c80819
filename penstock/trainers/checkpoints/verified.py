"""The files of a checkpoint, each compared with its record on the very bytes that are then read.

A checkpoint lies in a work directory that others may be able to write. Between a comparison of a
file and its unpickling, another user could put another file in its place. So a file is opened once,
copied to a file without a name, and what is read is the copy, once it was compared: somebody may
hold the file open for writing since before its mode was set.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from penstock.artefact import FileRecord
from penstock.errors import ArtefactError
from penstock.storage import translate_os_errors

__all__ = ["VerifiedFiles"]

_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class VerifiedFiles:
    """The only files that a back end may read when a run resumes.

    Args:
        directory: The checkpoint's.
        sha256: Of each file, by absolute path.
    """

    directory: Path
    sha256: dict[str, str]

    @classmethod
    def of(cls, directory: Path, records: Iterable[FileRecord]) -> VerifiedFiles:
        """Return the files that a checkpoint's manifest names."""
        return cls(directory, {_key(directory / one.path): one.sha256 for one in records})

    def adding(self, sha256: dict[str, str]) -> VerifiedFiles:
        """Return these files and others, such as those of a conversion."""
        return replace(self, sha256={**self.sha256, **sha256})

    def names(self, directory: Path | None = None) -> list[str]:
        """Return the paths of the files below a directory, relative to it, sorted."""
        top = _key(directory or self.directory) + os.sep
        return sorted(path[len(top) :] for path in self.sha256 if path.startswith(top))

    @contextlib.contextmanager
    def opened(self, path: Path) -> Iterator[IO[bytes]]:
        """Open a file whose bytes are those that were recorded.

        Yields:
            The file, from its first byte. ``/dev/fd/N`` with its descriptor opens the same bytes.

        Raises:
            ArtefactError: It is not recorded, is missing, or was changed.
            StorageError: There is no space for the copy.
        """
        expected = self.sha256.get(_key(path))
        if expected is None:
            raise ArtefactError(
                "is not in the checkpoint's manifest, and not read", file=path, fix="delete it"
            )
        with contextlib.ExitStack() as stack:
            try:
                # A pipe in its place would wait for a writer.
                number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                source: IO[bytes] = stack.enter_context(open(number, "rb"))
            except OSError as error:
                raise ArtefactError(
                    f"cannot be read ({error.strerror})", file=path, expected="a file"
                ) from None
            found = os.fstat(number)
            digest = hashlib.sha256()
            with translate_os_errors(self.directory):
                copy = stack.enter_context(tempfile.TemporaryFile(dir=self.directory.parent))
                while stat.S_ISREG(found.st_mode) and (block := source.read(_BLOCK)):
                    digest.update(block)
                    copy.write(block)
                copy.flush()
            if digest.hexdigest() != expected:
                raise ArtefactError(
                    "changed since it was written",
                    file=path,
                    expected=f"sha256 {expected}",
                    got=digest.hexdigest(),
                    fix="run again: the checkpoint before it is then used",
                )
            copy.seek(0)
            yield copy

    def read(self, path: Path) -> bytes:
        """Return the bytes of a small file.

        Raises:
            ArtefactError: As :meth:`opened`.
        """
        with self.opened(path) as source:
            return source.read()


def _key(path: Any) -> str:
    return os.path.abspath(path)
