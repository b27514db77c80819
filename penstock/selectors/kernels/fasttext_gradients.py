"""The inner loops of fastText's supervised training, for two labels.

A text is a list of rows of the input matrix: those of its words and of its word n-grams, in
fastText's order. A step averages the rows, takes the softmax of two outputs, and adds the gradient
to every row (Joulin et al. 2017, *Bag of Tricks for Efficient Text Classification*; ``model.cc``,
``loss.cc`` and ``fasttext.cc`` of fastText 0.9). All arithmetic is in float32 in fastText's order,
so both matrices end with the bytes that fastText's own loop on one thread gives.

fastText finds, hashes and looks up the words anew in every epoch. Here they are looked up once for
all epochs of all trials, and rows are prefetched. That leaves one cache miss a row.
"""

# mypy: disable-error-code=no-any-return
# (numba's decorated functions are Any to mypy)

from __future__ import annotations

import math

import numpy as np

from penstock import arrow_text
from penstock.compiling import compiler
from penstock.selectors.kernels import fasttext_words
from penstock.selectors.kernels.fasttext_words import (
    Text,
    Vocabulary,
    WordScratch,
    look_up_document,
    ngram_hash,
    prefetch,
    sign_extended,
)

__all__ = ["draw_inputs", "train_inputs", "write_rows"]

_AHEAD = 24
"""Rows that are prefetched ahead of the one that is read."""

_UPDATE_RATE = 100
"""Tokens after which the learning rate falls: fastText's default ``lrUpdateRate``."""

_MINSTD, _MINSTD_RANGE = 48271, 2147483647
"""``std::minstd_rand``: x * 48271 mod 2^31 - 1."""

_ONE, _ZERO = np.float32(1), np.float32(0)

_compiled = compiler(arrow_text, fasttext_words)


@_compiled
def write_rows(
    text: Text,
    offsets: np.ndarray,
    vocabulary: Vocabulary,
    word_ngrams: int,
    bucket: np.uint64,
    scratch: WordScratch,
    rows: np.ndarray,
    starts: np.ndarray,
    tokens: np.ndarray,
) -> None:
    """Write the rows of each text: known words, then n-grams by the word they begin with.

    Args:
        text: The texts.
        offsets: (n + 1,) int64.
        vocabulary: ``V`` words; n-gram ``h`` has row ``V + h % bucket``.
        word_ngrams: The longest n-gram.
        bucket: Rows of n-grams.
        scratch: For the longest text.
        rows: int32, at least ``word_ngrams`` times the words and an end of line for each text.
        starts: (n + 1,) int64: the rows of text ``i`` are ``rows[starts[i]:starts[i + 1]]``.
        tokens: (n,) int64: the tokens that fastText counts: the words, the end of the line and
            the label.
    """
    known = np.uint64(len(vocabulary.starts) - 1)
    hashes = scratch.hashes
    at = 0
    starts[0] = 0
    for i in range(len(tokens)):
        begin, end = offsets[i], offsets[i + 1]
        document = Text(text.bytes[begin:end], text.windows[begin:])
        n_words = look_up_document(document, vocabulary, scratch)
        tokens[i] = n_words + 1
        for word in range(n_words):
            rows[at] = scratch.rows[word]
            at += scratch.rows[word] >= 0
        for word in range(n_words):
            running = sign_extended(hashes[word])
            for last in range(word + 1, min(word + word_ngrams, n_words)):
                running = ngram_hash(running, hashes[last])
                rows[at] = known + running % bucket
                at += 1
        starts[i + 1] = at


@_compiled
def draw_inputs(inputs: np.ndarray, bound: np.float32, seed: int) -> None:
    """Draw the first tenth of the zeroed (v, d) float32 ``inputs`` from [-bound, bound).

    fastText leaves the rest to ``malloc`` with one thread, and zeros are what it usually gives.
    Each number takes two draws of ``std::minstd_rand``, as ``std::uniform_real_distribution``
    does in libstdc++.
    """
    state = seed % _MINSTD_RANGE
    state += state == 0
    low, span = -np.float64(bound), 2 * np.float64(bound)
    radix = np.float64(_MINSTD_RANGE - 1)
    width = inputs.shape[1]
    for at in range(inputs.shape[0] * width // 10):
        first = state * _MINSTD % _MINSTD_RANGE
        state = first * _MINSTD % _MINSTD_RANGE
        share = (np.float64(first - 1) + np.float64(state - 1) * radix) / (radix * radix)
        inputs[at // width, at % width] = share * span + low


@_compiled
def train_inputs(
    inputs: np.ndarray,
    outputs: np.ndarray,
    rows: np.ndarray,
    starts: np.ndarray,
    tokens: np.ndarray,
    labels: np.ndarray,
    lr: float,
    epochs: int,
    hidden: np.ndarray,
    gradient: np.ndarray,
) -> bool:
    """Train both matrices; return False if an output was not a number.

    Args:
        inputs: (v, d) float32.
        outputs: (2, d) float32.
        rows: Rows of all texts, as :func:`write_rows`.
        starts: (n + 1,) int64.
        tokens: (n,) int64.
        labels: (n,) int64: the row of ``outputs`` that is right.
        lr: The learning rate at the start; it falls linearly to zero.
        epochs: Passes over the texts.
        hidden: (d,) float32, scratch.
        gradient: (d,) float32, scratch.
    """
    flat = inputs.reshape(-1)
    width = inputs.shape[1]
    n_all = 0
    for i in range(len(tokens)):
        n_all += tokens[i]
    n_all *= epochs
    n_done = n_since = 0
    i = 0
    while n_done < n_all:
        rate = np.float32(lr * (1.0 - np.float64(np.float32(n_done) / np.float32(n_all))))
        n_since += tokens[i]
        begin, end = starts[i], starts[i + 1]
        if end > begin:
            _average(inputs, flat, rows, begin, end, hidden)
            first, second = _dot(outputs, 0, hidden), _dot(outputs, 1, hidden)
            if math.isnan(first) or math.isnan(second):
                return False
            highest = max(first, second)
            first = np.float32(math.exp(np.float64(np.float32(first - highest))))
            second = np.float32(math.exp(np.float64(np.float32(second - highest))))
            total = np.float32(first + second)
            for at in range(width):
                gradient[at] = _ZERO
            for label in range(2):
                share = np.float32((first if label == 0 else second) / total)
                right = _ONE if label == labels[i] else _ZERO
                step = np.float32(rate * np.float32(right - share))
                for at in range(width):
                    gradient[at] += step * outputs[label, at]
                for at in range(width):
                    outputs[label, at] += step * hidden[at]
            part = np.float32(1.0 / (end - begin))
            for at in range(width):
                gradient[at] *= part
            _add_to_rows(inputs, rows, begin, end, gradient)
        if n_since > _UPDATE_RATE:
            n_done += n_since
            n_since = 0
        i = i + 1 if i + 1 < len(tokens) else 0
    return True


@_compiled
def _average(
    inputs: np.ndarray,
    flat: np.ndarray,
    rows: np.ndarray,
    begin: int,
    end: int,
    hidden: np.ndarray,
) -> None:
    """Write the mean of some rows to ``hidden``."""
    width = np.int64(len(hidden))
    for at in range(width):
        hidden[at] = _ZERO
    for position in range(begin, end):
        ahead = min(position + _AHEAD, len(rows) - 1)
        prefetch(flat, np.int64(rows[ahead]) * width)
        row = rows[position]
        for at in range(width):
            hidden[at] += inputs[row, at]
    part = np.float32(1.0 / (end - begin))
    for at in range(width):
        hidden[at] *= part


@_compiled
def _add_to_rows(
    inputs: np.ndarray, rows: np.ndarray, begin: int, end: int, gradient: np.ndarray
) -> None:
    for position in range(begin, end):
        row = rows[position]
        for at in range(len(gradient)):
            inputs[row, at] += gradient[at]


@_compiled
def _dot(outputs: np.ndarray, label: int, hidden: np.ndarray) -> np.float32:
    total = _ZERO
    for at in range(len(hidden)):
        total += outputs[label, at] * hidden[at]
    return total
