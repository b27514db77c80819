"""Ranks of documents by examples, and scores from ranks (BETR step 4).

Each example ranks all documents by similarity (Mizrahi et al. 2025) and keeps its R highest
similarities, its **top R**. A document's rank is one more than the number of kept similarities
above its own, so any document can be ranked against the sample later, and equal similarities share
a rank: there is no tie to break, and order, blocks and workers change nothing.

An example whose vector is zero, for want of a token, is equally similar to all documents, which
would share its rank 1. It ranks none.

Memory: R floats an example (15 MB for 7,000 examples), and the sample's vectors, a fifth of its
text. Trade-off: all ranks beyond R are R + 1, so a mean over examples is truncated there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from penstock.compiling import cached
from penstock.selectors.base import ParallelMap

__all__ = [
    "RankedSample",
    "Ranker",
    "highest",
    "leave_out",
    "merge_highest",
    "rank_by_example",
    "rank_sample",
    "rank_scores",
]

_DOCUMENTS = 32_768
"""Documents ranked at once, at most; in blocks of 8,192 faiss took nearly twice as long."""

_EXAMPLES = 256
"""Examples multiplied at once with a block of documents: 32 MiB of similarities."""

_FIXED = float(1 << 32)
"""Values are summed in units of 2^-32, as integers, so that the order of examples is irrelevant."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranker:
    """Examples, the top R of each, and the way from ranks to one score."""

    examples: np.ndarray
    """(e, d) int16, on the lattice."""
    top_r: np.ndarray
    """(e, R) float32, each descending; -inf where documents ran out."""
    aggregate: str = "max"
    """The aggregate over examples: ``max`` or ``mean``."""
    value: str = "rank"
    """v(r) of a rank r: ``rank`` is -r, ``log2`` is log2(1/r), ``reciprocal`` is 1/r."""

    @property
    def kept(self) -> int:
        return int(self.top_r.shape[1])

    @property
    def values(self) -> np.ndarray:
        """Return v(r) for r = 1 to R + 1, falling: (R + 1,) int64 in units of 2^-32."""
        ranks = np.arange(1, self.kept + 2, dtype=np.float64)
        values = {"rank": -ranks, "log2": -np.log2(ranks), "reciprocal": 1 / ranks}[self.value]
        return np.rint(values * _FIXED).astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RankedSample:
    """The ranking of a sample."""

    ranker: Ranker
    scores: np.ndarray
    """(n,) float64, in the order of S; under ``max`` the best rank, negated, whatever v is."""
    coverage: float
    """The share of the documents in the top R of some example."""


def rank_sample(
    examples: np.ndarray,
    documents: np.ndarray,
    *,
    top_r: int,
    coverage: float,
    aggregate: str,
    value: str,
    spread: ParallelMap,
) -> RankedSample:
    """Rank a sample of documents by every example.

    Args:
        examples: (e, d) int16, on the lattice.
        documents: (n, d) int16, on the lattice.
        top_r: R at first; doubled until ``coverage`` is reached.
        coverage: The least share of the documents in the top R of some example.
        aggregate: As in :class:`Ranker`.
        value: As in :class:`Ranker`.
        spread: Ranks blocks of documents in parallel.
    """
    # Of equal size: 100,000 documents on two workers take the time of 50,000, not of 65,536.
    blocks = np.array_split(documents, max(1, -(-len(documents) // _DOCUMENTS)))

    def scores_by(ranker: Ranker) -> np.ndarray:
        return np.concatenate(list(spread(rank_scores, blocks, ranker)))

    top_r = min(top_r, len(documents))
    while True:
        tops = functools.reduce(merge_highest, spread(_search_highest, blocks, (examples, top_r)))
        ranker = Ranker(examples=examples, top_r=tops)
        scores = scores_by(ranker)
        covered = float((scores >= -top_r).mean())
        if covered >= coverage or top_r == len(documents):
            break
        top_r = min(2 * top_r, len(documents))
    ranker = replace(ranker, aggregate=aggregate, value=value)
    if aggregate == "mean":
        scores = scores_by(ranker)
    return RankedSample(ranker=ranker, scores=scores, coverage=covered)


def rank_scores(documents: np.ndarray, ranker: Ranker) -> np.ndarray:
    """Compute S_j = max_i or mean_i of v(r_ij): (n, d) int16 on the lattice to (n,) float64."""
    columns = documents.astype(np.float32).T
    # A text without a token is similar to nothing; its similarities are not 0.
    nowhere = ~documents.any(axis=1)
    ranking = ranker.examples.any(axis=1)  # not those without a token
    examples, top_r = ranker.examples[ranking], ranker.top_r[ranking]
    values = ranker.values
    best = np.full(len(documents), len(values), np.int64)
    total = np.zeros(len(documents), np.int64)
    for start in range(0, len(examples), _EXAMPLES):
        block = slice(start, start + _EXAMPLES)
        similarities = examples[block].astype(np.float32) @ columns
        similarities[:, nowhere] = -np.inf
        if ranker.aggregate == "max":
            _lower(best, similarities, top_r[block])
        else:
            _add(total, similarities, top_r[block], values)
    if ranker.aggregate == "max":
        return values[best - 1] / _FIXED
    return total / _FIXED / max(1, len(examples))


def rank_by_example(vector: np.ndarray, ranker: Ranker) -> np.ndarray:
    """Rank one document by each example.

    Args:
        vector: (d,) int16, on the lattice.
        ranker: The examples, and the top R of each.

    Returns:
        (e,) int64: 1 for the nearest; R + 1 beyond the top R, and of a vector or an example that is
        zero.
    """
    similarities = ranker.examples.astype(np.float32) @ vector.astype(np.float32)
    ranks: np.ndarray = 1 + (ranker.top_r > similarities[:, None]).sum(axis=1)
    knows = ranker.examples.any(axis=1) & bool(vector.any())
    return np.where(knows, ranks, ranker.kept + 1).astype(np.int64)


def leave_out(vector: np.ndarray, ranker: Ranker) -> Ranker:
    """Return the ranking by the other documents of the sample; the same if it is not in there.

    The document's own score stays as it is, since it is not above itself. R - 1 similarities of an
    example are left where it was among the top R: the next one was not kept.

    Args:
        vector: (d,) int16, of one document, on the lattice.
        ranker: The examples, and the top R of each.
    """
    if not vector.any():
        return ranker
    similarities = ranker.examples.astype(np.float32) @ vector.astype(np.float32)
    own = (ranker.top_r > similarities[:, None]).sum(axis=1)[:, None]
    padded = np.pad(ranker.top_r, [(0, 0), (0, 1)], constant_values=-np.inf)
    # A document of the sample is in each top R whose last similarity is not above its own.
    found = np.take_along_axis(padded, own, axis=1)[:, 0] == similarities
    if not (found | (own[:, 0] == ranker.kept)).all():
        return ranker
    columns = np.arange(ranker.kept)[None, :]
    others = np.take_along_axis(padded, columns + (columns >= own), axis=1)
    return replace(ranker, top_r=others)


@cached(nogil=True)
def _lower(best: np.ndarray, similarities: np.ndarray, top_r: np.ndarray) -> None:
    """Lower ``best`` (n,) int64 to each document's best rank among these examples.

    Most similarities need one comparison to be found no better.
    """
    for example in range(similarities.shape[0]):
        for document in range(similarities.shape[1]):
            similarity = similarities[example, document]
            # Better than the best so far, if at most best - 2 kept similarities are above.
            while best[document] > 1 and not top_r[example, best[document] - 2] > similarity:
                best[document] -= 1


@cached(nogil=True)
def _add(
    total: np.ndarray, similarities: np.ndarray, top_r: np.ndarray, values: np.ndarray
) -> None:
    """Add v(rank) under each of these examples to ``total`` (n,) int64."""
    for example in range(similarities.shape[0]):
        for document in range(similarities.shape[1]):
            low, high = 0, top_r.shape[1]
            while low < high:
                middle = (low + high) // 2
                if top_r[example, middle] > similarities[example, document]:
                    low = middle + 1
                else:
                    high = middle
            total[document] += values[low]


# The top R


def highest(similarities: np.ndarray, count: int) -> np.ndarray:
    """Return the highest similarities of each example, descending; -inf where documents run out.

    Args:
        similarities: (e, n) float32.
        count: R.

    Returns:
        (e, R) float32.
    """
    top = np.sort(similarities, axis=1)[:, ::-1][:, :count]
    short = count - top.shape[1]
    return np.pad(top, [(0, 0), (0, short)], constant_values=-np.inf)


def merge_highest(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Merge the top R over two sets of documents: (e, R) float32."""
    return highest(np.concatenate([first, second], axis=1), first.shape[1])


def _search_highest(documents: np.ndarray, shared: tuple[np.ndarray, int]) -> np.ndarray:
    """Search the top R of examples in one block: (e, R) float32, as :func:`highest`."""
    import faiss

    examples, count = shared
    documents = documents[documents.any(axis=1)].astype(np.float32)
    top = np.full((len(examples), count), -np.inf, np.float32)
    kept = min(count, len(documents))
    if kept:
        metric = faiss.METRIC_INNER_PRODUCT
        top[:, :kept], _ = faiss.knn(examples.astype(np.float32), documents, kept, metric=metric)
    return top
