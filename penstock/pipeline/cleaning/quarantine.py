"""Files of bad records, with the error and the bytes of each."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

from penstock.artefact import Artefact, FileRecord
from penstock.pipeline.reading.records import Bad
from penstock.storage import AnyPath, atomic_file, open_file

__all__ = ["FirstError", "Quarantine", "first_error", "quarantined_by_file", "raw_text"]

_COUNTED, _COUNTED_BYTES = 100_000, 2**26
"""Records and bytes of a quarantine after which it is not counted on by file: a second."""


class Quarantine:
    """Writes the file of a part's bad records, as JSON lines; no file where there are none."""

    def __init__(self, directory: AnyPath, part: str) -> None:
        self.count = 0
        self._name = f"quarantine-{part}.jsonl"
        self._directory = directory
        self._stack = ExitStack()
        self._sink: Any = None

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, file: str, number: int, bad: Bad) -> None:
        """Add a bad record of the input ``file``, whose number among the inputs is ``number``."""
        if self._sink is None:
            self._sink = self._stack.enter_context(atomic_file(self._directory / self._name))
        raw: dict[str, str]
        try:
            raw = {"raw": bad.raw.decode("utf-8")}
        except UnicodeDecodeError:
            raw = {"raw_base64": base64.b64encode(bad.raw).decode()}
        own = {} if bad.id is None else {"id": bad.id}
        line = {"file": file, "place": bad.place, "input": number, **own, "error": bad.error, **raw}
        # Half of a surrogate pair becomes its escape in JSON.
        encoded = json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace")
        self._sink.write(encoded + b"\n")
        self.count += 1

    def records(self) -> list[FileRecord]:
        """Record the finished file, if there is one."""
        if self._sink is None:
            return []
        return [FileRecord.of(self._name, self._sink, documents=self.count)]


class FirstError(NamedTuple):
    """The first bad record of a corpus."""

    path: AnyPath
    """The quarantine file that holds it."""
    text: str
    """Its file, place and error."""


def first_error(directory: AnyPath, records: Iterable[FileRecord]) -> FirstError | None:
    """Find the first bad record of a corpus; None without one.

    Args:
        directory: The corpus.
        records: Its files.
    """
    names = sorted(one.path for one in records if one.path.startswith("quarantine-"))
    for name in names[:1]:
        with open_file(directory / name) as lines:
            bad = json.loads(lines.readline())
        return FirstError(directory / name, f"{bad['file']}, {bad['place']}: {bad['error']}")
    return None


def raw_text(bad: Mapping[str, Any]) -> str:
    """Return what a quarantined record holds; bytes that are not UTF-8 are escaped.

    Args:
        bad: A line of a file of the quarantine.
    """
    if "raw_base64" not in bad:
        return str(bad.get("raw", ""))
    return base64.b64decode(bad["raw_base64"]).decode("utf-8", "backslashreplace")


def quarantined_by_file(corpus: Artefact) -> Counter[str]:
    """Count the bad records of a corpus by input file.

    A large quarantine is read in part: 100,000 records or 64 MiB, so that the sum is below the
    corpus's count.

    Args:
        corpus: The corpus, before any rewriter.
    """
    counts: Counter[str] = Counter()
    read = size = 0
    for record in corpus.named("quarantine-"):
        with open_file(corpus.verified(record)) as lines:
            for line in lines:
                if read >= _COUNTED or size >= _COUNTED_BYTES:
                    return counts
                read, size = read + 1, size + len(line)
                counts[json.loads(line)["file"]] += 1
    return counts
