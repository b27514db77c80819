"""The inner loops of fastText scoring: one model's sums, or those of several models in lanes.

fastText's ``predict`` gathers a ``dim``-wide row for every word and word n-gram of a document
(400 bytes each at the usual 100 dimensions). A binary classifier needs one float of each
(:mod:`penstock.selectors.classifiers.fasttext`), which leaves the words to find, hash and look up
(:mod:`penstock.selectors.kernels.fasttext_words`). One loop for all of it runs at 4 times
``predict``'s speed, the small loops of that module at 10 to 14 times.

Several models (a :class:`Panel`) share all but the additions: their vocabularies are merged into
one, and a row's weights in all models are adjacent in memory, so they cost one cache miss.
Each model's additions are those of the model alone, in the same order. Sums are float64 in text
order, so a score does not depend on the batch it was computed in.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from penstock import arrow_text
from penstock.compiling import compiler
from penstock.selectors.kernels import fasttext_words
from penstock.selectors.kernels.fasttext_words import (
    Text,
    Vocabulary,
    WordScratch,
    begin_ngrams,
    find_buckets,
    lengthen_ngrams,
    look_up_document,
    prefetch,
)

__all__ = [
    "BLOCK",
    "LANES",
    "CollapsedTable",
    "Panel",
    "PanelSums",
    "score_documents",
    "score_documents_together",
]

LANES = 4
"""Models whose sums one loop keeps: about as many as the additions in flight at once."""

BLOCK = np.dtype(
    [
        ("word_ngrams", np.int64),
        ("bucket", np.uint64),
        ("table", np.uint64),
        ("stride", np.uint64),
        ("lane", np.uint64),
    ]
)
"""``LANES`` models of a :class:`Panel` whose n-grams are alike: n-gram ``h`` adds the weights from
``table + (h % bucket) * stride + lane`` on. The blocks of one table are one after another."""

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)

_compiled = compiler(arrow_text, fasttext_words)


class CollapsedTable(NamedTuple):
    """A collapsed model of ``V`` words and ``bucket`` hashed n-grams, read-only."""

    vocabulary: Vocabulary
    weights: np.ndarray  # (V + bucket,) float32, each row's part in the logit
    bucket: np.uint64
    word_ngrams: int


class Panel(NamedTuple):
    """Collapsed models side by side, ``LANES`` to a block, read-only; a lane may be empty."""

    vocabulary: Vocabulary  # the union of their words
    word_weights: np.ndarray  # ((V + 1) * lanes,) float32, a row of zeros before word 0's
    known: np.ndarray  # ((V + 1) * blocks,) uint8, a bit for each lane with the word
    ngram_weights: np.ndarray  # (tables,) float32
    blocks: np.ndarray  # (lanes / LANES,) BLOCK
    lanes: np.ndarray  # (K,) int64, where each model is


class PanelSums(NamedTuple):
    """Buffers for the sums of a :class:`Panel` over one document."""

    known: np.ndarray  # (words,) uint8, a block's bits of each word
    word_sums: np.ndarray  # (lanes,) float64
    ngram_sums: np.ndarray  # (lanes,) float64
    counts: np.ndarray  # (lanes,) int64, words and n-grams

    @classmethod
    def of(cls, n_lanes: int, scratch: WordScratch) -> PanelSums:
        return cls(
            np.empty(len(scratch.rows), np.uint8),
            np.empty(n_lanes, np.float64),
            np.empty(n_lanes, np.float64),
            np.empty(n_lanes, np.int64),
        )


@_compiled
def score_documents(
    text: Text, offsets: np.ndarray, table: CollapsedTable, scratch: WordScratch, out: np.ndarray
) -> None:
    """Write p(positive) of each document to ``out``, (n,) float32.

    ``offsets`` is (n + 1,) int64. A document none of whose words, n-grams and
    end-of-line token has a row scores NaN: ``predict`` gives it no label.
    """
    for i in range(len(out)):
        begin, end = offsets[i], offsets[i + 1]
        document = Text(text.bytes[begin:end], text.windows[begin:])
        n_words = look_up_document(document, table.vocabulary, scratch)
        word_sum, word_count = _sum_words(n_words, scratch, table)
        ngram_sum, ngram_count = _sum_ngrams(n_words, scratch, table)
        out[i] = _probability(word_sum, ngram_sum, word_count + ngram_count)


@_compiled
def score_documents_together(
    text: Text,
    offsets: np.ndarray,
    panel: Panel,
    scratch: WordScratch,
    panel_sums: PanelSums,
    out: np.ndarray,
) -> None:
    """Write p(positive) by each of K models to ``out``, (K, n) float32.

    Bit for bit what :func:`score_documents` writes for each alone.
    """
    for i in range(out.shape[1]):
        begin, end = offsets[i], offsets[i + 1]
        document = Text(text.bytes[begin:end], text.windows[begin:])
        n_words = look_up_document(document, panel.vocabulary, scratch)
        _sum_words_together(n_words, scratch, panel, panel_sums)
        _sum_ngrams_together(n_words, scratch, panel, panel_sums)
        for k in range(out.shape[0]):
            at = panel.lanes[k]
            out[k, i] = _probability(
                panel_sums.word_sums[at], panel_sums.ngram_sums[at], panel_sums.counts[at]
            )


@_compiled
def _probability(word_sum: float, ngram_sum: float, count: int) -> float:
    mean = (word_sum + ngram_sum) / count if count > 0 else np.nan
    return 1.0 / (1.0 + np.exp(-mean))


@_compiled
def _sum_words(n_words: int, scratch: WordScratch, table: CollapsedTable) -> tuple[float, int]:
    """Sum the weights of known words: (sum, count). Unknown words count only in n-grams."""
    total = 0.0
    count = 0
    for i in range(n_words):
        row = scratch.rows[i]
        weight = table.weights[max(row, 0)]
        total += weight if row >= 0 else 0.0
        count += row >= 0
    return total, count


@_compiled
def _sum_ngrams(n_words: int, scratch: WordScratch, table: CollapsedTable) -> tuple[float, int]:
    buckets = scratch.rows
    weights = table.weights[len(table.vocabulary.starts) - 1 :]
    total = 0.0
    count = 0
    begin_ngrams(n_words, scratch)
    for length in range(2, table.word_ngrams + 1):
        n_ngrams = lengthen_ngrams(n_words, length, scratch)
        find_buckets(n_ngrams, table.bucket, weights, np.uint64(0), np.uint64(1), scratch)
        for i in range(n_ngrams):
            total += weights[buckets[i]]
        count += n_ngrams
    return total, count


@_compiled
def _sum_words_together(
    n_words: int, scratch: WordScratch, panel: Panel, panel_sums: PanelSums
) -> None:
    """:func:`_sum_words` in each lane."""
    rows, known = scratch.rows, panel_sums.known
    n_blocks = np.uint64(len(panel.blocks))
    stride = n_blocks * np.uint64(LANES)
    for i in range(n_words):
        prefetch(panel.word_weights, _after(rows[i]) * stride)
    panel_sums.word_sums[:] = 0.0
    for block in range(len(panel.blocks)):
        first = block * LANES
        sums = panel_sums.word_sums[first : first + LANES]
        _add_rows(n_words, rows, panel.word_weights, stride + np.uint64(first), stride, sums)
        for i in range(n_words):
            known[i] = panel.known[_after(rows[i]) * n_blocks + np.uint64(block)]
        for lane in range(LANES):
            count = 0
            for i in range(n_words):
                count += (known[i] >> lane) & 1
            panel_sums.counts[first + lane] = count


@_compiled
def _after(row: np.int32) -> np.uint64:
    """Return the index of ``row`` in a table whose first row is that of unknown words, row -1."""
    return np.uint64(np.int64(row) + 1)


@_compiled
def _sum_ngrams_together(
    n_words: int, scratch: WordScratch, panel: Panel, panel_sums: PanelSums
) -> None:
    """:func:`_sum_ngrams` in each lane."""
    blocks, weights = panel.blocks, panel.ngram_weights
    longest = 0
    for block in range(len(blocks)):
        longest = max(longest, blocks[block].word_ngrams)
    begin_ngrams(n_words, scratch)
    panel_sums.ngram_sums[:] = 0.0
    for length in range(2, longest + 1):
        n_ngrams = lengthen_ngrams(n_words, length, scratch)
        for block in range(len(blocks)):
            bucket, table = blocks[block].bucket, blocks[block].table
            stride, lane = blocks[block].stride, blocks[block].lane
            if blocks[block].word_ngrams < length:
                continue
            if lane == 0:
                find_buckets(n_ngrams, bucket, weights, table, stride, scratch)
            first = block * LANES
            sums = panel_sums.ngram_sums[first : first + LANES]
            _add_rows(n_ngrams, scratch.rows, weights, table + lane, stride, sums)
            for k in range(first, first + LANES):
                panel_sums.counts[k] += n_ngrams


@_compiled
def _add_rows(
    n_rows: int,
    rows: np.ndarray,
    weights: np.ndarray,
    begin: np.uint64,
    stride: np.uint64,
    sums: np.ndarray,
) -> None:
    """Add ``weights[begin + row * stride + lane]`` to ``sums[lane]``, row after row.

    Four variables, since the compiler keeps an array's items in memory, which doubles the time.
    """
    a, b, c, d = sums[0], sums[1], sums[2], sums[3]
    for i in range(n_rows):
        at = begin + np.uint64(np.int64(rows[i])) * stride
        a += weights[at]
        b += weights[at + _ONE]
        c += weights[at + _TWO]
        d += weights[at + _THREE]
    sums[0], sums[1], sums[2], sums[3] = a, b, c, d
