"""Several binary fastText classifiers that read each text once.

Finding words, hashing them and their n-grams, and looking words up is most of the cost of scoring,
and is the same for all classifiers. So their vocabularies are merged, the weights of a row are
adjacent (one cache miss for all), and each document passes through the kernel once
(:mod:`penstock.selectors.kernels.fasttext_sums`). Trade-off: memory, 16 bytes a bucket for up to
four classifiers and 32 for up to eight, beside the classifiers' own 4.

Most scorers of a recipe have such a classifier
(:attr:`penstock.selectors.base.Requirements.classifier`), so K of them together cost little more
than one: :class:`BatchScorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial

import numpy as np
import pyarrow as pa

from penstock.arrow_text import read_only
from penstock.selectors.base import Documents, Scorer
from penstock.selectors.classifiers.classifier import Texts
from penstock.selectors.classifiers.fasttext import CollapsedFastText, score_texts, vocabulary_of
from penstock.selectors.kernels.fasttext_sums import (
    BLOCK,
    LANES,
    Panel,
    PanelSums,
    score_documents_together,
)
from penstock.selectors.kernels.fasttext_words import Text, WordScratch

__all__ = ["BatchScorer", "FastTextPanel", "score_together"]

_LINE = 16
"""float32 to a cache line."""


class FastTextPanel:
    """K classifiers that score together, with a copy of their weights.

    Classifiers with different ``bucket`` share all but the buckets and their cache misses. Those
    with another label prefix read other words, so they have a pass of their own.
    """

    def __init__(self, classifiers: Sequence[CollapsedFastText]) -> None:
        self._classifiers = tuple(classifiers)
        prefixes = [classifier.label_prefix for classifier in classifiers]
        self._passes: list[tuple[list[int], Callable[[pa.Array | pa.ChunkedArray], np.ndarray]]]
        self._passes = []
        for prefix in dict.fromkeys(prefixes):
            members = [at for at, other in enumerate(prefixes) if other == prefix]
            ones = [self._classifiers[at] for at in members]
            score = ones[0].score if len(ones) == 1 else partial(_score, _side_by_side(ones))
            self._passes.append((members, score))

    def score(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Compute p(positive) by each: (n,) string or large_string to (K, n) float32.

        Bit for bit what each classifier's own :meth:`CollapsedFastText.score` returns.
        """
        scores = np.empty((len(self._classifiers), len(texts)), np.float32)
        for members, score in self._passes:
            scores[members] = score(texts)
        return scores


def score_together(
    classifiers: Sequence[CollapsedFastText], texts: pa.Array | pa.ChunkedArray
) -> np.ndarray:
    """Compute p(positive) by each: (n,) string or large_string to (K, n) float32.

    The :class:`FastTextPanel` is built for the first of the batches that the same classifiers
    score in a row (0.1 s a classifier), and kept until other classifiers score.
    """
    return _panel(tuple(classifiers)).score(texts)


@lru_cache(maxsize=1)
def _panel(classifiers: tuple[CollapsedFastText, ...]) -> FastTextPanel:
    return FastTextPanel(classifiers)


def _score(panel: Panel, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    def kernel(text: Text, offsets: np.ndarray, scratch: WordScratch, out: np.ndarray) -> None:
        sums = PanelSums.of(LANES * len(panel.blocks), scratch)
        score_documents_together(text, offsets, panel, scratch, sums, out)

    return score_texts(texts, len(panel.lanes), kernel)


def _side_by_side(classifiers: Sequence[CollapsedFastText]) -> Panel:
    """Give classifiers of one label prefix a lane each, those with n-grams alike in one table."""
    kinds = [(one.word_ngrams, one.bucket if one.word_ngrams > 1 else 0) for one in classifiers]
    lanes = np.empty(len(classifiers), np.int64)
    blocks: list[tuple[int, int, int, int, int]] = []
    length = 0
    for kind in dict.fromkeys(kinds):
        members = [at for at, other in enumerate(kinds) if other == kind]
        lanes[members] = len(blocks) * LANES + np.arange(len(members))
        stride = _whole(len(members), LANES)
        blocks += [(*kind, length, stride, lane) for lane in range(0, stride, LANES)]
        length += _whole(kind[1] * stride, _LINE)
    n_lanes = len(blocks) * LANES
    words, starts, rows = _merged(classifiers)
    word_weights = _zeros(len(starts) * n_lanes)
    known = np.zeros((len(starts), n_lanes), np.bool_)
    ngram_weights = _zeros(length)
    for classifier, at, own in zip(classifiers, lanes, rows, strict=True):
        word_weights.reshape(-1, n_lanes)[1 + own, at] = classifier.weights[: len(own)]
        known[1 + own, at] = True
        _, bucket, table, stride, lane = blocks[at // LANES]
        if bucket:
            of_table = ngram_weights[table : table + bucket * stride].reshape(bucket, stride)
            of_table[:, lane + at % LANES] = classifier.weights[len(own) :]
    return Panel(
        vocabulary=vocabulary_of(words, starts, classifiers[0].label_prefix),
        word_weights=read_only(word_weights),
        known=read_only(np.packbits(known.reshape(-1, LANES), 1, "little").ravel()),
        ngram_weights=read_only(ngram_weights),
        blocks=read_only(np.array(blocks, BLOCK)),
        lanes=read_only(lanes),
    )


def _merged(
    classifiers: Sequence[CollapsedFastText],
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Merge vocabularies: all words, as ``words`` and ``starts``, and the row of each's words.

    The most frequent words of each come first: they are found at once in the slot of their hash.
    """
    sizes = [len(one.starts) - 1 for one in classifiers]
    vocabularies = [
        pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), size, [None, pa.py_buffer(one.starts), pa.py_buffer(one.words)]
        )
        for size, one in zip(sizes, classifiers, strict=True)
    ]
    by_rank = np.argsort(np.concatenate([np.arange(size) for size in sizes]), kind="stable")
    encoded = pa.concat_arrays(vocabularies).take(pa.array(by_rank)).dictionary_encode()
    rows = np.empty(len(by_rank), np.int64)
    rows[by_rank] = encoded.indices.to_numpy()
    _, starts, words = encoded.dictionary.buffers()  # large_binary, which text_view does not take
    n_words = len(encoded.dictionary)
    return (
        np.frombuffer(words, np.int8),
        np.frombuffer(starts, np.int64)[: n_words + 1],
        np.split(rows, np.cumsum(sizes)[:-1]),
    )


def _zeros(length: int) -> np.ndarray:
    """Return (length,) float32 zeros that begin at a cache line, so that a row is on few lines.

    Zeros are written, since NumPy requests huge pages for an empty array but not for one of zeros.
    """
    padded = np.empty(length + _LINE, np.float32)
    padded[:] = 0.0
    begin = -padded.ctypes.data % (4 * _LINE) // 4
    return padded[begin : begin + length]


def _whole(count: int, of: int) -> int:
    """Return the least multiple of ``of`` that is not less than ``count``."""
    return -(-count // of) * of


class BatchScorer:
    """A batch of documents under several scorers."""

    def __init__(self, scorers: Sequence[Scorer], documents: Documents) -> None:
        self._documents = documents
        self._texts = Texts(documents.column("text"))
        asked = [scorer.requirements.classifier for scorer in scorers]
        self._classifiers = [one.classifier for one in asked if one is not None]

    def score(self, scorer: Scorer) -> np.ndarray:
        """Return the scores of ``scorer.score(documents)``, for one of the scorers."""
        asked = scorer.requirements.classifier
        if len(self._classifiers) > 1 and asked is not None:
            for classifier, scores in zip(self._classifiers, self._scores, strict=True):
                if classifier is asked.classifier:
                    return asked.finish(scores, self._texts)
        return scorer.score(self._documents)

    @cached_property
    def _scores(self) -> np.ndarray:
        """(classifiers, n) float32, computed at the first use."""
        scores = score_together(self._classifiers, self._texts.array)
        scores.flags.writeable = False
        return scores
