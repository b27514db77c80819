"""Documents as token ids: ``.bin`` and ``.idx`` of Megatron-LM, and plain arrays.

``.bin`` is the ids of all documents, one after another. ``.idx``, in little-endian bytes
(Megatron-LM, ``megatron/core/datasets/indexed_dataset.py``): the nine bytes ``MMIDIDX\\0\\0``;
uint64 1, the version; uint8, the code of the ids' type (8 is uint16, 4 is int32); uint64 n, the
sequences; uint64 n + 1; (n,) int32, tokens of each sequence; (n,) int64, its first byte in
``.bin``; (n + 1,) int64, the sequence with which each document begins, and n. Here a sequence is a
document.

A plain array ``.npy`` is the ids alone, without NumPy's header, as Dolma's tokenizer writes it and
OLMo-core maps it; ``.csv.gz`` beside it has a line ``first,end`` for each document.

Beside both, ``documents/`` has a row of Parquet for each document, in the same order.
"""

from __future__ import annotations

import gzip
import itertools
import struct
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import FileRecord
from penstock.jobs.export.texts import null_scores
from penstock.jobs.export.token_streams import TokenFile, TokenWriting, documents_in
from penstock.storage import Sink, atomic_file

__all__ = ["write_arrays", "write_megatron"]

_CODES = {"uint16": 8, "int32": 4}
"""Codes of types in ``.idx``."""


def write_megatron(item: TokenFile, shared: TokenWriting) -> list[FileRecord]:
    """Write a pair of files of Megatron-LM, and the table of their documents.

    Returns:
        The records of the files; none where no document begins in the item's shards.
    """
    return _write(item, shared, ".bin", ".idx", _write_index)


def write_arrays(item: TokenFile, shared: TokenWriting) -> list[FileRecord]:
    """Write a plain array, the places of its documents, and the table of them.

    Returns:
        As :func:`write_megatron`.
    """
    return _write(item, shared, ".npy", ".csv.gz", _write_places)


def _write(
    item: TokenFile,
    shared: TokenWriting,
    ending: str,
    index_ending: str,
    write_index: Callable[[Sink, np.ndarray, str], None],
) -> list[FileRecord]:
    sizes: list[np.ndarray] = []
    facts: list[pa.Table] = []
    kind = ""
    name = f"{item.name}{ending}"
    stream = documents_in(item, shared)
    first = next(stream, None)
    if first is None:
        return []
    with atomic_file(shared.directory / name) as sink:
        for run in itertools.chain([first], stream):
            kind = (
                "int32"
                if ending == ".bin" and run.tokens.dtype != "uint16"
                else f"{run.tokens.dtype}"
            )
            sink.write(np.ascontiguousarray(run.tokens, np.dtype(kind).newbyteorder("<")))
            edges = np.append(run.begins, len(run.tokens))
            if sizes:
                sizes[-1][-1] += edges[0]
            if len(run.begins):
                sizes.append(np.diff(edges))
                facts.append(run.facts)
    lengths = np.concatenate(sizes)
    counts = {"documents": len(lengths), "tokens": int(lengths.sum())}
    with atomic_file(shared.directory / f"{item.name}{index_ending}") as index:
        write_index(index, lengths, kind)
    table = pa.concat_tables(facts).combine_chunks()
    for column in {"score", "carried"} & {*table.column_names}:
        scores = null_scores(table.column(column).combine_chunks())
        table = table.set_column(table.column_names.index(column), column, scores)
    table = table.append_column("tokens", pa.array(lengths, pa.int64()))
    rows = f"documents/{item.name.rpartition('/')[2]}.parquet"
    with atomic_file(shared.directory / rows) as own:
        pq.write_table(table, own, compression="zstd", use_dictionary=["source"])
    return [
        FileRecord.of(name, sink, **counts),
        FileRecord.of(f"{item.name}{index_ending}", index),
        FileRecord.of(rows, own),
    ]


def _write_index(sink: Sink, lengths: np.ndarray, kind: str) -> None:
    """Write ``.idx`` for documents of (n,) int64 tokens."""
    count = len(lengths)
    starts = (np.cumsum(lengths) - lengths) * np.dtype(kind).itemsize
    sink.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, _CODES[kind], count, count + 1))
    sink.write(lengths.astype("<i4").tobytes())
    sink.write(starts.astype("<i8").tobytes())
    sink.write(np.arange(count + 1, dtype="<i8").tobytes())


def _write_places(sink: Sink, lengths: np.ndarray, kind: str) -> None:
    """Write ``.csv.gz``, whose bytes have neither a name nor a time."""
    ends = np.cumsum(lengths)
    with gzip.GzipFile(filename="", mode="wb", fileobj=sink, mtime=0) as packed:
        for start, end in zip((ends - lengths).tolist(), ends.tolist()):
            packed.write(b"%d,%d\n" % (start, end))
