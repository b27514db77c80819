"""The shards stage: a cut to packed sequences, in Arrow files that a trainer maps without a copy.

The chosen documents of a group, in the corpus's order, are one stream of tokens, each document
between two ends of text; every ``sequence_length`` tokens of the stream are a sequence. The
position of a document follows from prefix sums, so each shard is written by a task of its own. A
row is a sequence: its tokens; for each span of a document, its start in the sequence and in the
document, its id, source and score, and its score by ``shards.carry``, if that is given; and a
checksum of tokens and starts, by which a trainer detects a changed bit whenever it reads the row.
No stage may attend or predict across spans.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Draft, FileRecord, Workspace, fingerprint
from penstock.columnar import read_parquet
from penstock.hashing import sequence_checksums
from penstock.pipeline.checking import check_files, check_sum
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.runner import Runner
from penstock.pipeline.tokens import TokenStore, open_tokens
from penstock.pipeline.units import Unit
from penstock.recipe import Shards
from penstock.storage import AnyPath, atomic_file

__all__ = ["make_shards"]

STAGE = "shards"
VERSION = 3

_BATCH_TOKENS = 4 * 2**20
"""Tokens of a record batch: many enough to read fast, few enough for int32 offsets."""


@dataclass(frozen=True, slots=True)
class _StreamPiece:
    """The documents of one unit and group of which a shard has tokens."""

    cut: FileRecord
    parts: Sequence[FileRecord]
    group: int
    start: int
    """Offset of the unit's tokens in the group's stream."""
    carried: tuple[Unit, FileRecord] | None
    """The unit, and its scores that documents carry."""


@dataclass(frozen=True, slots=True)
class _ShardTask:
    """The work of one task: a shard, and the pieces of units that fill it."""

    number: int
    group: str | None
    """The group's source, or None for the group of all sources without a share of their own."""
    first: int
    """Sequences ``first`` to ``last`` of the group's stream."""
    last: int
    pieces: Sequence[_StreamPiece]

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"

    @property
    def label(self) -> str:
        return f"{self.name} ({self.last - self.first:,} sequences of {len(self.pieces)} units)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardWriting:
    """The state that every task of the stage shares."""

    cut: AnyPath
    tokens: AnyPath
    dtype: str
    length: int
    directory: AnyPath
    carried: AnyPath | None
    """The column whose scores documents carry."""


def make_shards(
    settings: Shards,
    cut: Artefact,
    tokens: TokenStore,
    tokenizer: Artefact,
    workspace: Workspace,
    runner: Runner,
    carried: Artefact | None = None,
) -> Artefact:
    """Find the shards of a cut, or make them; two runs are compared by their digest.

    ``carried`` is the column of ``shards.carry``.

    Raises:
        ArtefactError: A file of shards that were found differs from its record.
    """
    length = settings.sequence_length
    # As before there was `carry`, where none is given: the same shards have the same name.
    config = settings.model_dump(mode="json", exclude_none=True)
    inputs = {"cut": cut.fingerprint, "tokenizer": tokenizer.fingerprint}
    if carried is not None:
        inputs["carried"] = carried.fingerprint

    def work(draft: Draft) -> Artefact:
        shards = {shard.name: shard for shard in _plan(settings, cut, tokens, carried)}
        records = draft.fill(
            runner.run,
            _write_shard,
            shards,
            _ShardWriting(
                cut=cut.path,
                tokens=tokens.directory,
                dtype=tokens.dtype,
                length=length,
                directory=draft.path,
                carried=carried.path if carried else None,
            ),
        )
        if draft.done("tokenizer") is None:
            source = tokenizer.verified(tokenizer.files[0])
            with atomic_file(draft.path / "tokenizer" / "tokenizer.json") as sink:
                sink.write(source.read_bytes())
            draft.record("tokenizer", [FileRecord.of("tokenizer/tokenizer.json", sink)])
        check_sum(
            f"{draft.path}",
            ("sequences of the cut", cut.facts["delivered"] // length),
            {"written": sum(record.facts["sequences"] for record in records)},
        )
        return draft.publish(
            [*shards, "tokenizer"],
            {
                "sequence_length": length,
                "sequences": cut.facts["delivered"] // length,
                "tokens": cut.facts["delivered"],
                "requested": cut.facts["requested"],
                "documents": cut.facts["documents"],
                "by_source": cut.facts["by_source"],
                "vocab_size": tokens.vocab_size,
                "eos": tokens.eos,
            },
        )

    found = workspace.find(STAGE, fingerprint(STAGE, VERSION, config, inputs))
    if found is not None:
        if not workspace.read_only:
            check_files(found, runner)
        return found
    return workspace.make(STAGE, VERSION, config, inputs, work)


def _plan(
    settings: Shards, cut: Artefact, tokens: TokenStore, carried: Artefact | None
) -> Iterator[_ShardTask]:
    """Divide the cut into shards, by prefix sums over its units."""
    length = settings.sequence_length
    per_shard = max(1, settings.tokens_per_shard // length)
    units = tokens.pool.units
    number = 0
    for group, facts in enumerate(cut.facts["groups"]):
        pieces: list[_StreamPiece] = []
        starts: list[int] = []
        ends: list[int] = []
        start = 0
        for unit, record in zip(units, cut.files):
            by_group = record.facts["tokens"]
            size = by_group[group] if group < len(by_group) else 0
            if size:
                own = (unit, carried.files[unit.number]) if carried else None
                pieces.append(_StreamPiece(record, tokens.parts(unit), group, start, own))
                starts.append(start)
                start += size
                ends.append(start)
        sequences = facts["tokens"] // length
        for first in range(0, sequences, per_shard):
            last = min(first + per_shard, sequences)
            begin = bisect_right(ends, first * length)
            end = bisect_left(starts, last * length)
            yield _ShardTask(number, facts["source"], first, last, pieces[begin:end])
            number += 1


@dataclass(frozen=True, slots=True)
class _Stream:
    """The n documents of which a shard has tokens, in stream order."""

    starts: np.ndarray
    """(n,) int64, offset of each document in the group's stream."""
    tokens: Sequence[np.ndarray]
    """The tokens of each document, mapped, not copied."""
    facts: pa.Table
    """``doc_id``, ``source`` and ``score`` of each document, and ``carried``, if a column is."""


def _read(shard: _ShardTask, shared: _ShardWriting) -> _Stream:
    lower, upper = shard.first * shared.length, shard.last * shared.length
    starts: list[np.ndarray] = []
    tokens: list[np.ndarray] = []
    facts: list[pa.Table] = []
    for piece in shard.pieces:
        table = read_parquet(piece.cut.verified(shared.cut))
        table = table.filter(pa.array(table.column("group").to_numpy() == piece.group))
        sizes = table.column("tokens").to_numpy()
        ends = piece.start + np.cumsum(sizes)
        first = int(np.searchsorted(ends, lower, side="right"))
        last = int(np.searchsorted(ends - sizes, upper, side="left"))
        known = open_tokens(shared.tokens, piece.parts, shared.cut)
        rows = table.column("row").to_numpy()[first:last].tolist()
        tokens += [known.read(row)[:size] for row, size in zip(rows, sizes[first:last].tolist())]
        starts.append((ends - sizes)[first:last])
        table = table.slice(first, last - first).select(["id", "source", "score"])
        table = table.rename_columns(["doc_id", "source", "score"])
        if piece.carried is not None and shared.carried is not None:
            unit, record = piece.carried
            places = np.searchsorted(unit.numbers(), rows)
            values = read_scores(shared.carried, record)[places]
            table = table.append_column("carried", pa.array(values, from_pandas=False))
        facts.append(table)
    return _Stream(np.concatenate(starts), tokens, pa.concat_tables(facts).combine_chunks())


def _write_shard(shard: _ShardTask, shared: _ShardWriting) -> FileRecord:
    token_type = pa.uint16() if shared.dtype == "uint16" else pa.uint32()
    schema = pa.schema(
        [
            pa.field("tokens", pa.list_(pa.field("item", token_type, nullable=False))),
            pa.field("doc_id", pa.list_(pa.string())),
            pa.field("doc_start", pa.list_(pa.int32())),
            pa.field("doc_offset", pa.list_(pa.int64())),
            pa.field("source", pa.list_(pa.string())),
            pa.field("score", pa.list_(pa.float32())),
            *([pa.field("carried", pa.list_(pa.float32()))] if shared.carried else []),
            pa.field("checksum", pa.uint64()),
        ]
    )
    stream = _read(shard, shared)
    name = f"{shard.name}.arrow"
    per_batch = max(1, _BATCH_TOKENS // shared.length)
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for first in range(shard.first, shard.last, per_batch):
            last = min(first + per_batch, shard.last)
            writer.write_batch(_batch(stream, first, last, shared.length, schema))
    return FileRecord.of(
        name, sink, sequences=shard.last - shard.first, spans=len(stream.starts), group=shard.group
    )


def _batch(
    stream: _Stream, first: int, last: int, length: int, schema: pa.Schema
) -> pa.RecordBatch:
    """Make the record batch of sequences ``first`` to ``last`` of the stream."""
    lower, upper = first * length, last * length
    begin = int(np.searchsorted(stream.starts, lower, side="right")) - 1
    end = int(np.searchsorted(stream.starts, upper, side="left"))
    starts = stream.starts[begin:end]
    tokens = np.concatenate(stream.tokens[begin:end])[lower - starts[0] :][: upper - lower]
    edges = np.arange(lower, upper, length)
    spans = np.union1d(edges, np.maximum(starts, lower))
    owner = np.searchsorted(starts, spans, side="right") - 1
    facts = stream.facts.take(pa.array(begin + owner))
    flat = {
        **{name: facts.column(name).combine_chunks() for name in facts.column_names},
        "doc_start": (spans - lower) % length,
        "doc_offset": spans - starts[owner],
    }
    sequences = pa.array(np.arange(last - first + 1) * length, pa.int32())
    per_span = pa.array(np.append(np.searchsorted(spans, edges), len(spans)), pa.int32())
    columns: list[pa.Array] = []
    for field in list(schema)[:-1]:
        values = tokens if field.name == "tokens" else flat[field.name]
        offsets = sequences if field.name == "tokens" else per_span
        values = pa.array(values, field.type.value_type)
        columns.append(pa.ListArray.from_arrays(offsets, values, type=field.type))
    rows, starts = tokens.reshape(-1, length), flat["doc_start"].astype(np.int32)
    columns.append(pa.array(sequence_checksums(rows, starts, per_span.to_numpy())))
    return pa.record_batch(columns, schema=schema)
