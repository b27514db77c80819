"""A journal of answers, written as they arrive, so that a killed run requests nothing twice.

An incomplete line at the end of a file of an earlier attempt is ignored; see
:class:`penstock.storage.LineLog`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from penstock.selectors.rewriting.base import Answer
from penstock.storage import AnyPath, LineLog, sizes_under

__all__ = ["AnswerJournal", "RequestKey", "journal_bytes"]

_JOURNAL = "journal"


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
        directory: Directory of the draft of the answers.
        unit: Name of the unit.
    """

    def __init__(self, directory: AnyPath, unit: str) -> None:
        self._log = LineLog(directory / _JOURNAL / unit)
        self.answers: dict[RequestKey, Answer] = {}
        """All answers, those of earlier attempts included."""

    def __enter__(self) -> AnswerJournal:
        for content in self._log.read():
            for key, answer in _entries(content):
                self.answers.setdefault(key, answer)
        self._log.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._log.__exit__(*error)

    def add(self, key: RequestKey, answer: Answer) -> None:
        """Append an answer."""
        self.answers[key] = answer
        content = json.dumps([asdict(key), asdict(answer)]).encode()
        self._log.add(b"%08x %s\n" % (zlib.crc32(content), content))


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
