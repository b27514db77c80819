"""Units: the corpus in pairs of Parquet files, of about 64 MiB of text: the unit of work and retry.

A unit is a file of texts and a file of *rows*, which has what is known of each document without its
text: light passes, as those of a cut, open the second alone. A corpus holds every readable record.
Which of them take part in a curation is a *pool*'s to say (:mod:`penstock.pipeline.pool`): the
units of a pool have the rows that it keeps, and everything that reads them sees those only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.activity import count_documents
from penstock.artefact import Artefact, FileRecord
from penstock.columnar import OwnParquet, read_batch
from penstock.display import numbered
from penstock.pipeline.reading.records import Record
from penstock.storage import AnyPath, atomic_file, store_of
from penstock.text_hashes import hash_normalised, hash_texts, hash_words

__all__ = [
    "BATCH",
    "GIVEN",
    "ROWS",
    "SCHEMA",
    "UNIT_BYTES",
    "Kept",
    "Origin",
    "Unit",
    "UnitWriter",
    "base_of",
    "generations",
    "iter_documents",
    "units_of",
]

UNIT_BYTES = 64 * 2**20
"""Bytes of text after which a unit of a large corpus ends."""

BATCH = 1024
"""Documents of a batch, fixed by the format, so that no result depends on a batch size."""

_GROUP = 4
"""Batches of a row group, which a writer holds in memory."""

_PAGE_BYTES, _PAGE_DOCUMENTS = 40 * 2**10, 4
"""Bytes of a page of texts, and documents after which they are counted. A sample reads single pages
(:mod:`penstock.pipeline.pages`). Of 64 MiB of web text files are 1.1 % larger than with pages of
1,024 documents, and a full read takes 20 ms more than 48; pages of 64 KiB, 14 ms more, make samples
read half as much again."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("meta", pa.large_string()),
        pa.field("parent", pa.string()),
    ]
)
"""The file of texts."""

ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("hash", pa.binary(16), nullable=False),
        pa.field("normal", pa.binary(16), nullable=False),
        pa.field("input", pa.int32()),
        pa.field("line", pa.int64()),
    ]
)
"""The file of rows. ``bytes`` is the text's length in UTF-8; ``hash`` and ``normal`` are BLAKE2b of
128 bits of the text and of the normalised text (:func:`~penstock.text_hashes.normalise`);
``input`` is the number of the input file and ``line`` that of the line or row in it, from 1, both
null where a rewriter made it."""


# -- units ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """The rows of a unit that a pool keeps."""

    directory: AnyPath
    """The artefact of the verdicts."""
    record: FileRecord
    """Its file with the reason of each document of several units: 0 keeps."""
    start: int
    """Documents of other units before this one in the file."""
    documents: int
    """Documents of the unit that are kept."""
    digest: str
    """sha256 of :meth:`mask` in bits."""

    def mask(self, count: int) -> np.ndarray:
        """Return which of the unit's ``count`` documents are kept: (count,) bool.

        Locally only the unit's part of the file is read, and compared with :attr:`digest`.
        """
        path = store_of(self.directory).local(self.directory / self.record.path)
        if path is not None and path.is_file() and path.stat().st_size == self.record.bytes:
            kept = self._read(path, count) == 0
            if hashlib.sha256(np.packbits(kept).tobytes()).hexdigest() == self.digest:
                return kept
        return self.reasons(count) == 0

    def reasons(self, count: int) -> np.ndarray:
        """Map the reasons of the unit's ``count`` documents: (count,) uint16."""
        return self._read(self.record.verified(self.directory), count)

    def _read(self, path: Path, count: int) -> np.ndarray:
        reasons = read_batch(path).column("reason").to_numpy()
        return np.asarray(reasons[self.start : self.start + count])


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of a corpus, or what a pool keeps of it: a small item for a task."""

    number: int
    """Position of the unit in the corpus."""
    name: str
    """``unit-00000-000``: number of the split, and of the unit within it."""
    corpus: AnyPath
    record: FileRecord
    """The file of texts."""
    rows: FileRecord
    """The file of rows."""
    kept: Kept | None = None
    """What a pool keeps of it; None for the whole unit."""

    @property
    def documents(self) -> int:
        """Documents of the unit that are kept."""
        return self.of if self.kept is None else self.kept.documents

    @property
    def of(self) -> int:
        """Documents of the unit, kept or not."""
        return int(self.record.facts["documents"])

    @property
    def label(self) -> str:
        size = self.record.facts["bytes"] / 2**20
        return f"{self.name} ({numbered(self.documents, 'document')}, {size:,.1f} MiB of text)"

    def path(self) -> Path:
        """Return the local path of the file of texts, after comparing its checksum."""
        return self.record.verified(self.corpus)

    def numbers(self) -> np.ndarray:
        """Return the rows of the corpus's unit that are kept: (documents,) int64, ascending."""
        if self.kept is None or self.kept.documents == self.of:
            return np.arange(self.of)
        return np.flatnonzero(self.kept.mask(self.of))

    def id_at(self, row: int) -> str:
        """Read the id of a row of the corpus's unit."""
        with OwnParquet(self.rows.verified(self.corpus)) as file:
            return str(file.read(["id"]).column("id")[row])

    def read_rows(self, columns: Sequence[str]) -> pa.Table:
        """Read columns of the file of rows, for the documents that are kept."""
        with OwnParquet(self.rows.verified(self.corpus)) as file:
            table = file.read(list(columns))
        return table if len(table) == self.documents else table.take(pa.array(self.numbers()))


def units_of(corpus: Artefact) -> list[Unit]:
    """List the units of a corpus, in order; those that a rewriter added come last."""
    base = base_of(corpus) if corpus.facts.get("adds") else None
    before = units_of(base) if base is not None else []
    files = zip(corpus.named("unit-"), corpus.named("rows-"), strict=True)
    own = [
        Unit(number=number, name=Path(record.path).stem, corpus=corpus.path, record=record, rows=r)
        for number, (record, r) in enumerate(files, len(before))
    ]
    return [*before, *own]


def base_of(corpus: Artefact) -> Artefact | None:
    """Open the corpus that a rewriter made this one from; None where it was read from files.

    Raises:
        ArtefactError: It was deleted.
    """
    name = corpus.manifest["inputs"].get("corpus")
    return None if name is None else Artefact.open(corpus.path.parent / name[:16])


def generations(corpus: Artefact) -> list[Artefact]:
    """List a corpus and those that rewriters made it from; the one read from files is last."""
    found = [corpus]
    while (base := base_of(found[-1])) is not None:
        found.append(base)
    return found


def iter_documents(
    unit: Unit,
    columns: Sequence[str] = ("id", "text", "source", "hash"),
    start: int = 0,
    end: int | None = None,
    counted: bool = True,
) -> Iterator[pa.RecordBatch]:
    """Read a unit's documents in batches of exactly :data:`BATCH`; the last may be smaller.

    Args:
        unit: A unit of a corpus, or of a pool: the documents that it keeps.
        columns: Columns of either file of the unit.
        start: The first document to read.
        end: The document after the last one; by default all are read.
        counted: Whether documents count as done when the next batch is asked for.
    """
    light = [name for name in columns if name not in SCHEMA.names]
    rows = unit.read_rows(light) if light else None
    wanted = slice(start, unit.documents if end is None else end)
    for batch in _texts_of(unit, [name for name in columns if name in SCHEMA.names], wanted):
        yield batch if rows is None else _with(batch, rows.slice(start, len(batch)), columns)
        start += len(batch)
        if counted:
            count_documents(len(batch), batch.nbytes)  # the next one is asked for


def _with(batch: pa.RecordBatch, light: pa.Table, columns: Sequence[str]) -> pa.RecordBatch:
    arrays = {name: batch.column(name) for name in batch.schema.names}
    arrays |= {name: light.column(name).combine_chunks() for name in light.column_names}
    return pa.RecordBatch.from_arrays([arrays[name] for name in columns], list(columns))


def _texts_of(unit: Unit, columns: list[str], own: slice) -> Iterator[pa.RecordBatch]:
    with OwnParquet(unit.path()) as file:
        if own == slice(0, unit.of):
            yield from file.iter_batches(batch_size=BATCH, columns=columns, use_threads=False)
            return
        wanted = unit.numbers()[own]
        held: list[pa.Table] = []
        start = 0
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            first, last = np.searchsorted(wanted, [start, end])
            if first < last:
                table = file.read_row_group(group, columns, use_threads=False)
                held.append(table.take(pa.array(wanted[first:last] - start)))
            start = end
            waiting = pa.concat_tables(held) if held else None
            if waiting is None or (len(waiting) < BATCH and group + 1 < file.num_row_groups):
                continue
            whole = len(waiting) // BATCH * BATCH if group + 1 < file.num_row_groups else None
            yield from waiting.slice(0, whole).combine_chunks().to_batches(BATCH)
            held = [] if whole is None else [waiting.slice(whole)]


# -- writing ----------------------------------------------------------------------------------


class Origin(NamedTuple):
    """Where a document was read."""

    input: int
    """Number of the input file."""
    line: int
    """Number of the line or row, from 1."""


class UnitWriter:
    """Writes the documents of one split as units, in order, a row group at a time.

    The files do not depend on how the documents are divided into calls.

    Args:
        directory: Directory of the unfinished corpus.
        part: Name of the split within the corpus; units are ``unit-<part>-<k>``.
        unit_bytes: Bytes of text after which a unit ends.
    """

    def __init__(self, directory: AnyPath, part: str, unit_bytes: int = UNIT_BYTES) -> None:
        self.records: list[FileRecord] = []
        """Of each unit the file of texts, then the file of rows."""
        self._directory = directory
        self._part = part
        self._limit = unit_bytes
        self._unit = ExitStack()
        self._count = 0
        self._rows: list[tuple[object, ...]] = []
        self._row_bytes = 0
        self._begin()

    def _begin(self) -> None:
        self._held: list[pa.RecordBatch] = []
        self._documents = 0
        self._bytes = 0
        self._sources: dict[str, dict[str, int]] = {}
        self._texts_hash, self._ids_hash = (hashlib.blake2b(digest_size=16) for _ in range(2))
        self._writers: list[pq.ParquetWriter] = []

    @property
    def sources(self) -> Collection[str]:
        """Those of the unit that is being written."""
        return self._sources

    def __enter__(self) -> UnitWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._write_rows()
            if self._documents:
                self._finish()
        self._unit.__exit__(kind, error, trace)

    def add(
        self,
        name: str,
        record: Record,
        size: int,
        parent: str | None = None,
        origin: Origin | None = None,
    ) -> None:
        """Append a document whose id is ``name`` and whose text has ``size`` bytes."""
        labels = (name, record.text, record.source, record.meta or None, parent)
        self._rows.append((*labels, size, *(origin or (None, None))))
        self._row_bytes += size
        if len(self._rows) == BATCH or self._bytes + self._row_bytes >= self._limit:
            self._write_rows()

    def _write_rows(self) -> None:
        """Convert rows to an Arrow batch, which takes half the memory of Python strings."""
        columns = [pa.array(column, kind) for column, kind in zip(zip(*self._rows), GIVEN.types)]
        self._rows, self._row_bytes = [], 0
        if columns:
            self.write(pa.RecordBatch.from_arrays(columns, schema=GIVEN))

    def write(self, documents: pa.RecordBatch) -> None:
        """Append documents, of the schema :data:`GIVEN`."""
        texts = documents["text"]
        hashes = [hash_texts(texts), hash_normalised(texts)]
        whole = pa.RecordBatch.from_arrays([*documents.columns, *hashes], schema=_BOTH)
        totals = np.cumsum(documents["bytes"].to_numpy())
        start = before = 0
        while start < len(whole):
            # A unit ends with the document that fills it.
            filled = np.searchsorted(totals, before + self._limit - self._bytes)
            end = min(int(filled) + 1, len(whole))
            self._hold(whole.slice(start, end - start))
            start, before = end, int(totals[end - 1])
            if self._bytes >= self._limit:
                self._finish()

    def _hold(self, documents: pa.RecordBatch) -> None:
        """Append documents of one unit."""
        self._texts_hash.update(hash_words(documents["hash"]).tobytes())
        self._ids_hash.update(hash_words(hash_texts(documents["id"])).tobytes())
        sources = documents["source"].dictionary_encode()
        codes, sizes = sources.indices.to_numpy(), documents["bytes"].to_numpy()
        counts, totals = np.bincount(codes), np.bincount(codes, sizes).astype(np.int64)
        for source, count, total in zip(sources.dictionary.to_pylist(), counts, totals):
            tally = self._sources.setdefault(source, {"documents": 0, "bytes": 0})
            tally["documents"] += int(count)
            tally["bytes"] += int(total)
        self._held.append(documents)
        self._documents += len(documents)
        self._bytes += int(sizes.sum())
        if sum(map(len, self._held)) >= _GROUP * BATCH:
            self._flush()

    def _flush(self, last: bool = False) -> None:
        """Write the row groups that are full, or at last all; the bytes of a file depend on it."""
        if not self._writers:
            self._sinks = [
                self._unit.enter_context(atomic_file(self._directory / self._name(kind)))
                for kind in ("unit", "rows")
            ]
            self._writers = [
                self._unit.enter_context(
                    pq.ParquetWriter(
                        sink,
                        schema,
                        compression="zstd",
                        use_dictionary=["source"],
                        write_statistics=False,
                        **options,
                    )
                )
                for sink, schema, options in zip(self._sinks, (SCHEMA, ROWS), (_PAGES, {}))
            ]
        held = pa.Table.from_batches(self._held, _BOTH).combine_chunks()
        size = _GROUP * BATCH
        end = len(held) if last else len(held) // size * size
        for start in range(0, end, size):
            # Chunks of one size, since pages of Parquet end where chunks do.
            group = held.slice(start, min(size, end - start)).to_batches(BATCH)
            table = pa.Table.from_batches(group, _BOTH)
            for writer, schema in zip(self._writers, (SCHEMA, ROWS)):
                writer.write_table(table.select(schema.names), row_group_size=size)
        self._held = held.slice(end).to_batches()

    def _name(self, kind: str) -> str:
        return f"{kind}-{self._part}-{self._count:03d}.parquet"

    def _finish(self) -> None:
        with self._unit:  # an error closes it, too, so that no partial file stays
            self._flush(last=True)
        texts, rows = self._sinks
        self.records += [
            FileRecord.of(
                self._name("unit"),
                texts,
                documents=self._documents,
                bytes=self._bytes,
                sources=self._sources,
                texts=self._texts_hash.hexdigest(),
                ids=self._ids_hash.hexdigest(),
            ),
            FileRecord.of(self._name("rows"), rows),
        ]
        self._count += 1
        self._begin()


GIVEN = pa.schema([*SCHEMA, *(ROWS.field(name) for name in ("bytes", "input", "line"))])
"""What a writer of units is given; it adds the hashes of the texts."""

_PAGES: dict[str, Any] = {
    "data_page_size": _PAGE_BYTES,
    "write_batch_size": _PAGE_DOCUMENTS,
    "write_page_index": True,
}

_BOTH = pa.schema([*GIVEN, ROWS.field("hash"), ROWS.field("normal")])
