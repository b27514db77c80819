"""Batches of records: documents as columns, without Python objects of the texts, and bad records.

Readers yield batches of up to 4,096 records and about 4 MiB of text (a longer text is alone or
last), so that a worker holds little of a file. No result depends on the sizes of batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from penstock.pipeline.reading.records import Bad, Labels, Record, Span, labels_of, record_of
from penstock.recipe import CorpusSource

__all__ = [
    "BATCH_BYTES",
    "BATCH_ROWS",
    "DOCUMENTS",
    "Batches",
    "ParsedBatch",
    "Row",
    "batch_of",
    "gather",
    "gather_rows",
    "gathered",
    "merged",
]

BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20
"""Most records of a batch, and bytes of text after which it ends."""

DOCUMENTS = pa.schema(
    [
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("meta", pa.large_string()),
        pa.field("number", pa.int64(), nullable=False),
    ]
)
"""Documents of a batch: ``id`` and ``source`` are null where the record has none; ``meta`` are
its other fields as JSON, null where there are none; ``number`` is that of the line or row, from
1."""


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


Batches: TypeAlias = Iterator[ParsedBatch]


def batch_of(
    texts: pa.Array,
    labels: Labels,
    numbers: Sequence[int] | np.ndarray,
    bad: Sequence[Bad] = (),
) -> ParsedBatch:
    """Make a batch.

    Args:
        texts: (n,) large_string, valid UTF-8.
        labels: Of the n documents.
        numbers: Number of the line or row of each.
        bad: The bad records among them.

    Raises:
        UnicodeEncodeError: A label has half a surrogate pair.
    """
    columns = [
        texts,
        pa.array(labels.ids, pa.string()),
        pa.array(labels.sources, pa.string()),
        pa.array(labels.metas, pa.large_string()),
        pa.array(numbers, pa.int64()),
    ]
    return ParsedBatch(pa.RecordBatch.from_arrays(columns, schema=DOCUMENTS), bad)


def gathered(records: Iterable[Record | Bad]) -> ParsedBatch:
    """Gather records into one batch."""
    good: list[Record] = []
    bad: list[Bad] = []
    for record in records:
        if isinstance(record, Bad):
            bad.append(record)
        else:
            good.append(record)
    return batch_of(
        pa.array([record.text for record in good], pa.large_string()),
        Labels(
            [record.id for record in good],
            [record.source for record in good],
            [record.meta.encode() or None for record in good],
        ),
        [record.number for record in good],
        bad,
    )


def gather(records: Iterable[Record | Bad]) -> Batches:
    """Gather records into batches."""
    found: list[Record | Bad] = []
    size = 0
    for record in records:
        found.append(record)
        size += len(record.raw if isinstance(record, Bad) else record.text)
        if len(found) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield gathered(found)
            found, size = [], 0
    if found:
        yield gathered(found)


class Row(NamedTuple):
    """A record before its fields are taken for id, source and ``meta``."""

    text: str | bytes
    """Bytes are valid UTF-8."""
    fields: dict[str, Any]
    number: int


def gather_rows(rows: Iterable[Row | Bad], spec: CorpusSource, span: Span, noun: str) -> Batches:
    """Gather rows into batches; a row of which no document can be made becomes a bad record.

    Args:
        rows: In the order of the file.
        spec: Names the fields of id and source.
        span: The file.
        noun: The word for a position.
    """
    good: list[Row] = []
    bad: list[Bad] = []
    size = 0
    for row in rows:
        if isinstance(row, Bad):
            bad.append(row)
            size += len(row.raw)
        else:
            good.append(row)
            size += len(row.text)
        if len(good) + len(bad) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield _batch_of_rows(good, bad, spec, span, noun)
            good, bad, size = [], [], 0
    if good or bad:
        yield _batch_of_rows(good, bad, spec, span, noun)


def _batch_of_rows(
    rows: list[Row], bad: list[Bad], spec: CorpusSource, span: Span, noun: str
) -> ParsedBatch:
    try:
        texts = pa.array([row.text for row in rows], pa.large_binary()).view(pa.large_string())
        labels = labels_of([row.fields.copy() for row in rows], spec)
        return batch_of(texts, labels, [row.number for row in rows], bad)
    except (RecursionError, UnicodeEncodeError):  # which row it is comes out one by one
        made = [
            record_of(
                {**fields, spec.text: text.decode() if isinstance(text, bytes) else text},
                *(spec, span, noun, number, None),
            )
            for text, fields, number in rows
        ]
        return gathered(sorted([*made, *bad], key=lambda one: one.number))


def merged(batch: ParsedBatch, records: Sequence[Record | Bad]) -> ParsedBatch:
    """Put records between those of a batch that has no bad ones, by their numbers."""
    others = gathered(records)
    documents = batch.documents
    if len(others.documents):
        documents = pa.concat_batches([documents, others.documents])
        documents = documents.take(pa.array(np.argsort(documents["number"].to_numpy())))
    return ParsedBatch(documents, others.bad)
