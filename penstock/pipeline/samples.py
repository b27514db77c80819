"""Samples of a pool: documents drawn by hash of id and text, and only their pages read.

A draw is of the files of rows: ids, hashes and sources, 20 bytes a document. Their digests are in
the records of the corpus, so the columns are compared with those, and drawn texts with their own
hashes; the rest of both files is not read. A sample of 1,000 of a million documents reads 4.5 % of
the corpus (benchmarks/samples.py). Units are read in parallel, and the driver holds the sample.

A sample depends neither on how the work is divided nor on the order of the inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.columnar import OwnParquet
from penstock.errors import ArtefactError
from penstock.hashing import hash_documents, mix, uniform
from penstock.pipeline.grouped import packed
from penstock.pipeline.pages import PAGE_ERRORS, read_texts
from penstock.pipeline.pool import Pool
from penstock.pipeline.runner import LocalRunner, Runner, in_order
from penstock.pipeline.units import ROWS, SCHEMA, Unit
from penstock.storage import store_of
from penstock.text_hashes import hash_texts, hash_words

__all__ = ["FIT", "inside", "sample_documents", "sample_texts"]

FIT = "fit"
"""Hash purpose of the samples that selectors are fitted on."""

_SCHEMA = pa.schema(
    [SCHEMA.field("id"), SCHEMA.field("text"), SCHEMA.field("source"), ROWS.field("hash")]
)

_LIGHT = ["id", "source", "hash"]

_ITEM = 2**23
"""Bytes that one task reads, about: of rows, and of texts that are expected to be drawn."""

_ROW = 64
"""Bytes of a row, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """What is drawn: about ``count`` of ``of``, each with the same probability."""

    count: int
    of: int
    """Documents of the pool, or of its source; or their bytes, where ``count`` is of bytes."""
    seed: int
    purpose: str
    """Keeps samples for different uses apart."""
    source: str | None = None
    """The source to draw from; None for all."""
    characters: int | None = None
    """Characters of each text, at most; None for whole texts."""

    def drawn(self, documents: pa.Table) -> np.ndarray:
        """Return which documents are drawn: (n,) bool."""
        drawn = inside(documents, self.count, self.of, self.seed, self.purpose)
        if self.source is not None:
            drawn &= pc.equal(documents["source"], self.source).to_numpy()
        return drawn


def sample_documents(
    pool: Pool,
    count: int,
    seed: int,
    purpose: str,
    runner: Runner | None = None,
    source: str | None = None,
    characters: int | None = None,
) -> pa.Table:
    """Draw about ``count`` documents, or all of a smaller pool, in the order of their hashes.

    That order is random, as training needs it, and independent of the order of the inputs.

    Args:
        pool: The pool.
        count: Documents wanted.
        seed: Any integer.
        purpose: Keeps samples for different uses apart.
        runner: Reads units in parallel; by default this process does.
        source: The source whose documents are drawn; None for all.
        characters: Characters of each text, at most; None for whole texts.

    Returns:
        ``id`` and ``source`` string, ``text`` large_string, ``hash`` fixed_size_binary(16).

    Raises:
        ArtefactError: A file changed since it was written.
    """
    of = pool.kept if source is None else pool.by_source.get(source, {}).get("documents", 0)
    wanted = _Drawing(
        count=count, of=of, seed=seed, purpose=purpose, source=source, characters=characters
    )
    sample = pa.Table.from_batches(list(_draw(pool, wanted, runner)), _SCHEMA)
    hashes = hash_documents(sample, mix(seed, purpose, "order"))
    return sample.take(pa.array(np.argsort(hashes, kind="stable")))


def sample_texts(
    pool: Pool, size: int, seed: int, purpose: str, runner: Runner | None = None
) -> Iterator[str]:
    """Draw texts of about ``size`` bytes in all, in the order of the corpus."""
    wanted = _Drawing(count=size, of=pool.bytes, seed=seed, purpose=purpose)
    for batch in _draw(pool, wanted, runner):
        yield from batch.column("text").to_pylist()


def inside(
    documents: pa.Table | pa.RecordBatch, count: int, of: int, seed: int, purpose: str
) -> np.ndarray:
    """Return which documents :func:`sample_documents` draws, by id and hash: (n,) bool.

    Args:
        documents: Documents of the pool, with ``id`` and ``hash``.
        count: The argument of :func:`sample_documents`, as ``seed`` and ``purpose``.
        of: Number of documents of the pool.
    """
    assert "hash" in documents.schema.names, "else it would draw others"
    draws = uniform(hash_documents(documents, mix(seed, purpose)))
    return np.asarray(draws < count / max(1, of))


@dataclass(frozen=True, slots=True)
class _Units:
    """Units that one task reads."""

    units: Sequence[Unit]

    @property
    def label(self) -> str:
        return f"{self.units[0].name} to {self.units[-1].name}"


def _draw(pool: Pool, wanted: _Drawing, runner: Runner | None) -> Iterator[pa.RecordBatch]:
    """Yield the documents that are drawn, in the order of the corpus."""
    share = min(1.0, wanted.count / max(1, wanted.of))
    units = [unit for unit in pool.units if unit.documents and wanted.count > 0]
    items = packed(units, lambda unit: _size(unit, share), _ITEM)
    spread = in_order(runner or LocalRunner(1))
    for batches in spread(_draw_units, [_Units(units) for units in items], wanted):
        yield from batches


def _size(unit: Unit, share: float) -> int:
    return _ROW * unit.of + round(share * unit.record.facts["bytes"])


def _draw_units(item: _Units, wanted: _Drawing) -> list[pa.RecordBatch]:
    return [batch for unit in item.units if (batch := _draw_unit(unit, wanted)) is not None]


def _draw_unit(unit: Unit, wanted: _Drawing) -> pa.RecordBatch | None:
    rows = _rows_of(unit)
    numbers = unit.numbers()
    if len(numbers) < len(rows):
        rows = rows.take(pa.array(numbers))
    drawn = wanted.drawn(rows)
    if not drawn.any():
        return None
    rows = rows.filter(pa.array(drawn)).combine_chunks()
    texts = _texts_of(unit, numbers[drawn], rows["hash"].chunk(0))
    if wanted.characters is not None:
        texts = pc.utf8_slice_codeunits(texts, 0, wanted.characters)
    arrays = {"text": texts, **{name: rows[name].chunk(0) for name in _LIGHT}}
    columns = [arrays[name] for name in _SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _rows_of(unit: Unit) -> pa.Table:
    """Read ids, sources and hashes of all rows of a unit, and compare them with its record.

    Raises:
        ArtefactError: They changed since they were written.
    """
    path = store_of(unit.corpus).local(unit.corpus / unit.rows.path)
    facts = unit.record.facts
    try:
        # A remote file is copied whole, for later passes, too.
        with OwnParquet(path or unit.rows.verified(unit.corpus), pre_buffer=False) as file:
            rows = file.read(_LIGHT, use_threads=False)
        ids, hashes = (column.combine_chunks() for column in (rows["id"], rows["hash"]))
        found = [_digest(hash_texts(ids)), _digest(hashes), _counts(rows["source"])]
        counts = {name: counts["documents"] for name, counts in facts["sources"].items()}
        if found == [facts["ids"], facts["texts"], counts]:
            return rows
    except (FileNotFoundError, pa.ArrowException, OSError, ArtefactError, *PAGE_ERRORS):
        unit.rows.verified(unit.corpus)
        raise
    unit.rows.verified(unit.corpus)
    raise _other_rows(unit)


def _digest(hashes: pa.Array) -> str:
    return hashlib.blake2b(hash_words(hashes).tobytes(), digest_size=16).hexdigest()


def _counts(sources: pa.ChunkedArray) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(sources).to_pylist()}


def _texts_of(unit: Unit, rows: np.ndarray, hashes: pa.Array) -> pa.Array:
    """Read texts of a unit by its rows, and compare their hashes.

    Raises:
        ArtefactError: They changed since they were written.
    """
    path = unit.corpus / unit.record.path
    try:
        texts = read_texts(path, unit.record.bytes, SCHEMA.get_field_index("text"), rows)
        if hash_texts(texts).equals(hashes):
            return texts
    except (FileNotFoundError, *PAGE_ERRORS):
        unit.path()
        raise
    unit.path()
    raise _other_rows(unit)


def _other_rows(unit: Unit) -> ArtefactError:
    return ArtefactError(
        "its texts are not those of its file of rows",
        file=unit.corpus / unit.record.path,
        fix=f"delete {unit.corpus} and run again to make it anew",
    )
