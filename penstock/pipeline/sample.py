"""Draw documents from a corpus by hash of id, independent of how the work is divided."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import Artefact
from penstock.hashing import hash_ids, mix, uniform
from penstock.pipeline.units import iter_documents, units_of

__all__ = ["FIT", "inside", "sample_documents", "sample_texts"]

FIT = "fit"
"""Hash purpose of the samples that selectors are fitted on."""

_COLUMNS = ("id", "text", "source")


def sample_documents(corpus: Artefact, count: int, seed: int, purpose: str) -> pa.Table:
    """Draw about ``count`` documents, or all of a smaller corpus, in the order of their hashes.

    That order is random, as training needs it, and independent of the order of the inputs.

    Returns:
        ``id`` and ``source`` string, ``text`` large_string.
    """
    kept = int(corpus.facts["documents"]["kept"])
    batches = list(_draw(corpus, count, kept, seed, purpose))
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
