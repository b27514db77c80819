"""Documents ranked by examples, and what a document's ranks are worth (BETR step 4).

Each example ranks all documents by similarity (Mizrahi et al. 2025). What it keeps of its ranking
is a **ladder**: its R highest similarities. A rank is one more than the rungs above a similarity,
so any document can be ranked against the sample later, and equal similarities share a rank: no
tie to break, and no trace of order, blocks or workers.

Memory is R floats an example (15 MB for 7,000 of them) plus the sample's vectors, a fifth of its
text. What is traded away: ranks beyond R are all R + 1, so a mean over examples is truncated there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numba
import numpy as np

from penstock.selectors.base import ParallelMap

__all__ = ["RankedSample", "Ranker", "ladders", "merge_ladders", "rank_sample", "rank_scores"]

_DOCUMENTS = 32_768
"""Documents ranked at once; in blocks of 8,192 faiss took nearly twice as long."""

_EXAMPLES = 256
"""Examples multiplied at once with a block of documents: 32 MiB of similarities."""

_FIXED = float(1 << 32)
"""Values are summed in units of 2^-32, as integers, so that no order of examples shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranker:
    """Examples, what each has kept of its ranking, and how ranks become one score."""

    examples: np.ndarray
    """(e, d) int16, on the lattice."""
    ladders: np.ndarray
    """(e, R) float32, each descending; -inf where documents ran out."""
    aggregate: str = "max"
    """Over examples: ``max`` or ``mean``."""
    value: str = "rank"
    """v(r) of a rank r: ``rank`` is -r, ``log2`` is log2(1/r), ``reciprocal`` is 1/r."""

    @property
    def rungs(self) -> int:
        """R."""
        return int(self.ladders.shape[1])

    @property
    def values(self) -> np.ndarray:
        """v(r), which falls with r, for r = 1 to R + 1: (R + 1,) int64 in units of 2^-32."""
        ranks = np.arange(1, self.rungs + 2, dtype=np.float64)
        values = {"rank": -ranks, "log2": -np.log2(ranks), "reciprocal": 1 / ranks}[self.value]
        return np.rint(values * _FIXED).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankedSample:
    """What comes of ranking a sample."""

    ranker: Ranker
    scores: np.ndarray
    """(n,) float64, in the order of S; under ``max`` the best rank, negated, whatever v is."""
    coverage: float
    """The share of the documents that are on some ladder."""


def rank_sample(
    examples: np.ndarray,
    documents: np.ndarray,
    *,
    rungs: int,
    coverage: float,
    aggregate: str,
    value: str,
    spread: ParallelMap,
) -> RankedSample:
    """Let every example rank a sample of documents.

    Args:
        examples: (e, d) int16, on the lattice.
        documents: (n, d) int16, on the lattice.
        rungs: R at first; doubled until ``coverage`` is reached.
        coverage: The least share of the documents that is to be on some ladder.
        aggregate: As in :class:`Ranker`.
        value: As in :class:`Ranker`.
        spread: Blocks of documents are ranked side by side.
    """
    blocks = [documents[at : at + _DOCUMENTS] for at in range(0, len(documents), _DOCUMENTS)]

    def scores_by(ranker: Ranker) -> np.ndarray:
        return np.concatenate(list(spread(rank_scores, blocks, ranker)))

    rungs = min(rungs, len(documents))
    while True:
        tops = functools.reduce(merge_ladders, spread(_climb, blocks, (examples, rungs)))
        ranker = Ranker(examples=examples, ladders=tops)
        scores = scores_by(ranker)
        covered = float((scores >= -rungs).mean())
        if covered >= coverage or rungs == len(documents):
            break
        rungs = min(2 * rungs, len(documents))
    ranker = replace(ranker, aggregate=aggregate, value=value)
    if aggregate == "mean":
        scores = scores_by(ranker)
    return RankedSample(ranker=ranker, scores=scores, coverage=covered)


def rank_scores(documents: np.ndarray, ranker: Ranker) -> np.ndarray:
    """S_j = max_i v(r_ij) or mean_i v(r_ij): (n, d) int16 on the lattice to (n,) float64."""
    columns = documents.astype(np.float32).T
    # A text without a token is near to nothing, not a right angle away from everything.
    nowhere = ~documents.any(axis=1)
    values = ranker.values
    best = np.full(len(documents), len(values), np.int64)
    total = np.zeros(len(documents), np.int64)
    for start in range(0, len(ranker.examples), _EXAMPLES):
        block = slice(start, start + _EXAMPLES)
        similarities = ranker.examples[block].astype(np.float32) @ columns
        similarities[:, nowhere] = -np.inf
        if ranker.aggregate == "max":
            _lower(best, similarities, ranker.ladders[block])
        else:
            _add(total, similarities, ranker.ladders[block], values)
    if ranker.aggregate == "max":
        return values[best - 1] / _FIXED
    return total / _FIXED / len(ranker.examples)


@numba.njit(cache=True, nogil=True)
def _lower(best: np.ndarray, similarities: np.ndarray, ladder: np.ndarray) -> None:
    """Lower ``best`` (n,) int64 to each document's best rank among these examples.

    Most similarities are told by one rung that they are no better.
    """
    for example in range(similarities.shape[0]):
        for document in range(similarities.shape[1]):
            similarity = similarities[example, document]
            # Better than the best so far, if no more than best - 2 rungs are above.
            while best[document] > 1 and not ladder[example, best[document] - 2] > similarity:
                best[document] -= 1


@numba.njit(cache=True, nogil=True)
def _add(
    total: np.ndarray, similarities: np.ndarray, ladder: np.ndarray, values: np.ndarray
) -> None:
    """Add v(rank) under each of these examples to ``total`` (n,) int64."""
    for example in range(similarities.shape[0]):
        for document in range(similarities.shape[1]):
            low, high = 0, ladder.shape[1]
            while low < high:
                middle = (low + high) // 2
                if ladder[example, middle] > similarities[example, document]:
                    low = middle + 1
                else:
                    high = middle
            total[document] += values[low]


# Ladders


def ladders(similarities: np.ndarray, rungs: int) -> np.ndarray:
    """The highest similarities of each example, descending; -inf where documents run out.

    Args:
        similarities: (e, n) float32.
        rungs: R.

    Returns:
        (e, R) float32.
    """
    top = np.sort(similarities, axis=1)[:, ::-1][:, :rungs]
    short = rungs - top.shape[1]
    return np.pad(top, [(0, 0), (0, short)], constant_values=-np.inf)


def merge_ladders(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The ladders over two sets of documents, from those over each: (e, R) float32."""
    return ladders(np.concatenate([first, second], axis=1), first.shape[1])


def _climb(documents: np.ndarray, shared: tuple[np.ndarray, int]) -> np.ndarray:
    """The ladders of examples over one block: (e, R) float32, as :func:`ladders`."""
    import faiss

    examples, rungs = shared
    documents = documents[documents.any(axis=1)].astype(np.float32)
    top = np.full((len(examples), rungs), -np.inf, np.float32)
    kept = min(rungs, len(documents))
    if kept:
        metric = faiss.METRIC_INNER_PRODUCT
        top[:, :kept], _ = faiss.knn(examples.astype(np.float32), documents, kept, metric=metric)
    return top
