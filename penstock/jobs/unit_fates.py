"""The fates of all documents of a pool, a unit at a time: what ``diff`` and ``sample`` read.

``why`` explains single documents; here a fate is a number for each of a unit's n documents, read
from the file of rows, the verdicts, the columns and the cut, and never from a text. Memory is that
of one unit of about 64 MiB of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import islice

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact
from penstock.columnar import OwnParquet, read_parquet
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool, pools_of
from penstock.pipeline.units import Unit, base_of, generations, units_of

__all__ = ["Fate", "UnitFates", "dropped_earlier", "dropped_of", "iter_fates", "read_texts"]


class Fate(IntEnum):
    """What happened to a document of a corpus."""

    TAKEN = 0
    """By the cut."""
    LEFT = 1
    """It has a score, and the budget was spent on others."""
    EXCLUDED = 2
    """Left, since it has no score in a column that ranks."""
    KEPT = 3
    """By cleaning; there is no cut yet."""
    DROPPED = 4
    """By a rule, as a duplicate, as a copy of an evaluation example, or by a rewriter."""

    @property
    def word(self) -> str:
        """The fate as ``penstock why`` names it."""
        return "left" if self is Fate.EXCLUDED else self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFates:
    """The fates of n documents of one unit of a corpus."""

    pool: Pool | None
    """The pool that judged them; None of those of which a rewriter left nothing."""
    unit: Unit
    rows: np.ndarray
    """(n,) int64, rows in the corpus's unit, ascending."""
    documents: pa.Table
    """n rows with the columns ``id``, ``source``, ``bytes`` and ``hash`` of the file of rows."""
    fate: np.ndarray
    """(n,) uint8, a :class:`Fate` each."""
    reason: np.ndarray
    """(n,) int64, the position in :attr:`reasons` of the first rule that drops each; else -1."""
    reasons: Sequence[str]
    tokens: np.ndarray
    """(n,) int64, those that the cut takes of each."""
    scores: Mapping[str, np.ndarray]
    """(n,) float32 for each column; NaN of documents that may not be taken or were dropped."""
    cut_score: np.ndarray
    """(n,) float32, the score by which the cut took each, after mixture and noise; else NaN."""


def read_texts(unit: Unit, rows: np.ndarray) -> list[str]:
    """Read the texts of some documents of a corpus's unit, a row group at a time.

    Args:
        unit: The unit; which rows a pool keeps of it makes no difference.
        rows: (m,) int64, ascending.
    """
    start, found = 0, []
    with OwnParquet(unit.path()) as file:
        for group in range(file.num_row_groups):
            end = start + file.metadata.row_group(group).num_rows
            own = rows[(rows >= start) & (rows < end)] - start
            if len(own):
                column = file.read_row_group(group, ["text"]).column("text")
                found += column.take(pa.array(own)).to_pylist()
            start = end
    return found


def iter_fates(
    pool: Pool, columns: Mapping[str, Artefact], cut: Artefact | None
) -> Iterator[UnitFates]:
    """Read the fates of every document that was read and not quarantined, or that was added.

    The units of the pool come first; then what rewriters left nothing of; then, of the pools that
    rewriters replaced, the documents that those dropped, as in :func:`.why.fates_of`.

    Args:
        pool: The pool of the last corpus.
        columns: The scores by name.
        cut: The choice; None where it is not made yet.

    Raises:
        ArtefactError: A file is missing or was changed.
    """
    for unit in pool.units:
        yield _unit_fates(pool, unit, columns, cut)
    yield from dropped_earlier(pool)


def dropped_earlier(pool: Pool) -> Iterator[UnitFates]:
    """Read the documents that were dropped before the pool's corpus was made, each once.

    Those are what rewriters left nothing of, and what the verdicts before a rewriter dropped; the
    verdicts of the pool judge only what came through. Without a rewriter there are none.

    Raises:
        ArtefactError: A file is missing or was changed.
    """
    for corpus in generations(pool.corpus):
        yield from _emptied(corpus)
    for own in islice(pools_of(pool), 1, None):
        for unit in own.units:
            if unit.documents < unit.of:
                yield dropped_of(own, unit)


def dropped_of(pool: Pool, unit: Unit) -> UnitFates:
    """Read the documents of one unit that the verdicts of its pool drop."""
    whole = _unit_fates(pool, unit, {}, None)
    gone = np.flatnonzero(whole.fate == Fate.DROPPED)
    return replace(
        whole,
        rows=whole.rows[gone],
        documents=whole.documents.take(pa.array(gone)),
        fate=whole.fate[gone],
        reason=whole.reason[gone],
        tokens=whole.tokens[gone],
        cut_score=whole.cut_score[gone],
    )


_COLUMNS = ["id", "source", "bytes", "hash"]


def _unit_fates(
    pool: Pool, unit: Unit, columns: Mapping[str, Artefact], cut: Artefact | None
) -> UnitFates:
    assert unit.kept is not None
    reason = unit.kept.reasons(unit.of).astype(np.int64) - 1
    kept = np.flatnonzero(reason < 0)
    fate = np.full(unit.of, Fate.DROPPED, np.uint8)
    tokens = np.zeros(unit.of, np.int64)
    cut_score = np.full(unit.of, np.nan, np.float32)
    scores = {name: cut_score.copy() for name in columns}
    for name, artefact in columns.items():
        scores[name][kept] = read_scores(artefact.path, artefact.files[unit.number])
    fate[kept] = Fate.KEPT
    if cut is not None:
        fate[kept] = Fate.LEFT
        for name in cut.manifest["inputs"]["columns"]:
            fate[kept[np.isnan(scores[name][kept])]] = Fate.EXCLUDED
        chosen = read_parquet(cut.verified(cut.files[unit.number]), ["row", "tokens", "score"])
        row = chosen.column("row").to_numpy()
        fate[row] = Fate.TAKEN
        tokens[row] = chosen.column("tokens").to_numpy()
        cut_score[row] = chosen.column("score").to_numpy()
    return UnitFates(
        pool=pool,
        unit=unit,
        rows=np.arange(unit.of),
        documents=replace(unit, kept=None).read_rows(_COLUMNS),
        fate=fate,
        reason=reason,
        reasons=pool.verdicts.facts["reasons"],
        tokens=tokens,
        scores=scores,
        cut_score=cut_score,
    )


def _emptied(corpus: Artefact) -> Iterator[UnitFates]:
    """Yield the documents of which a rewriter left nothing, as they were before."""
    base = base_of(corpus)
    units = {} if base is None else {unit.name: unit for unit in units_of(base)}
    for record in corpus.named("dropped-"):
        table = read_parquet(corpus.verified(record), ["row", "rule"])
        unit = units[f"unit-{record.path[8:].partition('.')[0]}"]
        rules = table.column("rule").combine_chunks().dictionary_encode()
        rows = table.column("row").to_numpy()
        yield UnitFates(
            pool=None,
            unit=unit,
            rows=rows,
            documents=unit.read_rows(_COLUMNS).take(pa.array(rows)),
            fate=np.full(len(rows), Fate.DROPPED, np.uint8),
            reason=rules.indices.to_numpy().astype(np.int64),
            reasons=rules.dictionary.to_pylist(),
            tokens=np.zeros(len(rows), np.int64),
            scores={},
            cut_score=np.full(len(rows), np.nan, np.float32),
        )
