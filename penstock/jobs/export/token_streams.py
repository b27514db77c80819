"""The documents of shards as streams of token ids, without texts.

The sequences of shards, one after another, are documents, each between two ends of text: a span
whose ``doc_offset`` is 0 begins one, which goes on over sequences and shard files. A file of an
export has the documents that begin in some neighbouring shards, and so reads a little of the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.artefact import FileRecord
from penstock.columnar import read_batches
from penstock.errors import ArtefactError
from penstock.storage import AnyPath

__all__ = [
    "ShardRun",
    "TokenFile",
    "TokenWriting",
    "batches_of",
    "documents_in",
    "plan_files",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """Files of one name to write, with the documents that begin in shards ``first`` to ``last``."""

    name: str
    """Name without ending: ``data/tokens-00000``."""
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWriting:
    """What the tasks of all files of an export share."""

    directory: AnyPath
    """Directory of the export."""
    shards: AnyPath
    records: tuple[FileRecord, ...]
    """The shard files, in order."""
    length: int
    """Tokens of a sequence."""


@dataclass(frozen=True, slots=True)
class ShardRun:
    """Tokens that follow each other in the stream, and the documents that begin among them."""

    tokens: np.ndarray
    """(n,) uint16 or uint32, mapped, not copied."""
    begins: np.ndarray
    """(k,) int64: where documents begin, ascending."""
    facts: pa.Table
    """``id``, ``source`` and ``score`` of each document that begins, and ``carried`` if shards have
    it."""


def batches_of(shared: TokenWriting, shard: int) -> Iterator[pa.RecordBatch]:
    """Map the record batches of a shard.

    Raises:
        ArtefactError: The file was changed, or has other columns than shards have.
    """
    path = shared.records[shard].verified(shared.shards)
    for batch in read_batches(path):
        known = {field.name: field.type for field in batch.schema}
        tokens = known.get("tokens", pa.null())
        if not pa.types.is_list(tokens) or any(known.get(k) != kind for k, kind in _KINDS.items()):
            raise ArtefactError(
                file=path,
                expected="the columns of shards",
                got=", ".join(f"{name}: {kind}" for name, kind in known.items()),
                fix=f"delete {shared.shards} and run again to make it anew",
            )
        yield batch


_KINDS = {
    "doc_id": pa.list_(pa.string()),
    "doc_start": pa.list_(pa.int32()),
    "doc_offset": pa.list_(pa.int64()),
    "source": pa.list_(pa.string()),
    "score": pa.list_(pa.float32()),
}


def _run(batch: pa.RecordBatch, length: int) -> ShardRun:
    spans = np.diff(batch.column("doc_start").offsets.to_numpy())
    rows = np.repeat(np.arange(len(batch)), spans)
    starts = batch.column("doc_start").flatten().to_numpy() + rows * length
    begin = np.flatnonzero(batch.column("doc_offset").flatten().to_numpy() == 0)
    names = ["doc_id", "source", "score"]
    names += ["carried"] if "carried" in batch.schema.names else []
    facts = pa.table([batch.column(name).flatten().take(begin) for name in names], names)
    return ShardRun(
        batch.column("tokens").flatten().to_numpy(),
        starts[begin],
        facts.rename_columns(["id", *names[1:]]),
    )


def documents_in(item: TokenFile, shared: TokenWriting) -> Iterator[ShardRun]:
    """Yield the tokens of all documents that begin in the item's shards, in order.

    Yields:
        Runs of tokens. The first begins with a document; each later one goes on with the rest of
        the document before its first one.
    """
    begun = False
    for shard in range(item.first, len(shared.records)):
        for batch in batches_of(shared, shard):
            run = _run(batch, shared.length)
            if shard >= item.last:
                if not begun:
                    return
                end = int(run.begins[0]) if len(run.begins) else len(run.tokens)
                yield ShardRun(run.tokens[:end], run.begins[:0], run.facts[:0])
                if len(run.begins):
                    return
                continue
            if not begun:
                if not len(run.begins):
                    continue
                start = int(run.begins[0])
                run = ShardRun(run.tokens[start:], run.begins - start, run.facts)
                begun = True
            yield run


def plan_files(
    records: Sequence[FileRecord], length: int, prefix: str, limit: int
) -> list[TokenFile]:
    """Divide shards into runs of neighbours with at most ``limit`` tokens, or one shard.

    Args:
        records: The shard files.
        length: Tokens of a sequence.
        prefix: What the names begin with.
        limit: Most tokens of a file, but for the rest of its last document.
    """
    edges, held = [0], 0
    for number, record in enumerate(records):
        tokens = record.facts["sequences"] * length
        if held and held + tokens > limit:
            edges.append(number)
            held = 0
        held += tokens
    edges.append(len(records))
    return [
        TokenFile(name=f"{prefix}{number:05d}", first=first, last=last)
        for number, (first, last) in enumerate(itertools.pairwise(edges))
    ]
