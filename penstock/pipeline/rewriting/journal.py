"""A journal of answers, written as they arrive, so that a killed run requests nothing twice.

On a disk each line is written to the operating system at once, so that a SIGKILL loses none. A
store takes whole objects only, so several answers share an object there. Every attempt at a unit
writes files of its own; an incomplete line at the end of one is ignored.
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

__all__ = ["AnswerJournal", "RequestKey", "journal_bytes"]

_JOURNAL = "journal"

_FLUSH_ANSWERS, _FLUSH_SECONDS = 32, 10.0
"""Answers, or seconds, after which answers are written to a store."""


@dataclass(frozen=True, slots=True)
class RequestKey:
    """Identifies a request of a unit, to which an answer belongs."""

    row: int
    """Row of the document in its unit."""
    index: int
    """Number of the request among those of its document."""
    digest: str
    """Digest of the request."""


class AnswerJournal:
    """The journal of one unit: reads the answers of earlier attempts, and appends new ones.

    Args:
        directory: Of the draft of the answers.
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
        self.answers: dict[RequestKey, Answer] = {}
        """All answers, those of earlier attempts included."""

    def __enter__(self) -> AnswerJournal:
        for name in sorted(files_under(self._directory)):
            for key, answer in _entries(read_file(self._directory / name)):
                self.answers.setdefault(key, answer)
        if not is_remote(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            path = self._directory / f"{self._attempt}.jsonl"
            self._file = self._stack.enter_context(open(path, "wb", buffering=0))
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            self._flush()

    def add(self, key: RequestKey, answer: Answer) -> None:
        """Append an answer."""
        self.answers[key] = answer
        content = json.dumps([asdict(key), asdict(answer)]).encode()
        line = b"%08x %s\n" % (zlib.crc32(content), content)
        if self._file is not None:
            self._file.write(line)
            return
        self._held.append(line)
        if len(self._held) >= _FLUSH_ANSWERS or time.monotonic() - self._since > _FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._held:
            name = f"{self._attempt}-{self._parts:06d}.jsonl"
            with atomic_file(self._directory / name) as sink:
                sink.write(b"".join(self._held))
            self._parts += 1
            self._held = []
        self._since = time.monotonic()


def journal_bytes(directory: AnyPath) -> int:
    """Add up the sizes of the journals in a draft of answers."""
    return sum(sizes_under(directory / _JOURNAL).values())


def _entries(content: bytes) -> Iterator[tuple[RequestKey, Answer]]:
    """Read the lines of a file up to the first incomplete one."""
    for line in content.split(b"\n")[:-1]:
        crc, _, body = line.partition(b" ")
        if crc != b"%08x" % zlib.crc32(body):
            return
        key, answer = json.loads(body)
        yield RequestKey(**key), Answer(**answer)
