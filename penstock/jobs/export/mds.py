"""Packed sequences as MDS, the format of mosaicml-streaming: one sample for each sequence.

A file, in little-endian bytes (``streaming/base/format/mds``): uint32 n, samples; (n + 1,) uint32,
where each sample begins, and the end; a JSON object that describes the columns; the samples. A
sample is the bytes of ``doc_start`` (uint32), then ``doc_start``, then ``tokens``. ``tokens`` is
``ndarray:TYPE:LENGTH``, the values alone. ``doc_start``, where documents begin in the sequence, is
``ndarray:int32``: a byte of (dimensions << 2 | code of the shape's type), the shape, the values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.artefact import FileRecord
from penstock.jobs.export.token_streams import TokenWriting, batches_of
from penstock.storage import atomic_file

__all__ = ["SequenceFile", "index_file", "plan_sequences", "write_mds"]

_BYTES = 64 * 2**20
"""Bytes of tokens of a file, about, as of streaming's own writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFile:
    """A file to write: the sequences ``first`` to ``last`` of one shard."""

    name: str
    shard: int
    first: int
    last: int


def plan_sequences(records: Sequence[FileRecord], length: int) -> list[SequenceFile]:
    """Divide shards into files of at most 64 MiB of tokens of 4 bytes, or one sequence."""
    most = max(1, _BYTES // (4 * length))
    places = [
        (shard, first, min(first + most, record.facts["sequences"]))
        for shard, record in enumerate(records)
        for first in range(0, record.facts["sequences"], most)
    ]
    return [
        SequenceFile(name=f"data/shard.{number:05d}.mds", shard=shard, first=first, last=last)
        for number, (shard, first, last) in enumerate(places)
    ]


def write_mds(item: SequenceFile, shared: TokenWriting) -> FileRecord:
    """Write sequences as one file of MDS."""
    samples: list[bytes] = []
    kind, start = "", 0
    for batch in batches_of(shared, item.shard):
        begin, end = max(item.first - start, 0), min(item.last - start, len(batch))
        start += len(batch)
        if begin >= end:
            continue
        own = batch.slice(begin, end - begin)
        tokens = own.column("tokens").flatten().to_numpy().reshape(-1, shared.length)
        kind = f"{tokens.dtype}"
        places = own.column("doc_start")
        edges = places.offsets.to_numpy() - places.offsets[0].as_py()
        starts = places.flatten().to_numpy()
        for row, first, last in zip(tokens, edges, edges[1:]):
            head = _encoded(starts[first:last])
            samples.append(len(head).to_bytes(4, "little") + head + _little(row))
    described = json.dumps(_columns(kind, shared.length), sort_keys=True).encode()
    ends = np.cumsum([0, *map(len, samples)])
    ends += 4 + 4 * len(ends) + len(described)
    with atomic_file(shared.directory / item.name) as sink:
        sink.write(len(samples).to_bytes(4, "little"))
        sink.write(ends.astype("<u4").tobytes())
        sink.write(described)
        for sample in samples:
            sink.write(sample)
    return FileRecord.of(
        item.name, sink, samples=len(samples), tokens=len(samples) * shared.length, type=kind
    )


def index_file(records: Sequence[FileRecord], length: int) -> bytes:
    """Return ``index.json`` of the files, in order."""
    shards = [
        {
            **_columns(record.facts["type"], length),
            "raw_data": {
                "basename": record.path.rpartition("/")[2],
                "bytes": record.bytes,
                "hashes": {},
            },
            "samples": record.facts["samples"],
            "zip_data": None,
        }
        for record in records
    ]
    return json.dumps({"shards": shards, "version": 2}, sort_keys=True).encode()


def _columns(kind: str, length: int) -> dict[str, Any]:
    """Describe the columns of a file, as its header and ``index.json`` do."""
    return {
        "column_encodings": ["ndarray:int32", f"ndarray:{kind}:{length}"],
        "column_names": ["doc_start", "tokens"],
        "column_sizes": [None, length * np.dtype(kind).itemsize],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": None,
        "version": 2,
    }


def _encoded(values: np.ndarray) -> bytes:
    """Encode an array of one dimension whose length is not in the header."""
    for code, kind in enumerate(("<u1", "<u2", "<u4")):
        if len(values) < 1 << (8 << code):
            shape = np.array([len(values)], kind).tobytes()
            return bytes([1 << 2 | code]) + shape + values.astype("<i4").tobytes()
    raise AssertionError(len(values))


def _little(values: np.ndarray) -> bytes:
    return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
