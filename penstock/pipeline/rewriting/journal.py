"""Answers written down as they come, so that a run that was killed asks nothing twice.

Locally a line is handed to the system as soon as it is there, which no SIGKILL undoes. A store
takes whole objects only, so there a few answers go together. Every attempt at a unit writes files
of its own; what was torn at the end of one is left out when they are read.
"""

from __future__ import annotations

import json
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import BinaryIO

from penstock.selectors.rewriting.base import Answer
from penstock.storage import AnyPath, atomic_file, files_under, is_remote, read_file, sizes_under

__all__ = ["Asked", "Journal", "journalled"]

_JOURNAL = "journal"

_TOGETHER, _SECONDS = 32, 10.0
"""Answers, or seconds, that a store may be behind."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which request of a unit: what an answer belongs to."""

    row: int
    """Of the document in its unit."""
    index: int
    """Of the request among its document's."""
    digest: str
    """Of the request itself."""


class Journal:
    """The answers of one unit, open for more.

    Args:
        directory: Of the answers in the making.
        unit: Name of the unit.
    """

    def __init__(self, directory: AnyPath, unit: str) -> None:
        self._directory = directory / _JOURNAL / unit
        self._attempt = uuid.uuid4().hex[:12]
        self._parts = 0
        self._held: list[bytes] = []
        self._since = time.monotonic()
        self._file: BinaryIO | None = None
        self._stack = ExitStack()
        self.answers: dict[Asked, Answer] = {}
        """All that are known, of earlier attempts too."""

    def __enter__(self) -> Journal:
        for name in sorted(files_under(self._directory)):
            for asked, answer in _entries(read_file(self._directory / name)):
                self.answers.setdefault(asked, answer)
        if not is_remote(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{self._attempt}.jsonl"
            self._file = self._stack.enter_context(open(path, "wb", buffering=0))
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self._flush()

    def add(self, asked: Asked, answer: Answer) -> None:
        """Write an answer down."""
        self.answers[asked] = answer
        content = json.dumps([asdict(asked), asdict(answer)]).encode()
        line = b"%08x %s\n" % (zlib.crc32(content), content)
        if self._file is not None:
            self._file.write(line)
            return
        self._held.append(line)
        if len(self._held) >= _TOGETHER or time.monotonic() - self._since > _SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            name = f"{self._attempt}-{self._parts:06d}.jsonl"
            with atomic_file(self._directory / name) as sink:
                sink.write(b"".join(self._held))
            self._parts += 1
            self._held = []
        self._since = time.monotonic()


def journalled(directory: AnyPath) -> int:
    """Bytes of the journals of answers in the making."""
    return sum(sizes_under(directory / _JOURNAL).values())


def _entries(content: bytes) -> Iterator[tuple[Asked, Answer]]:
    """The whole lines of a file, up to the first that is torn."""
    for line in content.split(b"\n")[:-1]:
        crc, _, body = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(body):
            return
        asked, answer = json.loads(body)
        yield Asked(**asked), Answer(**answer)
