"""Documents with their texts: Parquet, JSON lines, and a saved dataset of Hugging Face.

The documents are those that the cut takes, in the order of the corpus, each whole: the last
document of a share, which the shards shorten, too. A file has the documents of neighbouring units.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeAlias, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from penstock.artefact import FileRecord
from penstock.jobs.documents import TableUnit
from penstock.jobs.export.sources import licences_of
from penstock.jobs.origins import RecordPlaces, part_of
from penstock.storage import AnyPath, Sink, atomic_file

__all__ = [
    "DocumentFile",
    "card_features",
    "document_schema",
    "null_scores",
    "saved_dataset_files",
    "write_json_lines",
    "write_parquet",
    "write_saved_dataset",
]

_ROW_GROUP_BYTES = 32 * 2**20
"""Bytes of a row group of Parquet, which a writer holds in memory."""

_LEVEL = 3
"""Level of zstd: of web text 2 % larger than 6, at three times its speed."""

Write: TypeAlias = Callable[[pa.RecordBatch], None]


def document_schema(columns: Sequence[str]) -> pa.Schema:
    """Return the columns of an exported document, for the columns of scores of a recipe."""
    scores = pa.struct([pa.field(name, pa.float32()) for name in columns])
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("text", pa.large_string(), nullable=False),
            pa.field("source", pa.string(), nullable=False),
            pa.field("license", pa.string()),
            pa.field("parent", pa.string()),
            pa.field("meta", pa.large_string()),
            pa.field("file", pa.string()),
            pa.field("record", pa.int64()),
            pa.field("tokens", pa.int64(), nullable=False),
            *([pa.field("scores", scores, nullable=False)] if columns else []),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentFile:
    """A file to write: neighbouring units with the documents that the cut takes."""

    directory: AnyPath
    """Directory of the export."""
    name: str
    units: tuple[TableUnit, ...]
    places: Mapping[str, Mapping[int, RecordPlaces]]
    """Of each part of the corpus that has a unit here, where its records are from, by input."""

    @property
    def label(self) -> str:
        return f"{self.name} ({len(self.units)} units)"

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Read the documents, in batches of :func:`document_schema`."""
        schema = document_schema(tuple(self.units[0].scores))
        for unit in self.units:
            places = self.places.get(part_of(unit.unit.record), {})
            origins, start = unit.taken_from(), 0
            for batch in unit.batches(taken=True):
                own = origins.slice(start, len(batch))
                start += len(batch)
                placed = dict(zip(("file", "record"), _placed(own, places)))
                yield _exported(batch, placed, tuple(unit.scores), schema)


def _placed(origins: pa.Table, places: Mapping[int, RecordPlaces]) -> tuple[pa.Array, pa.Array]:
    """Return the input file of each document, and its line, row or record there, from 1.

    Args:
        origins: n rows of :meth:`TableUnit.taken_from`.
        places: By the number of the input.

    Returns:
        (n,) string and (n,) int64, with nulls where it is not known.
    """
    inputs = origins.column("input").combine_chunks().dictionary_encode()
    known = [places.get(number) for number in inputs.dictionary.to_pylist()]
    files = pa.array([own and own.file for own in known], pa.string()).take(inputs.indices)
    add = pa.array([own and own.add for own in known], pa.int64()).take(inputs.indices)
    return files, pc.add(origins.column("line").combine_chunks(), add)


def _exported(
    batch: pa.RecordBatch,
    placed: Mapping[str, pa.Array],
    columns: Sequence[str],
    schema: pa.Schema,
) -> pa.RecordBatch:
    known = {name: batch.column(name) for name in batch.schema.names} | dict(placed)
    known["license"] = licences_of(batch.column("meta"))
    if columns:
        fields = schema.field("scores").type
        scores = [null_scores(batch.column(name)) for name in columns]
        known["scores"] = pa.StructArray.from_arrays(scores, fields=list(fields))
    return pa.RecordBatch.from_arrays([known[name] for name in schema.names], schema=schema)


def null_scores(scores: pa.Array) -> pa.Array:
    """Return (n,) float32 scores with null in place of NaN: no score, as JSON lines have it.

    In SQL a NaN makes an average NaN, and is the largest of all; null is left out.
    """
    return pc.if_else(pc.is_nan(scores), pa.scalar(None, scores.type), scores)


def _written(
    item: DocumentFile, opened: Callable[[Sink, pa.Schema, contextlib.ExitStack], Write]
) -> FileRecord:
    """Write a file by the function that ``opened`` makes of its sink; return its record."""
    documents = tokens = size = 0
    schema = document_schema(tuple(item.units[0].scores))
    with atomic_file(item.directory / item.name) as sink, contextlib.ExitStack() as stack:
        write = opened(sink, schema, stack)
        for batch in item.batches():
            write(batch)
            documents += len(batch)
            tokens += int(batch.column("tokens").to_numpy().sum())
            size += _bytes_of(batch.column("text"))
        stack.close()
    return FileRecord.of(item.name, sink, documents=documents, tokens=tokens, text_bytes=size)


def _bytes_of(texts: pa.Array) -> int:
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset :]
    return int(offsets[len(texts)] - offsets[0]) if len(texts) else 0


def write_parquet(item: DocumentFile, shared: None) -> FileRecord:
    """Write documents as Parquet, compressed by zstd at level 3, in row groups of 32 MiB."""

    def opened(sink: Sink, schema: pa.Schema, stack: contextlib.ExitStack) -> Write:
        writer = stack.enter_context(
            pq.ParquetWriter(
                sink,
                schema,
                compression="zstd",
                compression_level=_LEVEL,
                use_dictionary=["source", "license", "file"],
                write_statistics=["source", "license", "tokens"],
            )
        )
        held: list[pa.RecordBatch] = []
        size = 0

        def flush() -> None:
            nonlocal size
            if held:
                table = pa.Table.from_batches(held)
                writer.write_table(table, row_group_size=len(table))
                held.clear()
                size = 0

        def write(batch: pa.RecordBatch) -> None:
            nonlocal size
            held.append(batch)
            size += batch.nbytes
            if size >= _ROW_GROUP_BYTES:
                flush()

        stack.callback(flush)
        return write

    return _written(item, opened)


def write_json_lines(item: DocumentFile, shared: None) -> FileRecord:
    """Write documents as lines of JSON, compressed by zstd; ``meta`` is a text, as in Parquet."""
    encoder = msgspec.json.Encoder()

    def opened(sink: Sink, schema: pa.Schema, stack: contextlib.ExitStack) -> Write:
        packed = stack.enter_context(
            zstandard.ZstdCompressor(_LEVEL).stream_writer(cast(IO[bytes], sink), closefd=False)
        )

        def write(batch: pa.RecordBatch) -> None:
            packed.write(encoder.encode_lines(batch.to_pylist()))

        return write

    return _written(item, opened)


def write_saved_dataset(item: DocumentFile, shared: None) -> FileRecord:
    """Write documents as one Arrow stream of a saved dataset of ``datasets``."""

    def opened(sink: Sink, schema: pa.Schema, stack: contextlib.ExitStack) -> Write:
        info = json.dumps({"info": {"features": _features(schema)}})
        own = schema.with_metadata({"huggingface": info})
        writer = stack.enter_context(pa.ipc.new_stream(sink, own))

        def write(batch: pa.RecordBatch) -> None:
            writer.write_batch(batch.replace_schema_metadata(own.metadata))

        return write

    return _written(item, opened)


def _features(schema: pa.Schema | pa.StructType) -> dict[str, Any]:
    """Describe columns as ``datasets`` does."""
    return {
        field.name: _features(field.type)
        if pa.types.is_struct(field.type)
        else {"dtype": _dtype(field.type), "_type": "Value"}
        for field in schema
    }


def card_features(schema: pa.Schema | pa.StructType) -> list[dict[str, Any]]:
    """Describe columns as a dataset card does.

    Without that, ``datasets`` finds out the types by the first file of JSON lines, and fails where
    a column has only nulls there.
    """
    return [
        {"name": field.name, "struct": card_features(field.type)}
        if pa.types.is_struct(field.type)
        else {"name": field.name, "dtype": _dtype(field.type)}
        for field in schema
    ]


def _dtype(kind: pa.DataType) -> str:
    return "float32" if kind == pa.float32() else str(kind)


def saved_dataset_files(
    names: Sequence[str], columns: Sequence[str], fingerprint: str
) -> dict[str, bytes]:
    """Return the other two files of a saved dataset by name.

    Args:
        names: The names of its Arrow files, in order.
        columns: The columns of scores.
        fingerprint: Names the dataset in the caches of ``datasets``: 16 hexadecimal digits.
    """
    info = {
        "citation": "",
        "description": "",
        "features": _features(document_schema(columns)),
        "homepage": "",
        "license": "",
    }
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": fingerprint,
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    return {
        "dataset_info.json": json.dumps(info, indent=2, sort_keys=True).encode(),
        "state.json": json.dumps(state, indent=2, sort_keys=True).encode(),
    }
