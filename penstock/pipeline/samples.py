"""Samples of a pool: documents drawn by hash of id and text, and only their pages read.

A draw is of the files of rows: ids, hashes and sources, 20 bytes a document. Their digests are in
the records of the corpus, so the columns are compared with those, and drawn texts with their own
hashes; the rest of both files is not read. A sample of 1,000 of a million documents reads 4.5 % of
the corpus (benchmarks/samples.py). Units are read in parallel, and the driver holds the sample.

A sample depends neither on how the work is divided nor on the order of the inputs.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    """What is drawn: a share of each source's documents, each with the same probability."""

    shares: Mapping[str, float]
    """The share by source; of others nothing is drawn."""
    seed: int
    purpose: str
    """Keeps samples for different uses apart."""
    characters: int | None = None
    """Characters of each text, at most; None for whole texts."""
    shortest: int = 0
    """Characters of a document, at least."""

    def drawn(self, documents: pa.Table) -> np.ndarray:
        """Return which documents are drawn: (n,) bool; some with ``shortest`` are too short."""
        sources = documents["source"].combine_chunks().dictionary_encode()
        shares = [self.shares.get(name, 0.0) for name in sources.dictionary.to_pylist()]
        draws = uniform(hash_documents(documents, mix(self.seed, self.purpose)))
        drawn = draws < np.array(shares, np.float64)[sources.indices.to_numpy()]
        return np.asarray(drawn & _may_have(documents, self.shortest))


def sample_documents(
    pool: Pool,
    count: int,
    seed: int,
    purpose: str,
    runner: Runner | None = None,
    source: str | None = None,
    characters: int | None = None,
    shortest: int = 0,
    balanced: bool = False,
    most: float = 1.0,
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
        shortest: Characters of a document, at least. Their number is estimated from bytes, so
            fewer documents are drawn of texts that are not ASCII.
        balanced: Draw equally many documents of each source, and all of a source that has fewer.
        most: Share of a source's documents that is drawn at most, those that :func:`inside` finds.

    Returns:
        ``id`` and ``source`` string, ``text`` large_string, ``hash`` fixed_size_binary(16).

    Raises:
        ArtefactError: A file changed since it was written.
    """
    counts = _counts_of(pool, runner, shortest)
    if source is not None:
        counts = {source: counts.get(source, 0)}
    wanted = _Drawing(
        shares=_shares(counts, count, balanced, most),
        seed=seed,
        purpose=purpose,
        characters=characters,
        shortest=shortest,
    )
    sample = pa.Table.from_batches(list(_draw(pool, wanted, runner)), _SCHEMA)
    hashes = hash_documents(sample, mix(seed, purpose, "order"))
    return sample.take(pa.array(np.argsort(hashes, kind="stable")))


def sample_texts(
    pool: Pool, size: int, seed: int, purpose: str, runner: Runner | None = None
) -> Iterator[str]:
    """Draw texts of about ``size`` bytes in all, in the order of the corpus."""
    shares = dict.fromkeys(pool.by_source, size / max(1, pool.bytes))
    for batch in _draw(pool, _Drawing(shares=shares, seed=seed, purpose=purpose), runner):
        yield from batch.column("text").to_pylist()


def inside(
    documents: pa.Table | pa.RecordBatch, share: float, seed: int, purpose: str
) -> np.ndarray:
    """Return which documents :func:`sample_documents` may draw, by id and hash: (n,) bool.

    Args:
        documents: Documents of the pool, with ``id`` and ``hash``.
        share: Its argument ``most``, or its ``count`` over the documents of the pool.
        seed: Its argument, as ``purpose``.
    """
    assert "hash" in documents.schema.names, "else it would draw others"
    return np.asarray(uniform(hash_documents(documents, mix(seed, purpose))) < share)


def _shares(counts: Mapping[str, int], count: int, balanced: bool, most: float) -> dict[str, float]:
    """Return the share of each source that makes ``count`` documents."""
    if not balanced:
        return dict.fromkeys(counts, min(most, count / max(1, sum(counts.values()))))
    shares = {}
    left = float(count)
    for place, (name, own) in enumerate(sorted(counts.items(), key=lambda one: (one[1], one[0]))):
        drawn = min(most * own, left / (len(counts) - place))
        shares[name] = drawn / max(1, own)
        left -= drawn
    return shares


def _counts_of(pool: Pool, runner: Runner | None, shortest: int) -> dict[str, int]:
    """Count the documents of each source that have ``shortest`` characters, by their bytes."""
    if not shortest:
        return {name: tally["documents"] for name, tally in pool.by_source.items()}
    counts: Counter[str] = Counter()
    units = [unit for unit in pool.units if unit.documents]
    items = [_Units(own) for own in packed(units, lambda unit: _ROW * unit.of, _ITEM)]
    for own in in_order(runner or LocalRunner(1))(_count_units, items, shortest):
        counts.update(own)
    return dict(counts)


def _count_units(item: _Units, shortest: int) -> Counter[str]:
    counts: Counter[str] = Counter()
    for unit in item.units:
        rows = _kept_rows(unit, shortest)[0]
        counts.update(_counts(rows.filter(pa.array(_may_have(rows, shortest)))["source"]))
    return counts


def _may_have(documents: pa.Table, shortest: int) -> np.ndarray:
    """Return which documents have as many bytes as ``shortest`` characters: (n,) bool."""
    if not shortest:
        return np.ones(len(documents), bool)
    return np.asarray(documents["bytes"].to_numpy() >= shortest)


@dataclass(frozen=True, slots=True)
class _Units:
    """Units that one task reads."""

    units: Sequence[Unit]

    @property
    def label(self) -> str:
        return f"{self.units[0].name} to {self.units[-1].name}"


def _draw(pool: Pool, wanted: _Drawing, runner: Runner | None) -> Iterator[pa.RecordBatch]:
    """Yield the documents that are drawn, in the order of the corpus."""
    shares = {name: min(1.0, share) for name, share in wanted.shares.items()}
    units = [unit for unit in pool.units if unit.documents and any(shares.values())]
    items = packed(units, lambda unit: _size(unit, shares), _ITEM)
    spread = in_order(runner or LocalRunner(1))
    for batches in spread(_draw_units, [_Units(units) for units in items], wanted):
        yield from batches


def _size(unit: Unit, shares: Mapping[str, float]) -> int:
    tallies = unit.record.facts["sources"].items()
    texts = sum(shares.get(name, 0.0) * tally["bytes"] for name, tally in tallies)
    return _ROW * unit.of + round(texts)


def _draw_units(item: _Units, wanted: _Drawing) -> list[pa.RecordBatch]:
    return [batch for unit in item.units if (batch := _draw_unit(unit, wanted)) is not None]


def _draw_unit(unit: Unit, wanted: _Drawing) -> pa.RecordBatch | None:
    rows, numbers = _kept_rows(unit, wanted.shortest)
    drawn = wanted.drawn(rows)
    if not drawn.any():
        return None
    rows = rows.filter(pa.array(drawn)).combine_chunks()
    texts = _texts_of(unit, numbers[drawn], rows["hash"].chunk(0))
    if wanted.shortest:
        long = pc.greater_equal(pc.utf8_length(texts), wanted.shortest)
        rows, texts = rows.filter(long).combine_chunks(), texts.filter(long)
    if wanted.characters is not None:
        texts = pc.utf8_slice_codeunits(texts, 0, wanted.characters)
    columns = [texts if name == "text" else rows[name].chunk(0) for name in _SCHEMA.names]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA) if len(texts) else None


def _kept_rows(unit: Unit, shortest: int) -> tuple[pa.Table, np.ndarray]:
    """Read the rows of a unit that are kept, and their numbers in it: (n,) int64."""
    rows = _rows_of(unit, [*_LIGHT, "bytes"] if shortest else _LIGHT)
    numbers = unit.numbers()
    return rows if len(numbers) == len(rows) else rows.take(pa.array(numbers)), numbers


def _rows_of(unit: Unit, columns: Sequence[str]) -> pa.Table:
    """Read columns of all rows of a unit, and compare ids, sources and hashes with its record.

    Raises:
        ArtefactError: They changed since they were written.
    """
    path = store_of(unit.corpus).local(unit.corpus / unit.rows.path)
    facts = unit.record.facts
    try:
        # A remote file is copied whole, for later passes, too.
        with OwnParquet(path or unit.rows.verified(unit.corpus), pre_buffer=False) as file:
            rows = file.read(list(columns), use_threads=False)
        ids, hashes = (column.combine_chunks() for column in (rows["id"], rows["hash"]))
        found = [_digest(hash_texts(ids)), _digest(hashes), _counts(rows["source"])]
        counts = {name: tally["documents"] for name, tally in facts["sources"].items()}
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
