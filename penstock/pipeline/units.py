"""Units: the corpus in Parquet files of about 64 MiB of text, the grain of work and of retry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact, FileRecord, atomic_file
from penstock.pipeline.readers import Record

__all__ = ["BATCH", "SCHEMA", "UNIT_BYTES", "Unit", "UnitWriter", "iter_documents", "units_of"]

UNIT_BYTES = 64 * 2**20
"""Text of a unit before the next one is begun."""

BATCH = 1024
"""Documents of a batch, fixed by the format: results never depend on who asks for how many."""

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
"""``bytes`` is the text's length in UTF-8, so that a cut can plan without reading text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One unit of a corpus, as a task is told of it: small, and enough to find everything."""

    number: int
    """Position in the corpus."""
    name: str
    """``unit-00000-000``: of the input file, and within it."""
    corpus: Path
    record: FileRecord

    @property
    def documents(self) -> int:
        return int(self.record.facts["documents"])

    def path(self) -> Path:
        """The Parquet file, after its checksum was compared."""
        return Artefact(self.corpus, {}, ()).verified(self.record)


def units_of(corpus: Artefact) -> list[Unit]:
    """The units of a corpus, in order."""
    return [
        Unit(number=number, name=Path(record.path).stem, corpus=corpus.path, record=record)
        for number, record in enumerate(corpus.named("unit-"))
    ]


def iter_documents(
    unit: Unit, columns: Sequence[str] = ("id", "text", "source")
) -> Iterator[pa.RecordBatch]:
    """The unit's documents in batches of exactly :data:`BATCH` (the last may be smaller)."""
    with pq.ParquetFile(unit.path()) as file:
        yield from file.iter_batches(batch_size=BATCH, columns=list(columns))


@dataclass(slots=True)
class _Buffer:
    rows: list[tuple[str, str, str, str | None, None, int]] = field(default_factory=list)
    bytes: int = 0


class UnitWriter:
    """Writes the documents of one input file as units, in order.

    Args:
        directory: Of the corpus in the making.
        part: Name of the input within the corpus; units are ``unit-<part>-<k>``.
        unit_bytes: Text of a unit before the next is begun.
    """

    def __init__(self, directory: Path, part: str, unit_bytes: int = UNIT_BYTES) -> None:
        self.records: list[FileRecord] = []
        self._directory = directory
        self._part = part
        self._limit = unit_bytes
        self._buffer = _Buffer()

    def add(self, name: str, record: Record) -> None:
        """Append a document whose id is ``name``."""
        size = len(record.text.encode())
        self._buffer.rows.append(
            (name, record.text, record.source, record.meta or None, None, size)
        )
        self._buffer.bytes += size
        if self._buffer.bytes >= self._limit:
            self._flush()

    def close(self) -> list[FileRecord]:
        """Write what is left; the records of all units written."""
        if self._buffer.rows:
            self._flush()
        return self.records

    def _flush(self) -> None:
        rows, self._buffer = self._buffer.rows, _Buffer()
        columns = [pa.array(column, field.type) for column, field in zip(zip(*rows), SCHEMA)]
        name = f"unit-{self._part}-{len(self.records):03d}.parquet"
        with atomic_file(self._directory / name) as sink:
            # Row groups of a whole number of batches, so that batches never straddle two.
            pq.write_table(
                pa.Table.from_arrays(columns, schema=SCHEMA),
                sink,
                compression="zstd",
                row_group_size=4 * BATCH,
                use_dictionary=["source"],
                write_statistics=False,
            )
        sources: dict[str, dict[str, int]] = {}
        for _, _, source, _, _, size in rows:
            tally = sources.setdefault(source, {"documents": 0, "bytes": 0})
            tally["documents"] += 1
            tally["bytes"] += size
        self.records.append(
            FileRecord.of(
                self._directory,
                name,
                documents=len(rows),
                bytes=sum(row[-1] for row in rows),
                sources=sources,
            )
        )
