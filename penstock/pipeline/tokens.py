"""The tokens of those documents that some cut has looked at.

Tokenising is slow (about 1.3 MB/s a core) and a cut takes a small part of a pool, so a document
is tokenised when its rank brings it near a budget, and never again: the store of (corpus,
tokenizer) grows by parts. Unlike other artefacts its manifest is rewritten as it grows; what it
says of a document never changes, so nothing that is made from it depends on its history.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers

from penstock.artefact import Artefact, Draft, FileRecord, Workspace
from penstock.errors import ArtefactError
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, units_of
from penstock.storage import AnyPath, atomic_file

__all__ = ["TokenStore", "TokensOf", "Wanted", "open_tokens"]

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


class Wanted(Protocol):
    """Documents whose tokens are asked for. It travels to the workers; the driver sees no rows."""

    def rows(self, unit: Unit) -> np.ndarray:
        """(k,) int64 rows of a unit, ascending."""
        ...

    def sized(self, unit: Unit, rows: np.ndarray, sizes: np.ndarray) -> None:
        """Told, in the same task, that the documents ``rows`` have (k,) int64 tokens."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    wanted: Wanted
    tokenizer: str
    eos: int
    dtype: str
    directory: AnyPath


@dataclass(frozen=True, slots=True)
class _Job:
    unit: Unit
    parts: tuple[FileRecord, ...]

    @property
    def label(self) -> str:
        return self.unit.label

    @property
    def part(self) -> str:
        """The name under which what is tokenised now will be recorded."""
        return _part(self.unit, len(self.parts))


def _part(unit: Unit, number: int) -> str:
    return f"{unit.name}-{number:03d}"


class TokenStore:
    """What is tokenised of a corpus with one tokenizer, and the way to add to it."""

    def __init__(self, corpus: Artefact, tokenizer: Artefact, workspace: Workspace) -> None:
        self.corpus = corpus
        self.vocab_size = int(tokenizer.facts["vocab_size"])
        self.eos = int(tokenizer.facts["eos"])
        self.bytes_per_token = float(tokenizer.facts["bytes_per_token"])
        self.dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
        self._tokenizer = tokenizer
        self._workspace = workspace
        self._published = False

    @functools.cached_property
    def _draft(self) -> Draft:
        """Begun when it is asked for something: who only looks at what is finished needs none."""
        inputs = {"corpus": self.corpus.fingerprint, "tokenizer": self._tokenizer.fingerprint}
        return self._workspace.draft("tokens", 1, {}, inputs)

    @functools.cached_property
    def _parts(self) -> dict[str, tuple[FileRecord, ...]]:
        """By record, not by manifest: what was finished before a crash is not done again."""
        parts: dict[str, tuple[FileRecord, ...]] = {}
        for unit in units_of(self.corpus):
            while found := self._draft.done(_part(unit, len(parts.get(unit.name, ())))):
                parts[unit.name] = (*parts.get(unit.name, ()), *found)
        return parts

    def parts(self, unit: Unit) -> tuple[FileRecord, ...]:
        """The files that hold tokens of ``unit``; hand them to :func:`open_tokens` in a task."""
        return self._parts.get(unit.name, ())

    @property
    def directory(self) -> AnyPath:
        return self._draft.path

    def add(self, wanted: Wanted, runner: Runner) -> int:
        """Tokenise documents that are not yet there.

        Args:
            wanted: Asked once for each unit, in a task of its own.
            runner: Who does it.

        Returns:
            Documents tokenised now.
        """
        jobs = [_Job(unit, self.parts(unit)) for unit in units_of(self.corpus)]
        path = self._tokenizer.verified(self._tokenizer.files[0])
        shared = _Shared(
            wanted=wanted,
            tokenizer=path.read_text(encoding="utf-8"),
            eos=self.eos,
            dtype=self.dtype,
            directory=self.directory,
        )
        added = 0
        for index, record in runner.run(_tokenise, jobs, shared):
            if record is not None:
                job = jobs[index]
                self._draft.record(job.part, [record])
                self._parts[job.unit.name] = (*job.parts, record)
                added += record.facts["documents"]
        if added or (self._parts and not self._published):  # a crash may have come between
            names = [
                _part(job.unit, number)
                for job in jobs
                for number in range(len(self.parts(job.unit)))
            ]
            self._draft.publish(sorted(names), {}, growing=True)
            self._published = True
        return added


def open_tokens(
    directory: AnyPath, parts: Sequence[FileRecord], dtype: str, cut: AnyPath | None = None
) -> TokensOf:
    """Map the tokens of one unit from its parts, after comparing checksums.

    Args:
        directory: Of the store.
        parts: What the store has of the unit.
        dtype: ``uint16`` or ``uint32``.
        cut: Whose documents are to be read, for the message where they are gone.
    """
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
                f"{directory}: the tokens of a document that was cut are gone; delete "
                f"{cut or 'the cut'} and run again to make both anew"
            )
        view, position = where[order[place]]
        offsets, values = views[view]
        return values[offsets[position] : offsets[position + 1]]

    return TokensOf(sorted_rows, all_sizes[order], read)


def _tokenise(job: _Job, shared: _Shared) -> FileRecord | None:
    """Tokenise what is wanted of a unit and not there; the new part's record, if there is one."""
    wanted = shared.wanted.rows(job.unit)
    known = open_tokens(shared.directory, job.parts, shared.dtype)
    missing = np.setdiff1d(wanted, known.rows, assume_unique=True)
    record, new = _write_part(job, missing, shared) if len(missing) else (None, missing)
    rows = np.concatenate([known.rows, missing])
    order = np.argsort(rows, kind="stable")
    sizes = np.concatenate([known.sizes, new])[order]
    shared.wanted.sized(job.unit, wanted, sizes[np.searchsorted(rows[order], wanted)])
    return record


def _write_part(job: _Job, rows: np.ndarray, shared: _Shared) -> tuple[FileRecord, np.ndarray]:
    """One Arrow file of the tokens of ``rows``, a batch of documents at a time; their sizes."""
    tokenizer = _tokenizer(shared.tokenizer)
    token_type = pa.uint16() if shared.dtype == "uint16" else pa.uint32()
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("tokens", pa.large_list(pa.field("item", token_type, nullable=False))),
        ]
    )
    # Named by what is in it: a driver that comes late cannot replace it by other documents.
    digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:12]
    name = f"{job.part}-{digest}.arrow"
    sizes = [np.empty(0, dtype=np.int64)]
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for some, texts in _texts_of(job.unit, rows):
            encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            documents = [
                np.asarray([shared.eos, *encoding.ids, shared.eos], dtype=shared.dtype)
                for encoding in encoded
            ]
            sizes.append(np.array([len(ids) for ids in documents], dtype=np.int64))
            offsets = np.concatenate([[0], np.cumsum(sizes[-1])])
            values = pa.array(np.concatenate(documents), token_type)
            lists = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()), values, type=schema.field("tokens").type
            )
            writer.write_batch(pa.record_batch([pa.array(some), lists], schema=schema))
    written = np.concatenate(sizes)
    facts = {"unit": job.unit.name, "documents": len(rows), "tokens": int(written.sum())}
    return FileRecord.of(name, sink, **facts), written


@functools.lru_cache(maxsize=1)
def _tokenizer(text: str) -> tokenizers.Tokenizer:
    """A tokenizer, read once by each worker: a large vocabulary takes half a second."""
    tokenizer = tokenizers.Tokenizer.from_str(text)
    # A stranger who writes <|endoftext|> gets its letters, not the token.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _texts_of(unit: Unit, rows: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    """``rows`` with their texts, reading only the row groups that hold any."""
    with pq.ParquetFile(unit.path()) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < start + count)]
            if len(inside):
                table = file.read_row_group(group, ["text", "bytes"])
                table = table.take(pa.array(inside - start))
                filled = np.cumsum(table.column("bytes").to_numpy()) // _BATCH_BYTES
                edges = [0, *(np.flatnonzero(np.diff(filled)) + 1).tolist(), len(inside)]
                for first, last in itertools.pairwise(edges):
                    texts = table.column("text").slice(first, last - first)
                    yield inside[first:last], texts.to_pylist()
            start += count
