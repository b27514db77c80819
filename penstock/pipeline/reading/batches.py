"""Batches of records: documents as columns, without Python objects of the texts, and bad records.

Readers yield batches of up to 4,096 records and about 4 MiB of text (a longer text is alone or
last), so that a worker holds little of a file. No result depends on the sizes of batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pyarrow as pa

from penstock.pipeline.reading.records import Bad, Record, Records

__all__ = ["BATCH_BYTES", "BATCH_ROWS", "DOCUMENTS", "Batches", "ParsedBatch", "batch_of", "gather"]

BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20
"""Most records of a batch, and bytes of text after which it ends."""

DOCUMENTS = pa.schema(
    [
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("meta", pa.large_string()),
        pa.field("number", pa.int64(), nullable=False),
    ]
)
"""Documents of a batch: ``id`` is null where the record has none; ``meta`` are its other fields as
JSON, null where there are none; ``number`` is that of the line or row, from 1."""


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """Some consecutive records of a file: documents and bad records, each in file order."""

    documents: pa.RecordBatch
    """Of the schema :data:`DOCUMENTS`; texts, ids and sources are valid UTF-8."""
    bad: Sequence[Bad] = ()

    def document(self, row: int) -> Record:
        """Return a document as an object."""
        text, name, source, meta, number = (column[row].as_py() for column in self.documents)
        return Record(text, name, source, meta or "", number)

    def records(self) -> Records:
        """Yield all records as objects, in file order."""
        bad = iter(self.bad)
        waiting = next(bad, None)
        for row in range(len(self.documents)):
            record = self.document(row)
            while waiting is not None and waiting.number < record.number:
                yield waiting
                waiting = next(bad, None)
            yield record
        if waiting is not None:
            yield waiting
            yield from bad


Batches: TypeAlias = Iterator[ParsedBatch]


def batch_of(
    texts: pa.Array,
    labels: Sequence[tuple[str | None, str, str]],
    numbers: Sequence[int],
    bad: Sequence[Bad] = (),
) -> ParsedBatch:
    """Make a batch.

    Args:
        texts: (n,) large_string, valid UTF-8.
        labels: Id, source and meta of each document.
        numbers: Number of its line or row.
        bad: The bad records among them.

    Raises:
        UnicodeEncodeError: A label has half a surrogate pair.
    """
    ids, sources, metas = zip(*labels) if labels else ((), (), ())
    columns = [
        texts,
        pa.array(ids, pa.string()),
        pa.array(sources, pa.string()),
        pa.array([meta or None for meta in metas], pa.large_string()),
        pa.array(numbers, pa.int64()),
    ]
    return ParsedBatch(pa.RecordBatch.from_arrays(columns, schema=DOCUMENTS), bad)


def gather(records: Iterable[Record | Bad]) -> Batches:
    """Gather records into batches."""
    found: list[Record] = []
    bad: list[Bad] = []
    size = 0
    for record in records:
        if isinstance(record, Bad):
            bad.append(record)
            size += len(record.raw)
        else:
            found.append(record)
            size += len(record.text)
        if len(found) + len(bad) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield _gathered(found, bad)
            found, bad, size = [], [], 0
    if found or bad:
        yield _gathered(found, bad)


def _gathered(records: Sequence[Record], bad: Sequence[Bad]) -> ParsedBatch:
    return batch_of(
        pa.array([record.text for record in records], pa.large_string()),
        [(record.id, record.source, record.meta) for record in records],
        [record.number for record in records],
        bad,
    )
