"""The tokens of those documents that some cut has looked at.

Tokenising is slow (about 1.3 MB/s a core) and a cut takes a small part of a pool, so a document
is tokenised when its rank brings it near a budget, and never again: the store of (corpus,
tokenizer) grows by parts. Unlike other artefacts its manifest is rewritten as it grows; what it
says of a document never changes, so nothing that is made from it depends on its history.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from penstock.artefact import Artefact, FileRecord, Workspace, atomic_file
from penstock.errors import ArtefactError
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, units_of

__all__ = ["TokenStore", "TokensOf", "open_tokens"]

_BATCH_BYTES = 2**20
"""Text that is tokenised at a time: the library's result takes about 35 bytes for one of text."""


@dataclass(frozen=True, slots=True)
class TokensOf:
    """The tokens of a unit, as far as the store has them."""

    rows: np.ndarray
    """(k,) int64, ascending."""
    sizes: np.ndarray
    """(k,) int64, tokens of each, the ends of text included."""
    read: Callable[[int], np.ndarray]
    """``read(row)``: (size,) uint16 or uint32, mapped, not copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    tokenizer: str
    eos: int
    dtype: str
    directory: Path


@dataclass(frozen=True, slots=True)
class _Job:
    unit: Unit
    rows: np.ndarray
    part: str


class TokenStore:
    """What is tokenised of a corpus with one tokenizer, and the way to add to it."""

    def __init__(self, corpus: Artefact, tokenizer: Artefact, workspace: Workspace) -> None:
        self.corpus = corpus
        self.vocab_size = int(tokenizer.facts["vocab_size"])
        self.eos = int(tokenizer.facts["eos"])
        self.bytes_per_token = float(tokenizer.facts["bytes_per_token"])
        self.dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
        self._tokenizer = tokenizer
        inputs = {"corpus": corpus.fingerprint, "tokenizer": tokenizer.fingerprint}
        self._draft = workspace.draft("tokens", 1, {}, inputs)
        self._parts: dict[str, tuple[FileRecord, ...]] = {}
        # By record, not by manifest: what was finished before a crash is not done again.
        for unit in units_of(corpus):
            while found := self._draft.done(self._next_part(unit)):
                self._parts[unit.name] = (*self.parts(unit), *found)

    def _next_part(self, unit: Unit) -> str:
        return f"{unit.name}-{len(self.parts(unit)):03d}"

    def parts(self, unit: Unit) -> tuple[FileRecord, ...]:
        """The files that hold tokens of ``unit``; hand them to :func:`open_tokens` in a task."""
        return self._parts.get(unit.name, ())

    @property
    def directory(self) -> Path:
        return self._draft.path

    def add(self, wanted: Mapping[int, np.ndarray], runner: Runner) -> int:
        """Tokenise documents that are not yet there.

        Args:
            wanted: Rows by unit number, ascending.
            runner: Who does it.

        Returns:
            Documents tokenised now.
        """
        units = units_of(self.corpus)
        jobs = [
            _Job(units[number], rows, self._next_part(units[number]))
            for number, rows in sorted(wanted.items())
            if len(rows)
        ]
        path = self._tokenizer.verified(self._tokenizer.files[0])
        shared = _Shared(
            tokenizer=path.read_text(encoding="utf-8"),
            eos=self.eos,
            dtype=self.dtype,
            directory=self.directory,
        )
        for index, record in runner.run(_tokenise, jobs, shared):
            unit = jobs[index].unit
            self._draft.record(jobs[index].part, [record])
            self._parts[unit.name] = (*self.parts(unit), record)
        if jobs:
            names = [Path(record.path).stem for parts in self._parts.values() for record in parts]
            self._draft.publish(sorted(names), {})
        return sum(len(job.rows) for job in jobs)


def open_tokens(directory: Path, parts: Sequence[FileRecord], dtype: str) -> TokensOf:
    """Map the tokens of one unit from its parts, after comparing checksums."""
    artefact = Artefact(directory, {}, ())
    rows: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    sizes: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    views: list[tuple[np.ndarray, np.ndarray]] = []
    part_of: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
    for record in parts:
        with pa.memory_map(str(artefact.verified(record))) as source:
            reader = pa.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                tokens = batch.column("tokens")
                offsets = tokens.offsets.to_numpy()
                rows.append(batch.column("row").to_numpy())
                sizes.append(np.diff(offsets))
                count = len(batch)
                part_of.append(np.stack([np.full(count, len(views)), np.arange(count)], axis=1))
                views.append((offsets, tokens.values.to_numpy()))
    all_rows, all_sizes = np.concatenate(rows), np.concatenate(sizes)
    where = np.concatenate(part_of)
    order = np.argsort(all_rows, kind="stable")
    sorted_rows = all_rows[order]

    def read(row: int) -> np.ndarray:
        place = int(np.searchsorted(sorted_rows, row))
        if place == len(sorted_rows) or sorted_rows[place] != row:
            raise ArtefactError(
                f"{directory}: the tokens of a document that was cut are gone; delete the cut and "
                "run again to make both anew"
            )
        view, position = where[order[place]]
        offsets, values = views[view]
        return values[offsets[position] : offsets[position + 1]]

    return TokensOf(sorted_rows, all_sizes[order], read)


def _tokenise(job: _Job, shared: _Shared) -> FileRecord:
    """Tokenise some rows of a unit into one Arrow file, a batch of documents at a time."""
    tokenizer = tokenizers.Tokenizer.from_str(shared.tokenizer)
    # A stranger who writes <|endoftext|> gets its letters, not the token.
    tokenizer.encode_special_tokens = True
    token_type = pa.uint16() if shared.dtype == "uint16" else pa.uint32()
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("tokens", pa.large_list(pa.field("item", token_type, nullable=False))),
        ]
    )
    name = f"{job.part}.arrow"
    total = 0
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for rows, texts in _texts_of(job):
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            documents = [
                np.asarray([shared.eos, *encoding.ids, shared.eos], dtype=shared.dtype)
                for encoding in encoded
            ]
            offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in documents])])
            values = pa.array(np.concatenate(documents), token_type)
            lists = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()), values, type=schema.field("tokens").type
            )
            writer.write_batch(pa.record_batch([pa.array(rows), lists], schema=schema))
            total += int(offsets[-1])
    return FileRecord.of(
        shared.directory, name, unit=job.unit.name, documents=len(job.rows), tokens=total
    )


def _texts_of(job: _Job) -> Iterator[tuple[np.ndarray, list[str]]]:
    """The rows of a job with their texts, reading only the row groups that hold any."""
    with pq.ParquetFile(job.unit.path()) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = job.rows[(job.rows >= start) & (job.rows < start + count)]
            if len(inside):
                table = file.read_row_group(group, ["text", "bytes"])
                table = table.take(pa.array(inside - start))
                filled = np.cumsum(table.column("bytes").to_numpy()) // _BATCH_BYTES
                edges = [0, *(np.flatnonzero(np.diff(filled)) + 1).tolist(), len(inside)]
                for first, last in itertools.pairwise(edges):
                    texts = table.column("text").slice(first, last - first)
                    yield inside[first:last], texts.to_pylist()
            start += count
