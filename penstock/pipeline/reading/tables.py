"""Read files of columns as records: Parquet and Arrow.

Parquet is divided at row groups and Arrow at record batches, since both are read whole. One group
or batch is at least one span, however large it is.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.columnar import ArrowReader, InputParquet, open_arrow
from penstock.display import shortened
from penstock.errors import InputError
from penstock.pipeline.reading.batches import Batches, ParsedBatch, batch_of, gather
from penstock.pipeline.reading.batches import gathered as gathered_records
from penstock.pipeline.reading.records import (
    HEAD,
    Bad,
    Extent,
    Records,
    Span,
    as_id,
    as_json,
    gathered,
    labels_of,
    record_of,
    too_long,
)
from penstock.pipeline.reading.row_sizes import row_sizes, slices_of
from penstock.pipeline.reading.streams import open_bytes, readable
from penstock.pipeline.reading.unchanged import local_copy, open_local
from penstock.pipeline.reading.values import bytes_of, check_names, rows_of
from penstock.recipe import CorpusSource
from penstock.storage import (
    AnyPath,
    store_of,
)

__all__ = [
    "arrow",
    "arrow_spans",
    "first_rows",
    "from_batches",
    "parquet",
    "parquet_spans",
    "require_text",
]

_ROWS = 1024
"""Most rows that are turned into records at a time; fewer where they are long."""

_BATCH = 16 << 20
"""Bytes of rows that are turned into records at a time."""

_COUNTED = 1 << 16
"""Rows whose bytes are counted at a time."""


# -- Parquet ----------------------------------------------------------------------------------


def parquet_spans(where: AnyPath, spec: CorpusSource, size: int) -> list[Span]:
    """Divide a file at row groups, into spans of up to about ``size`` uncompressed bytes."""
    with _parquet_file(where, spec) as file:
        rows = 0
        groups = []
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            groups.append(Span(start=number, end=number + 1, size=group.total_byte_size, rows=rows))
            rows += group.num_rows
    return list(gathered(groups, size))


def parquet(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read the rows of some row groups."""
    with _parquet_file(where, spec) as file:
        end = file.metadata.num_row_groups if span.end is None else span.end
        batches = (
            batch
            for number in range(span.start, end)
            for batch in file.batches(number, _ROWS, _BATCH)
        )
        yield from from_batches(batches, spec, span, cap)


@contextmanager
def _parquet_file(where: AnyPath, spec: CorpusSource | None) -> Iterator[InputParquet]:
    options = store_of(where).parquet
    with (
        readable(where, "Parquet file"),
        open_bytes(where) as source,
        InputParquet(
            source,
            coerce_int96_timestamp_unit="us",  # in nanoseconds, years end at 2262 and wrap around
            **options,
        ) as file,
    ):
        _check_schema(where, spec, file.schema_arrow)
        yield file


# -- Arrow ------------------------------------------------------------------------------------


def arrow_spans(where: AnyPath, spec: CorpusSource, size: int) -> list[Span]:
    """Divide a file at record batches, into spans of up to about ``size`` bytes."""
    rows = 0
    parts = []
    with _arrow_file(where, spec) as file:
        for number, (count, own) in enumerate(file.sizes()):
            parts.append(Span(start=number, end=number + 1, size=own, rows=rows))
            rows += count
    return list(gathered(parts, size))


def arrow(where: AnyPath, spec: CorpusSource, span: Span, cap: int, extent: Extent) -> Batches:
    """Read the rows of some record batches."""
    with _arrow_file(where, spec) as file:
        count = None if span.end is None else span.end - span.start
        batches = itertools.islice(file.batches(span.start, utf8=False), count)
        yield from from_batches(batches, spec, span, cap)


@contextmanager
def _arrow_file(where: AnyPath, spec: CorpusSource | None) -> Iterator[ArrowReader]:
    """Map a file; a remote file is fetched first."""
    with (
        readable(where, "Arrow file"),
        open_local(local_copy(where)) as name,
        open_arrow(Path(os.fsdecode(name))) as file,
    ):
        _check_schema(where, spec, file.schema)
        yield file


def first_rows(where: AnyPath, count: int) -> list[dict[str, Any]]:
    """Return the first rows of a Parquet or Arrow file with all columns, whatever these are.

    Args:
        where: The file; its name ends in ``.parquet`` or ``.arrow``.
        count: Most rows.

    Returns:
        Values by column, as :func:`~penstock.pipeline.reading.values.rows_of` has them.

    Raises:
        InputError: The file is damaged, or has two columns of one name.
    """
    if where.name.lower().endswith(".parquet"):
        with _parquet_file(where, None) as table:
            groups = range(table.metadata.num_row_groups)
            batches = (one for group in groups for one in table.batches(group, count, _BATCH))
            return [row for one in itertools.islice(batches, 1) for row in rows_of(one)][:count]
    with _arrow_file(where, None) as file:
        read = itertools.islice(file.batches(0, utf8=False), 1)
        return [row for one in read for row in rows_of(one.slice(0, count))]


# -- rows -------------------------------------------------------------------------------------


def require_text(where: AnyPath | str, spec: CorpusSource, names: list[str]) -> None:
    """Check that a file has the column that ``corpus.text`` names.

    Raises:
        InputError: It has not.
    """
    if spec.text not in names:
        raise InputError(
            file=where,
            expected=f"a column {spec.text!r} (corpus.text)",
            got=shortened(names),
        )


def _check_schema(where: AnyPath, spec: CorpusSource | None, schema: pa.Schema) -> None:
    if spec is not None:
        require_text(where, spec, schema.names)
    check_names(where, schema)


def from_batches(
    batches: Iterable[pa.RecordBatch], spec: CorpusSource, span: Span, cap: int
) -> Batches:
    """Turn the rows of record batches into documents, the way of every format of columns.

    Args:
        batches: Batches with the columns of the file, in file order, that were validated
            (:func:`~penstock.columnar.validate`), but for UTF-8.
        spec: Names the columns of text, id and source.
        span: The part that is read; rows are counted on from it.
        cap: Most bytes of a row's text, and of its other values, that are held in memory.
    """
    before = span.rows
    for whole in batches:
        for start in range(0, whole.num_rows, _COUNTED):
            batch = whole.slice(start, _COUNTED)
            others = row_sizes(batch.drop_columns([spec.text]).columns, len(batch))
            sizes = others + row_sizes([batch.column(spec.text)], len(batch))
            for rows in slices_of(sizes, _ROWS, _BATCH, alone=cap):
                some = batch.slice(rows.start, rows.stop - rows.start)
                if others[rows.start] > cap:
                    yield _too_large(some, int(others[rows.start]), spec, span, cap, before)
                else:
                    yield from _documents(some, spec, span, cap, before)
                before += len(some)


def _documents(
    batch: pa.RecordBatch, spec: CorpusSource, span: Span, cap: int, before: int
) -> Batches:
    texts = bytes_of(batch.column(spec.text))
    made = None if texts is None else _whole_columns(batch, texts, spec, cap, before)
    if made is not None:
        yield made
    else:
        yield from gather(_row_by_row(batch, texts, spec, span, cap, before))


def _too_large(
    row: pa.RecordBatch, size: int, spec: CorpusSource, span: Span, cap: int, before: int
) -> ParsedBatch:
    """Quarantine a row of which other columns than the text are over the cap, with its text."""
    texts = bytes_of(row.column(spec.text))
    head = b"" if texts is None or texts.null_count else bytes(texts[0].as_buffer()[:HEAD])
    number = before + 1
    what = f"row beside {spec.text!r}"
    return gathered_records([too_long(span.place("row", number), size, cap, what, head, number)])


def _whole_columns(
    batch: pa.RecordBatch, texts: pa.Array, spec: CorpusSource, cap: int, before: int
) -> ParsedBatch | None:
    """Make a batch without Python objects of the texts; None where a row is not a document."""
    if texts.null_count or _longest(texts) > cap:
        return None
    try:
        strings = texts.cast(pa.large_string())
        rows = rows_of(batch.drop_columns([spec.text]))
        numbers = np.arange(before + 1, before + len(batch) + 1)
        return batch_of(strings, labels_of(rows, spec), numbers)
    except (pa.ArrowInvalid, UnicodeEncodeError, RecursionError):
        return None


def _longest(texts: pa.Array) -> int:
    return pc.max(pc.binary_length(texts)).as_py() or 0


def _row_by_row(
    batch: pa.RecordBatch,
    texts: pa.Array | None,
    spec: CorpusSource,
    span: Span,
    cap: int,
    before: int,
) -> Records:
    """Yield the rows as records.

    Args:
        batch: The rows.
        texts: (n,) large_binary: their texts; None where the column has none.
        spec: Names the columns of text, id and source.
        span: The part that is read.
        cap: Most bytes of a text.
        before: Rows before the batch.
    """
    others = batch if texts is None else batch.drop_columns([spec.text])
    for row, fields in enumerate(rows_of(others)):
        number = before + row + 1
        if texts is None or not texts[row].is_valid:
            yield record_of(fields, spec, span, "row", number, None)
            continue
        raw = texts[row].as_buffer()
        name = as_id(fields.get(spec.id))
        if len(raw) > cap:
            what = f"value of {spec.text!r}"
            head = bytes(raw[:HEAD])
            yield too_long(span.place("row", number), len(raw), cap, what, head, number, name)
            continue
        try:
            text = str(raw, "utf-8")
        except UnicodeDecodeError as error:
            original = as_json({**fields, spec.text: raw.to_pybytes()})
            problem = f"{spec.text!r} is not UTF-8: {error}"
            yield Bad(span.place("row", number), problem, original, number, name)
            continue
        yield record_of({**fields, spec.text: text}, spec, span, "row", number, None)
