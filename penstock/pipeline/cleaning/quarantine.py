"""Files of bad records, with the error and the bytes of each."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from typing import Any

from penstock.artefact import FileRecord
from penstock.pipeline.reading.records import Bad
from penstock.storage import AnyPath, atomic_file

__all__ = ["Quarantine"]


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
        line = {"file": file, "place": bad.place, "input": number, "error": bad.error, **raw}
        self._sink.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.count += 1

    def records(self) -> list[FileRecord]:
        """Record the finished file, if there is one."""
        if self._sink is None:
            return []
        return [FileRecord.of(self._name, self._sink, documents=self.count)]
