"""The columns of every document of a corpus in memory, as far as cutting and cleaning read them.

A unit's files are read one after another and kept as arrays: about 60 bytes a document, its id, and
4 bytes for each column of scores. No text is held. Documents that are dropped are among them, so
that a changed condition is answered for these, too. With rewriters those that were dropped before
the last one follow at the end: they are in no later corpus, and no change that is previewed moves
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from penstock.artefact import Workspace
from penstock.hashing import hash_documents, mix, uniform
from penstock.jobs.curate import Curated
from penstock.jobs.unit_fates import dropped_earlier
from penstock.pipeline.cutting.ordering import GUMBEL, RANDOM, TIE
from penstock.pipeline.cutting.radix import order_bits
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.tokens import find_token_files, open_tokens
from penstock.pipeline.units import Unit

__all__ = ["UNKNOWN", "DocumentColumns", "ScoreColumn", "read_columns"]

UNKNOWN = -1
"""In place of the tokens of a document that no cut has tokenised."""


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """The scores of n documents, and what their quantiles are counted by."""

    scores: np.ndarray
    """(n,) float32; NaN where a document may not be taken, or was dropped and so never scored."""
    place: np.ndarray
    """(n,) int32: the rank of the score's top 24 bits among those that occur; -1 of NaN."""
    values: int
    """How many such values occur."""

    @classmethod
    def of(cls, scores: np.ndarray) -> ScoreColumn:
        """Rank (n,) float32 scores."""
        known = ~np.isnan(scores)
        high, inverse = np.unique(order_bits(scores[known]) >> np.uint32(8), return_inverse=True)
        place = np.full(len(scores), -1, np.int32)
        place[known] = inverse
        return cls(scores, place, len(high))


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentColumns:
    """The documents of a corpus, in its order, and those dropped before a rewriter: n in all."""

    pool: Pool
    units: tuple[Unit, ...]
    """Those of the pool; then, of the corpora before a rewriter, those with documents that were
    dropped there. One may be there twice."""
    rows: Mapping[int, np.ndarray]
    """By position of a unit that is not the pool's: (m,) int64, its rows that are among the
    documents."""
    starts: np.ndarray
    """(units + 1,) int64: the first document of each unit, and n."""
    ids: pa.ChunkedArray
    """(n,) string."""
    source: np.ndarray
    """(n,) int32, positions in :attr:`sources`."""
    sources: tuple[str, ...]
    """By name."""
    bytes: np.ndarray
    """(n,) int64, UTF-8 bytes of each text."""
    tie: np.ndarray
    """(n,) uint64, the hashes that order documents of equal scores."""
    noise: np.ndarray
    """(n,) uint64, the hashes that are the noise of a Gumbel draw."""
    kept: np.ndarray
    """(n,) bool: the recipe's own cleaning keeps it."""
    reasons: np.ndarray
    """(n,) uint16: 0, or 1 and the position of its first reason in :attr:`reason_names`."""
    reason_names: tuple[str, ...]
    """Those of the pool's verdicts, then others of earlier ones and of rewriters."""
    tokens: np.ndarray
    """(n,) int64, both ends of text included; :data:`UNKNOWN` until they are counted. The only
    array that changes (:mod:`.counting`)."""
    scores: Mapping[str, ScoreColumn]
    """Scores by name: each selector that has a column, and ``random``."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def judged(self) -> int:
        """The documents of the pool's corpus, which come first."""
        return int(self.starts[len(self.pool.units)])

    def unit_at(self, document: int) -> tuple[Unit, int]:
        """Return the unit of a document, and its row there."""
        ((unit, rows, _),) = self.by_unit(np.array([document]))
        return unit, int(rows[0])

    def by_unit(self, documents: np.ndarray) -> Iterator[tuple[Unit, np.ndarray, np.ndarray]]:
        """Yield the units of documents, ascending (m,) int64.

        Each with the rows of its documents in it, and their positions in ``documents``.
        """
        numbers = np.searchsorted(self.starts, documents, "right") - 1
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            rows = documents[places] - self.starts[number]
            if number in self.rows:
                rows = self.rows[number][rows]
            yield self.units[number], rows, places


def read_columns(curated: Curated, seed: int) -> DocumentColumns:
    """Read the columns of a finished recipe.

    Args:
        curated: Its artefacts.
        seed: Seed of its draws (:attr:`Recipe.draw_seed`).

    Raises:
        ArtefactError: A file is missing or was changed.
    """
    pool = curated.pool
    units = pool.units
    earlier = [own for own in dropped_earlier(pool) if len(own.rows)]
    starts = np.cumsum([0, *(unit.of for unit in units), *(len(own.rows) for own in earlier)])
    count = int(starts[-1])
    size, tokens = np.empty(count, np.int64), np.full(count, UNKNOWN, np.int64)
    tie, noise = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    reasons, drawn = np.empty(count, np.uint16), np.full(count, np.nan, np.float32)
    scores = {name: np.full(count, np.nan, np.float32) for name in curated.columns}
    ids: list[pa.ChunkedArray] = []
    sources: list[pa.ChunkedArray] = []
    workspace = Workspace(pool.corpus.path.parent.parent, read_only=True)
    directory, files = find_token_files(pool, curated.tokenizer, workspace)
    for unit, start in zip(units, starts.tolist()):
        own = slice(start, start + unit.of)
        rows = replace(unit, kept=None).read_rows(["id", "source", "bytes", "hash"])
        ids.append(rows.column("id"))
        sources.append(rows.column("source"))
        size[own] = rows.column("bytes").to_numpy()
        tie[own] = hash_documents(rows, mix(seed, TIE))
        noise[own] = hash_documents(rows, mix(seed, GUMBEL))
        drawn[own] = uniform(hash_documents(rows, mix(seed, RANDOM)))
        assert unit.kept is not None
        reasons[own] = unit.kept.reasons(unit.of)
        kept = start + np.flatnonzero(reasons[own] == 0)
        for name, column in curated.columns.items():
            scores[name][kept] = read_scores(column.path, column.files[unit.number])
        if unit.name in files:
            known = open_tokens(directory, files[unit.name])
            tokens[start + known.rows] = known.sizes
    reason_names = list(pool.verdicts.facts["reasons"])
    for gone, start in zip(earlier, starts[len(units) :].tolist()):
        own = slice(start, start + len(gone.rows))
        ids.append(gone.documents.column("id"))
        sources.append(gone.documents.column("source"))
        size[own] = gone.documents.column("bytes").to_numpy()
        reason_names += [name for name in gone.reasons if name not in reason_names]
        codes = np.array([1 + reason_names.index(name) for name in gone.reasons], np.uint16)
        reasons[own] = codes[gone.reason]
    names = pa.chunked_array([chunk for own in sources for chunk in own.chunks], pa.string())
    encoded = names.combine_chunks().dictionary_encode()
    found = encoded.dictionary.to_pylist()
    order = sorted(range(len(found)), key=found.__getitem__)
    position = np.empty(len(found), np.int32)
    position[order] = np.arange(len(found))
    return DocumentColumns(
        pool=pool,
        units=(*units, *(own.unit for own in earlier)),
        rows={number: own.rows for number, own in enumerate(earlier, len(units))},
        starts=starts,
        ids=pa.chunked_array([chunk for own in ids for chunk in own.chunks], pa.string()),
        source=position[encoded.indices.to_numpy()],
        sources=tuple(found[number] for number in order),
        bytes=size,
        tie=tie,
        noise=noise,
        kept=reasons == 0,
        reasons=reasons,
        reason_names=tuple(reason_names),
        tokens=tokens,
        scores={
            **{name: ScoreColumn.of(own) for name, own in scores.items()},
            RANDOM: ScoreColumn.of(drawn),
        },
    )
