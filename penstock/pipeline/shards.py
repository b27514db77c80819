"""Cut to shards: packed sequences in Arrow files that a trainer maps and never copies.

The chosen documents of a group, in the corpus's order, are one stream of tokens, each document
between two ends of text; every ``sequence_length`` tokens of it are a sequence. Where a document
falls is known from prefix sums, so each shard is written by a task of its own. A row is a
sequence: its tokens, and for each span of a document in it where the span begins, in the sequence
and in the document, which no later stage may attend or predict across.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, atomic_file
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import TokenStore, open_tokens
from penstock.pipeline.units import units_of
from penstock.recipe import Recipe

__all__ = ["make_shards"]

STAGE = "shards"
VERSION = 1

_BATCH_TOKENS = 4 * 2**20
"""Tokens of a record batch: large enough to read fast, small enough for int32 offsets."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Documents of one unit and group that reach into a shard."""

    cut: FileRecord
    parts: Sequence[FileRecord]
    group: int
    start: int
    """Where the unit's tokens begin in the group's stream."""


@dataclass(frozen=True, slots=True)
class _Job:
    number: int
    first: int
    """Sequences ``first`` to ``last`` of the group's stream."""
    last: int
    pieces: Sequence[_Piece]

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    cut: Path
    tokens: Path
    dtype: str
    length: int
    directory: Path


def make_shards(
    recipe: Recipe,
    cut: Artefact,
    tokens: TokenStore,
    tokenizer: Artefact,
    workspace: Workspace,
    runner: Runner,
) -> Artefact:
    """The shards of a cut, found or made; their digest is what two runs are compared by."""
    length = recipe.shards.sequence_length
    config = recipe.shards.model_dump(mode="json")
    inputs = {"cut": cut.fingerprint, "tokenizer": tokenizer.fingerprint}

    def work(draft: Draft) -> Artefact:
        jobs = list(_plan(recipe, cut, tokens))
        left = [job for job in jobs if draft.done(job.name) is None]
        shared = _Shared(
            cut=cut.path,
            tokens=tokens.directory,
            dtype=tokens.dtype,
            length=length,
            directory=draft.path,
        )
        for index, record in runner.run(_write_shard, left, shared):
            draft.record(left[index].name, [record])
        source = tokenizer.verified(tokenizer.files[0])
        with atomic_file(draft.path / "tokenizer" / "tokenizer.json") as sink:
            sink.write(source.read_bytes())
        draft.record("tokenizer", [FileRecord.of(draft.path, "tokenizer/tokenizer.json")])
        facts = {
            "sequence_length": length,
            "sequences": cut.facts["delivered"] // length,
            "tokens": cut.facts["delivered"],
            "requested": cut.facts["requested"],
            "documents": cut.facts["documents"],
            "by_source": cut.facts["by_source"],
            "vocab_size": tokens.vocab_size,
            "eos": tokens.eos,
        }
        return draft.publish([*(job.name for job in jobs), "tokenizer"], facts)

    return workspace.make(STAGE, VERSION, config, inputs, work)


def _plan(recipe: Recipe, cut: Artefact, tokens: TokenStore) -> Iterator[_Job]:
    """Shards and the pieces of units that fill them, by prefix sums over the cut."""
    length = recipe.shards.sequence_length
    per_shard = max(1, recipe.shards.tokens_per_shard // length)
    units = units_of(tokens.corpus)
    number = 0
    for group, facts in enumerate(cut.facts["groups"]):
        pieces: list[_Piece] = []
        starts: list[int] = []
        ends: list[int] = []
        start = 0
        for unit, record in zip(units, cut.files):
            by_group = record.facts["tokens"]
            size = by_group[group] if group < len(by_group) else 0
            if size:
                pieces.append(_Piece(record, tokens.parts(unit), group, start))
                starts.append(start)
                start += size
                ends.append(start)
        sequences = facts["tokens"] // length
        for first in range(0, sequences, per_shard):
            last = min(first + per_shard, sequences)
            begin = bisect_right(ends, first * length)
            end = bisect_left(starts, last * length)
            yield _Job(number, first, last, pieces[begin:end])
            number += 1


@dataclass(frozen=True, slots=True)
class _Document:
    """A document of the stream, with what a trainer may want to know of it."""

    start: int
    tokens: np.ndarray
    id: str
    source: str
    weight: float
    score: float


def _documents(job: _Job, shared: _Shared) -> Iterator[_Document]:
    """The documents that reach into the shard, in stream order."""
    lower, upper = job.first * shared.length, job.last * shared.length
    cut = Artefact(shared.cut, {}, ())
    for piece in job.pieces:
        table = pq.read_table(cut.verified(piece.cut))
        table = table.filter(pa.array(table.column("group").to_numpy() == piece.group))
        known = open_tokens(shared.tokens, piece.parts, shared.dtype)
        sizes = table.column("tokens").to_numpy()
        ends = piece.start + np.cumsum(sizes)
        first = int(np.searchsorted(ends, lower, side="right"))
        last = int(np.searchsorted(ends - sizes, upper, side="left"))
        table = table.slice(first, last - first)
        columns = (table.column(name).to_pylist() for name in ("row", "id", "source"))
        numbers = (table.column(name).to_numpy() for name in ("weight", "score"))
        for position, (row, name, source, weight, score) in enumerate(zip(*columns, *numbers)):
            size = int(sizes[first + position])
            start = int(ends[first + position]) - size
            yield _Document(start, known.read(row)[:size], name, source, weight, score)


def _write_shard(job: _Job, shared: _Shared) -> FileRecord:
    token_type = pa.uint16() if shared.dtype == "uint16" else pa.uint32()
    schema = pa.schema(
        [
            pa.field("tokens", pa.list_(pa.field("item", token_type, nullable=False))),
            pa.field("doc_id", pa.list_(pa.string())),
            pa.field("doc_start", pa.list_(pa.int32())),
            pa.field("doc_offset", pa.list_(pa.int64())),
            pa.field("source", pa.list_(pa.string())),
            pa.field("weight", pa.list_(pa.float32())),
            pa.field("score", pa.list_(pa.float32())),
        ]
    )
    documents = list(_documents(job, shared))
    starts = np.array([document.start for document in documents])
    name = f"{job.name}.arrow"
    per_batch = max(1, _BATCH_TOKENS // shared.length)
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for first in range(job.first, job.last, per_batch):
            last = min(first + per_batch, job.last)
            writer.write_batch(_batch(documents, starts, first, last, shared.length, schema))
    return FileRecord.of(
        shared.directory, name, sequences=job.last - job.first, spans=len(documents)
    )


def _batch(
    documents: Sequence[_Document],
    starts: np.ndarray,
    first: int,
    last: int,
    length: int,
    schema: pa.Schema,
) -> pa.RecordBatch:
    """Sequences ``first`` to ``last`` of the stream."""
    lower, upper = first * length, last * length
    begin = int(np.searchsorted(starts, lower, side="right")) - 1
    end = int(np.searchsorted(starts, upper, side="left"))
    inside = documents[begin:end]
    stream = np.concatenate([document.tokens for document in inside])
    stream = stream[lower - inside[0].start :][: upper - lower]
    edges = np.arange(lower, upper, length)
    spans = np.union1d(edges, [max(document.start, lower) for document in inside])
    owner = np.searchsorted(starts, spans, side="right") - 1
    offsets = pa.array(np.append(np.searchsorted(spans, edges), len(spans)), pa.int32())
    owners = [documents[index] for index in owner]
    flat = {
        "doc_id": [document.id for document in owners],
        "doc_start": (spans - lower) % length,
        "doc_offset": spans - starts[owner],
        "source": [document.source for document in owners],
        "weight": [document.weight for document in owners],
        "score": [document.score for document in owners],
    }
    columns = [
        pa.ListArray.from_arrays(
            pa.array(np.arange(last - first + 1) * length, pa.int32()),
            pa.array(stream, schema.field("tokens").type.value_type),
            type=schema.field("tokens").type,
        ),
        *(
            pa.ListArray.from_arrays(offsets, pa.array(values, schema.field(name).type.value_type))
            for name, values in flat.items()
        ),
    ]
    return pa.record_batch(columns, schema=schema)
