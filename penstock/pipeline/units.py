"""Units: the corpus in Parquet files of about 64 MiB of text, the unit of work and of retry.

Samples of the documents are drawn by hash of id, independent of how the work is divided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, FileRecord
from penstock.hashing import hash_ids, mix, uniform
from penstock.pipeline.reading.records import Record
from penstock.storage import AnyPath, atomic_file

__all__ = [
    "BATCH",
    "FIT",
    "SCHEMA",
    "UNIT_BYTES",
    "Unit",
    "UnitWriter",
    "base_of",
    "generations",
    "inside",
    "iter_documents",
    "sample_documents",
    "sample_texts",
    "units_of",
]

FIT = "fit"
"""Hash purpose of the samples that selectors are fitted on."""

_COLUMNS = ("id", "text", "source")


def sample_documents(corpus: Artefact, count: int, seed: int, purpose: str) -> pa.Table:
    """Draw about ``count`` documents, or all of a smaller corpus, in the order of their hashes.

    That order is random, as training needs it, and independent of the order of the inputs.

    Returns:
        ``id`` and ``source`` string, ``text`` large_string.
    """
    batches = list(_draw(corpus, count, int(corpus.facts["documents"]["kept"]), seed, purpose))
    schema = pa.schema([("id", pa.string()), ("text", pa.large_string()), ("source", pa.string())])
    sample = pa.Table.from_batches([batch.cast(schema) for batch in batches], schema)
    hashes = hash_ids(sample["id"], mix(seed, purpose, "order"))
    return sample.take(pa.array(np.argsort(hashes, kind="stable")))


def sample_texts(corpus: Artefact, size: int, seed: int, purpose: str) -> Iterator[str]:
    """Draw texts of about ``size`` bytes in all, in corpus order."""
    total = sum(tally["bytes"] for tally in corpus.facts["by_source"].values())
    for batch in _draw(corpus, size, total, seed, purpose):
        yield from batch.column("text").to_pylist()


def inside(
    ids: pa.Array | pa.ChunkedArray, count: int, of: int, seed: int, purpose: str
) -> np.ndarray:
    """Return which documents :func:`sample_documents` draws, by their ids: (n,) to (n,) bool.

    Args:
        ids: Ids of documents of the corpus.
        count: The argument of :func:`sample_documents`, as ``seed`` and ``purpose``.
        of: Number of documents of the corpus.
    """
    return np.asarray(uniform(hash_ids(ids, mix(seed, purpose))) < count / max(1, of))


def _draw(
    corpus: Artefact, count: int, of: int, seed: int, purpose: str
) -> Iterator[pa.RecordBatch]:
    for unit in units_of(corpus):
        with pq.ParquetFile(unit.path()) as file:
            ids = file.read(["id"]).column("id")
        drawn = inside(ids, count, of, seed, purpose)
        if not drawn.any():
            continue
        start = 0
        for batch in iter_documents(unit, _COLUMNS):
            rows = np.flatnonzero(drawn[start : start + len(batch)])
            start += len(batch)
            if len(rows):
                yield batch.take(pa.array(rows))


UNIT_BYTES = 64 * 2**20
"""Bytes of text after which a unit ends."""

BATCH = 1024
"""Documents of a batch, fixed by the format, so that no result depends on a batch size."""

_GROUP = 4
"""Batches of a row group, which a writer holds in memory."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("meta", pa.large_string()),
        pa.field("parent", pa.string()),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
"""``bytes`` is the text's length in UTF-8, by which a cut plans without reading text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of a corpus: a small item for a task."""

    number: int
    """Position of the unit in the corpus."""
    name: str
    """``unit-00000-000``: number of the split, and of the unit within it."""
    corpus: AnyPath
    record: FileRecord

    @property
    def documents(self) -> int:
        return int(self.record.facts["documents"])

    @property
    def label(self) -> str:
        size = self.record.facts["bytes"] / 2**20
        return f"{self.name} ({self.documents:,} documents, {size:,.1f} MiB of text)"

    def path(self) -> Path:
        """Return the local path of the Parquet file, after comparing its checksum."""
        return self.record.verified(self.corpus)


def units_of(corpus: Artefact) -> list[Unit]:
    """List the units of a corpus, in order; those that a rewriter added come last."""
    base = base_of(corpus) if corpus.facts.get("adds") else None
    before = units_of(base) if base is not None else []
    own = [
        Unit(number=number, name=Path(record.path).stem, corpus=corpus.path, record=record)
        for number, record in enumerate(corpus.named("unit-"), len(before))
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
    unit: Unit, columns: Sequence[str] = ("id", "text", "source")
) -> Iterator[pa.RecordBatch]:
    """Read the unit's documents in batches of exactly :data:`BATCH`; the last may be smaller."""
    with pq.ParquetFile(unit.path()) as file:
        yield from file.iter_batches(batch_size=BATCH, columns=list(columns), use_threads=False)


class UnitWriter:
    """Writes the documents of one split as units, in order, a row group at a time.

    Args:
        directory: Directory of the unfinished corpus.
        part: Name of the split within the corpus; units are ``unit-<part>-<k>``.
        unit_bytes: Bytes of text after which a unit ends.
    """

    def __init__(self, directory: AnyPath, part: str, unit_bytes: int = UNIT_BYTES) -> None:
        self.records: list[FileRecord] = []
        self._directory = directory
        self._part = part
        self._limit = unit_bytes
        self._unit = ExitStack()
        self._begin()

    def _begin(self) -> None:
        self._rows: list[tuple[str, str, str, str | None, str | None, int]] = []
        self._batches: list[pa.RecordBatch] = []
        self._sources: dict[str, dict[str, int]] = {}
        self._bytes = 0
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> UnitWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None and self._bytes:
            self._finish()
        self._unit.__exit__(kind, error, trace)

    @property
    def _name(self) -> str:
        return f"unit-{self._part}-{len(self.records):03d}.parquet"

    def add(self, name: str, record: Record, size: int, parent: str | None = None) -> None:
        """Append a document whose id is ``name`` and whose text has ``size`` bytes, not 0."""
        self._rows.append((name, record.text, record.source, record.meta or None, parent, size))
        tally = self._sources.get(record.source)
        if tally is None:
            tally = self._sources[record.source] = {"documents": 0, "bytes": 0}
        tally["documents"] += 1
        tally["bytes"] += size
        self._bytes += size
        if len(self._rows) == BATCH:
            self._batch()
        if self._bytes >= self._limit:
            self._finish()

    def _batch(self) -> None:
        """Convert rows to an Arrow batch, which takes half the memory of Python strings."""
        columns = [pa.array(column, kind) for column, kind in zip(zip(*self._rows), SCHEMA.types)]
        self._rows = []
        if columns:
            self._batches.append(pa.RecordBatch.from_arrays(columns, schema=SCHEMA))
        if len(self._batches) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        """Write a row group: a whole number of batches, so that batches never straddle two."""
        if self._writer is None:
            self._sink = self._unit.enter_context(atomic_file(self._directory / self._name))
            self._writer = self._unit.enter_context(
                pq.ParquetWriter(
                    self._sink,
                    SCHEMA,
                    compression="zstd",
                    use_dictionary=["source"],
                    write_statistics=False,
                )
            )
        if self._batches:
            self._writer.write_table(
                pa.Table.from_batches(self._batches, SCHEMA), row_group_size=_GROUP * BATCH
            )
        self._batches = []

    def _finish(self) -> None:
        with self._unit:  # an error closes it, too, so that no partial file stays
            self._batch()
            self._flush()
        self.records.append(
            FileRecord.of(
                self._name,
                self._sink,
                documents=sum(tally["documents"] for tally in self._sources.values()),
                bytes=self._bytes,
                sources=self._sources,
            )
        )
        self._begin()
