"""The token store: the tokens of those documents that were candidates of some cut.

Tokenising is slow (1.3 MB/s a core by ``tokenizers``, which every tokenizer but byte-level BPE has)
and a cut takes a small part of a pool. So a document is tokenised once, when its score brings it
near a budget: the store of (corpus, tokenizer) grows file by file. Unlike that of other artefacts
its manifest is rewritten as it grows. The tokens of a document never change, so no artefact made
from the store depends on its history.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.activity import count_documents
from penstock.artefact import Artefact, Draft, FileRecord, Workspace, fingerprint
from penstock.columnar import OwnParquet, read_batches
from penstock.errors import ArtefactError
from penstock.pipeline.pool import Pool
from penstock.pipeline.units import Unit
from penstock.storage import AnyPath, atomic_file, read_file
from penstock.tokenization.encoder import TextEncoder

__all__ = [
    "TokenStore",
    "Tokenising",
    "TokensOf",
    "UnitTokens",
    "count_tokens",
    "find_token_files",
    "open_tokens",
]

_STAGE, _VERSION = "tokens", 3

_BATCH_BYTES = 2**20
"""Bytes of text in a call of the tokenizer, whose result takes about 35 bytes for each."""


@dataclass(frozen=True, slots=True)
class TokensOf:
    """The tokens of a unit, as far as the store has them."""

    rows: np.ndarray
    """(k,) int64, ascending."""
    sizes: np.ndarray
    """(k,) int64, tokens of each, both ends of text included."""
    read: Callable[[int], np.ndarray]
    """``read(row)``: (size,) uint16 or uint32, mapped, not copied."""


class UnitTokens(NamedTuple):
    """A unit and the store's files of its tokens: an item for a task."""

    unit: Unit
    parts: tuple[FileRecord, ...]

    @property
    def part(self) -> str:
        """The name under which the next file will be recorded."""
        return _part(self.unit, len(self.parts))


def _part(unit: Unit, number: int) -> str:
    return f"{unit.name}-{number:03d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenising:
    """The state of tasks that count the tokens of documents; sent once to each node."""

    tokenizer: str
    """The content of ``tokenizer.json``."""
    encoder: str
    """The library that encodes, as JSON: a fact of the tokenizer."""
    eos: int
    dtype: str
    directory: AnyPath
    """Directory of the store."""
    generation: int = 0
    """:attr:`~penstock.artefact.Draft.generation` of the driver."""

    def sizes(self, held: UnitTokens, rows: np.ndarray) -> tuple[np.ndarray, FileRecord | None]:
        """Count the tokens of documents; those that the store lacks are tokenised first.

        Args:
            held: Unit of the documents, and the files of its tokens in the store.
            rows: (k,) int64, rows of the corpus's unit, ascending.

        Returns:
            (k,) int64 tokens of each, both ends of text included, and the record of the new file
            of tokens, if one was needed.
        """
        known = open_tokens(self.directory, held.parts)
        missing = np.setdiff1d(rows, known.rows, assume_unique=True)
        part, new = _write_part(held, missing, self) if len(missing) else (None, missing)
        every = np.concatenate([known.rows, missing])
        order = np.argsort(every, kind="stable")
        sizes = np.concatenate([known.sizes, new])[order]
        return sizes[np.searchsorted(every[order], rows)], part


class TokenStore:
    """The tokens of a pool's texts under one tokenizer, as far as they are made; in the driver.

    They hang on the text: pools of one corpus that keep other documents share them.
    """

    def __init__(self, pool: Pool, tokenizer: Artefact, workspace: Workspace) -> None:
        self.pool = pool
        self.vocab_size = int(tokenizer.facts["vocab_size"])
        self.eos = int(tokenizer.facts["eos"])
        self.bytes_per_token = float(tokenizer.facts["bytes_per_token"])
        self.dtype = _dtype_of(tokenizer)
        self._tokenizer = tokenizer
        self._workspace = workspace
        self._changed = True  # an attempt may have been killed before it published its parts

    @functools.cached_property
    def _draft(self) -> Draft:
        """Open the draft at the first use: finished shards are read without one."""
        return self._workspace.draft(_STAGE, _VERSION, {}, _inputs(self.pool, self._tokenizer))

    @functools.cached_property
    def _parts(self) -> dict[str, tuple[FileRecord, ...]]:
        """Finished parts by their records: a killed attempt may have written no manifest."""
        parts: dict[str, tuple[FileRecord, ...]] = {}
        for unit in self.pool.units:
            while found := self._draft.done(_part(unit, len(parts.get(unit.name, ())))):
                parts[unit.name] = (*parts.get(unit.name, ()), *found)
        return parts

    def parts(self, unit: Unit) -> tuple[FileRecord, ...]:
        """Return the files of a unit's tokens; a task opens them by :func:`open_tokens`."""
        return self._parts.get(unit.name, ())

    def units(self) -> list[UnitTokens]:
        """Return every unit of the pool, in order, with the files of its tokens."""
        return [UnitTokens(unit, self.parts(unit)) for unit in self.pool.units]

    @property
    def directory(self) -> AnyPath:
        return self._draft.path

    def tokenising(self) -> Tokenising:
        """Return the state that tasks tokenise with."""
        path = self._tokenizer.verified(self._tokenizer.files[0])
        return Tokenising(
            tokenizer=read_file(path).decode("utf-8"),
            encoder=json.dumps(self._tokenizer.facts["encoder"]),
            eos=self.eos,
            dtype=self.dtype,
            directory=self.directory,
            generation=self._draft.generation,
        )

    def add(self, held: UnitTokens, part: FileRecord) -> int:
        """Record a file of tokens that a task wrote for a unit; returns its documents."""
        self._draft.record(held.part, [part])
        self._parts[held.unit.name] = (*held.parts, part)
        self._changed = True
        return int(part.facts["documents"])

    def publish(self) -> None:
        """Write the manifest anew, if files were added to it."""
        if self._changed and self._parts:
            names = [_part(held.unit, n) for held in self.units() for n in range(len(held.parts))]
            self._draft.publish(sorted(names), {}, growing=True)
            self._changed = False


def _inputs(pool: Pool, tokenizer: Artefact) -> dict[str, Any]:
    return {"text": pool.corpus.facts["text"], "tokenizer": tokenizer.fingerprint}


def find_token_files(
    pool: Pool, tokenizer: Artefact, workspace: Workspace
) -> tuple[AnyPath, dict[str, tuple[FileRecord, ...]]]:
    """Find the store's files of a pool's texts; write nothing.

    Returns:
        The directory of the store, and the files of each unit that has any, by its name. Files
        that a killed driver did not publish are left out.
    """
    name = fingerprint(_STAGE, _VERSION, {}, _inputs(pool, tokenizer))
    found = workspace.find(_STAGE, name)
    files: dict[str, tuple[FileRecord, ...]] = {}
    for record in () if found is None else found.files:
        unit = record.facts["unit"]
        files[unit] = (*files.get(unit, ()), record)
    return workspace.directory(_STAGE, name), files


def count_tokens(unit: Unit, rows: np.ndarray, tokenizer: Artefact) -> np.ndarray:
    """Tokenise documents and keep the counts alone; write nothing.

    Args:
        unit: A unit of the corpus.
        rows: (k,) int64, ascending rows of the corpus's unit.
        tokenizer: The artefact of the tokenizer.

    Returns:
        (k,) int64 tokens of each, both ends of text included.
    """
    definition = read_file(tokenizer.verified(tokenizer.files[0])).decode("utf-8")
    own = tokenizer.facts
    encoder = TextEncoder.shared(definition, int(own["eos"]), json.dumps(own["encoder"]))
    dtype = _dtype_of(tokenizer)
    sizes = [np.empty(0, dtype=np.int64)]
    for _, texts in _texts_of(unit, rows):
        counts = [len(ids) for ids in encoder.documents(texts, dtype)]
        sizes.append(np.array(counts, dtype=np.int64))
    return np.concatenate(sizes)


def _dtype_of(tokenizer: Artefact) -> str:
    return "uint16" if int(tokenizer.facts["vocab_size"]) <= 2**16 else "uint32"


def open_tokens(
    directory: AnyPath, parts: Sequence[FileRecord], cut: AnyPath | None = None
) -> TokensOf:
    """Map the tokens of one unit from its files, after comparing checksums.

    Args:
        directory: Directory of the store.
        parts: The store's files of the unit.
        cut: The cut whose documents are read, for the message where tokens are missing.
    """
    rows: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    sizes: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    views: list[tuple[np.ndarray, np.ndarray]] = []
    part_of: list[np.ndarray] = [np.empty((0, 2), dtype=np.int64)]
    for record in parts:
        for batch in read_batches(record.verified(directory)):
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
                "the tokens of a document of the cut are missing",
                file=directory,
                fix=f"delete {cut or 'the cut'} and run again to make both anew",
            )
        view, position = where[order[place]]
        offsets, values = views[view]
        return values[offsets[position] : offsets[position + 1]]

    return TokensOf(sorted_rows, all_sizes[order], read)


def _write_part(
    held: UnitTokens, rows: np.ndarray, shared: Tokenising
) -> tuple[FileRecord, np.ndarray]:
    """Write a file of the tokens of ``rows``, a batch at a time; returns their sizes, too."""
    encoder = TextEncoder.shared(shared.tokenizer, shared.eos, shared.encoder)
    token_type = pa.uint16() if shared.dtype == "uint16" else pa.uint32()
    schema = pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("tokens", pa.large_list(pa.field("item", token_type, nullable=False))),
        ]
    )
    # Named by its rows and the driver's lease: a late driver cannot replace it by a file of other
    # documents, nor delete it as a file that was left there before.
    digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:12]
    name = f"{held.part}-{digest}-{shared.generation:08d}.arrow"
    sizes = [np.empty(0, dtype=np.int64)]
    with (
        atomic_file(shared.directory / name) as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for some, texts in _texts_of(held.unit, rows):
            documents = encoder.documents(texts, shared.dtype)
            sizes.append(np.array([len(ids) for ids in documents], dtype=np.int64))
            offsets = np.concatenate([[0], np.cumsum(sizes[-1])])
            lists = pa.LargeListArray.from_arrays(
                pa.array(offsets, pa.int64()),
                pa.array(np.concatenate(documents), token_type),
                type=schema.field("tokens").type,
            )
            writer.write_batch(pa.record_batch([pa.array(some), lists], schema=schema))
            count_documents(len(texts), sum(map(len, texts)))
    written = np.concatenate(sizes)
    facts = {"unit": held.unit.name, "documents": len(rows), "tokens": int(written.sum())}
    return FileRecord.of(name, sink, **facts), written


def _texts_of(unit: Unit, rows: np.ndarray) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield rows with their texts, reading only the row groups that hold any of them."""
    with OwnParquet(unit.path()) as file:
        start = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < start + count)]
            if len(inside):
                texts = file.read_row_group(group, ["text"]).column("text")
                texts = texts.take(pa.array(inside - start))
                filled = np.cumsum(pc.binary_length(texts).to_numpy()) // _BATCH_BYTES
                edges = [0, *(np.flatnonzero(np.diff(filled)) + 1).tolist(), len(inside)]
                for first, last in itertools.pairwise(edges):
                    yield inside[first:last], texts.slice(first, last - first).to_pylist()
            start += count
