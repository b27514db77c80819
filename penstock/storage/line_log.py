"""Lines that survive a kill: a log in a directory, of one file or several for each writer.

Locally a line is given to the operating system at once, which no SIGKILL undoes. A store takes
whole files only, so there 32 lines, or those of 10 s, go together. Every writer has files of its
own; a line that was torn at the end of one has to be found by its reader.
"""

from __future__ import annotations

import time
import uuid
from contextlib import ExitStack
from typing import Any

from penstock.storage.files import atomic_file, files_under, make_directory, read_file
from penstock.storage.paths import AnyPath
from penstock.storage.registry import store_of

__all__ = ["LineLog"]

_LINES, _SECONDS = 32, 10.0
"""Lines, or seconds, by which a store may be behind."""


class LineLog:
    """A log of lines in a directory, open for writing within a ``with`` block.

    Args:
        directory: Directory of the log, with no other files in it.
    """

    def __init__(self, directory: AnyPath) -> None:
        self._directory = directory
        self._writer = uuid.uuid4().hex[:12]
        self._parts = 0
        self._held: list[bytes] = []
        self._since = time.monotonic()
        self._file: Any = None
        self._stack = ExitStack()

    def read(self) -> list[bytes]:
        """Return the contents of all files of earlier writers, by name."""
        return [read_file(self._directory / name) for name in files_under(self._directory)]

    def __enter__(self) -> LineLog:
        path = store_of(self._directory).local(self._directory / f"{self._writer}.jsonl")
        if path is not None:
            make_directory(self._directory)
            self._file = self._stack.enter_context(open(path, "wb", buffering=0))
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self._flush()

    def add(self, line: bytes) -> None:
        """Write a line, which ends with a newline."""
        if self._file is not None:
            self._file.write(line)
            return
        self._held.append(line)
        if len(self._held) >= _LINES or time.monotonic() - self._since > _SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            name = f"{self._writer}-{self._parts:06d}.jsonl"
            with atomic_file(self._directory / name) as sink:
                sink.write(b"".join(self._held))
            self._parts += 1
            self._held = []
        self._since = time.monotonic()
