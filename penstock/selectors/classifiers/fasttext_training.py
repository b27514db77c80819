"""fastText training of a binary classifier: the same bytes each time, and those of fastText.

fastText itself reads the dictionary (which words have a row, in which order). Rows are then found
once for all epochs of all trials, by the loops that scoring uses, and trained by our own loop
(:mod:`penstock.selectors.kernels.fasttext_gradients`), a fourth of fastText's time an epoch.
fastText's own training is not repeatable, even on one thread: below about 32 MB it leaves nine
tenths of the input matrix as ``malloc`` gave it, with what was freed before. Here they are zero.
Trade-off: no more threads than one, since the updates of several would race; trials of a grid run
in parallel instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.arrow_text import read_only, text_view
from penstock.errors import SelectorError
from penstock.selectors.classifiers.fasttext import CollapsedFastText, collapse, vocabulary_of
from penstock.selectors.kernels.fasttext_gradients import draw_inputs, train_inputs, write_rows
from penstock.selectors.kernels.fasttext_words import EOS, Text, WordScratch
from penstock.temporary import temporary_directory

__all__ = ["TrainingRows", "find_rows", "train", "training_line"]

_LABEL = "__label__"
_POSITIVE = f"{_LABEL}1"
_WHITESPACE = re.compile("[ \t\n\v\f\r\0]+")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingRows:
    """Labelled texts as rows of fastText's input matrix: ``V`` words, then ``bucket`` n-grams."""

    words: np.ndarray
    """(bytes,) int8: the vocabulary in UTF-8, most frequent word first, without separators."""
    word_starts: np.ndarray
    """(V + 1,) int64."""
    bucket: int
    word_ngrams: int
    rows: np.ndarray
    """(r,) int32, of all texts: known words, then n-grams."""
    starts: np.ndarray
    """(n + 1,) int64: text ``i`` is ``rows[starts[i]:starts[i + 1]]``."""
    tokens: np.ndarray
    """(n,) int64: the tokens that fastText counts in each text, end of line and label included."""
    labels: np.ndarray
    """(n,) int64: the row of the output matrix that is right."""
    positive: int
    """The row of the positive label, 0 or 1."""


def find_rows(
    texts: Sequence[str],
    labels: Sequence[bool],
    *,
    word_ngrams: int = 2,
    min_count: int = 1,
    bucket: int = 2_000_000,
) -> TrainingRows:
    """Find the vocabulary of labelled texts, and the rows of each.

    Args:
        texts: (n,) texts.
        labels: (n,) labels: ``__label__1`` (true) or ``__label__0``.
        word_ngrams: The longest n-gram.
        min_count: The least count of a word of the vocabulary.
        bucket: Rows of n-grams.

    Raises:
        SelectorError: One label is missing, or fastText finds no word.
    """
    if len(texts) != len(labels):
        raise SelectorError(
            expected="a label for each text", got=f"{len(texts)} texts and {len(labels)} labels"
        )
    if len({bool(label) for label in labels}) < 2:
        raise SelectorError(
            expected="both positive and negative documents to train on", got="one label"
        )
    model = _read_dictionary(
        texts, labels, wordNgrams=word_ngrams, minCount=min_count, bucket=bucket
    )
    args = model.f.getArgs()
    encoded = [
        word.encode("utf-8", "surrogateescape")
        for word in model.get_words(on_unicode_error="surrogateescape")
    ]
    words = np.frombuffer(b"".join(encoded), np.int8)
    word_starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    positive = model.get_labels().index(_POSITIVE)

    view = text_view(pa.array(texts, pa.large_string()))
    sizes = np.diff(view.offsets)
    # Twice the bytes that a text of one-letter words has for each; memory is touched as used.
    rows = np.empty(int((sizes // 2 + 2).sum()) * max(1, word_ngrams), np.int32)
    starts = np.empty(len(texts) + 1, np.int64)
    tokens = np.empty(len(texts), np.int64)
    write_rows(
        Text.of(view.data.view(np.int8)),
        view.offsets,
        vocabulary_of(words, word_starts, args.label),
        word_ngrams,
        np.uint64(max(1, args.bucket)),
        WordScratch.for_document_of(view.longest),
        rows,
        starts,
        tokens,
    )
    right = np.asarray(labels, bool)
    return TrainingRows(
        words=words,
        word_starts=word_starts,
        bucket=int(args.bucket),
        word_ngrams=int(args.wordNgrams),
        rows=rows[: starts[-1]].copy(),
        starts=starts,
        tokens=tokens,
        labels=np.where(right, positive, 1 - positive),
        positive=positive,
    )


def train(
    data: TrainingRows, *, lr: float = 0.1, dim: int = 100, epoch: int = 5, seed: int = 0
) -> CollapsedFastText:
    """Train a classifier of ``__label__1`` against ``__label__0``, and collapse it.

    The defaults are fastText's. Equal arguments give equal bytes, those of fastText on one thread
    with zeroed memory.

    Raises:
        SelectorError: The training diverged.
    """
    inputs = np.zeros((len(data.word_starts) - 1 + data.bucket, dim), np.float32)
    outputs = np.zeros((2, dim), np.float32)
    draw_inputs(inputs, np.float32(1 / dim), seed)
    finite = train_inputs(
        inputs,
        outputs,
        read_only(data.rows),
        read_only(data.starts),
        read_only(data.tokens),
        read_only(data.labels),
        float(lr),
        int(epoch),
        np.empty(dim, np.float32),
        np.empty(dim, np.float32),
    )
    if not finite:
        raise SelectorError(
            "training diverged (an output is not a number)", key="lr", got=lr, fix="use a lower one"
        )
    return CollapsedFastText(
        weights=collapse(inputs, outputs, data.positive),
        words=data.words,
        starts=data.word_starts,
        bucket=data.bucket,
        word_ngrams=data.word_ngrams,
    )


def _read_dictionary(texts: Sequence[str], labels: Sequence[bool], **settings: int) -> Any:
    """Return a fastText model that was trained for no epoch."""
    import fasttext

    with temporary_directory("fasttext-") as directory:
        path = directory / "texts.txt"
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for text, label in zip(texts, labels, strict=True):
                file.write(f"{_LABEL}{int(label)} {training_line(text)}\n")
        try:
            return fasttext.train_supervised(
                str(path), epoch=0, dim=1, thread=1, verbose=0, **settings
            )
        except (RuntimeError, ValueError) as error:
            raise SelectorError(f"no vocabulary ({error})", key="min_count") from error


def training_line(text: str) -> str:
    """Return the words that scoring uses.

    In a training file a document's word ``</s>`` would end the line, and its word ``__label__x``
    would be a third label.
    """
    if EOS.decode() in text or _LABEL in text:
        words = takewhile(lambda word: word != EOS.decode(), _WHITESPACE.split(text))
        return " ".join(word for word in words if not word.startswith(_LABEL))
    return text.replace("\n", " ")
