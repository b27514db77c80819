"""Files of documents that were not kept: dropped documents by rule, bad records by error."""

from __future__ import annotations

import base64
import json
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import FileRecord
from penstock.pipeline.reading.records import Bad, Record
from penstock.storage import AnyPath, atomic_file

__all__ = ["DROPPED", "Dropped", "Quarantine"]

_ROWS = 65_536
_BYTES = 16 << 20
"""Dropped documents, and bytes of their text, of a row group, which is held in memory."""

DROPPED = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("of", pa.string()),
    ]
)
"""``row`` is the record's number within its part, from 0; ``of`` the ``part:row`` it repeats."""

_WITH_TEXT = [
    pa.field("text", pa.large_string(), nullable=False),
    pa.field("meta", pa.large_string()),
]


class Dropped:
    """Writes the file of a part's dropped documents.

    Args:
        directory: Directory of the corpus draft.
        part: Name of the part.
        keep: True to write text and meta, too.
    """

    def __init__(self, directory: AnyPath, part: str, keep: bool) -> None:
        self.rules: Counter[str] = Counter()
        self._name = f"dropped-{part}.parquet"
        self._directory = directory
        self._keep = keep
        self._schema = pa.schema([*DROPPED, *_WITH_TEXT]) if keep else DROPPED
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def __enter__(self) -> Dropped:
        with ExitStack() as stack:
            self._sink = stack.enter_context(atomic_file(self._directory / self._name))
            self._writer = stack.enter_context(
                pq.ParquetWriter(self._sink, self._schema, compression="zstd")
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            with self._stack:  # an error closes it, too, so that no partial file stays
                self._flush()
        else:
            self._stack.__exit__(kind, error, trace)

    def add(
        self, name: str, record: Record, size: int, rule: str, row: int, of: str | None
    ) -> None:
        """Add a document of ``size`` bytes that ``rule`` dropped."""
        self.rules[rule] += 1
        own = (record.text, record.meta or None) if self._keep else ()
        self._rows.append((name, record.source, rule, row, of, *own))
        self._bytes += size + len(record.meta) if self._keep else 0
        if len(self._rows) >= _ROWS or self._bytes >= _BYTES:
            self._flush()

    def _flush(self) -> None:
        columns = [
            pa.array(column, kind) for column, kind in zip(zip(*self._rows), self._schema.types)
        ]
        self._rows, self._bytes = [], 0
        if columns:
            self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def record(self, **facts: Any) -> FileRecord:
        """Record the finished file."""
        return FileRecord.of(self._name, self._sink, **facts)


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

    def add(self, file: str, row: int, bad: Bad) -> None:
        """Add a bad record of the input ``file``, number ``row`` of the part."""
        if self._sink is None:
            self._sink = self._stack.enter_context(atomic_file(self._directory / self._name))
        raw: dict[str, str]
        try:
            raw = {"raw": bad.raw.decode("utf-8")}
        except UnicodeDecodeError:
            raw = {"raw_base64": base64.b64encode(bad.raw).decode()}
        line = {"file": file, "place": bad.place, "row": row, "error": bad.error, **raw}
        self._sink.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self.count += 1

    def records(self) -> list[FileRecord]:
        """Record the finished file, if there is one."""
        if self._sink is None:
            return []
        return [FileRecord.of(self._name, self._sink, documents=self.count)]
