"""Binary fastText classifiers, collapsed to one float a row, so that documents score fast.

fastText scores a document by averaging the input rows ``A`` of its words, word n-grams and
end-of-line token, and taking the softmax of the output rows ``B`` times that average (Joulin et
al. 2017, *Bag of Tricks for Efficient Text Classification*, eq. 1). With two labels only the
difference of two logits matters, and both steps are linear, so they commute::

    u = A @ (B[positive] - B[negative])            one float a row, computed once
    p(positive) = sigmoid(mean of u over the document's rows)

That turns a model of 890 MB (2M buckets, 100 dimensions) into a table of 9 MB, which is sent to a
worker in a hundredth of the time. It scores more than ten times as many documents a second on a
core as ``predict`` does (``benchmarks/scoring.py``). Trade-off: only binary softmax models without
character n-grams can be collapsed.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.array_files import load_array
from penstock.arrow_text import read_only, text_view
from penstock.errors import ArtefactError, SelectorError
from penstock.fasttext_file import LABEL_PREFIX, SOFTMAX, SUPERVISED, FastTextFile
from penstock.opening import read_plain
from penstock.selectors.kernels.fasttext_sums import CollapsedTable, score_documents
from penstock.selectors.kernels.fasttext_words import (
    EOS,
    SLOT,
    Text,
    Vocabulary,
    WordScratch,
    fill_slots,
)

__all__ = ["CollapsedFastText", "collapse", "score_texts", "vocabulary_of"]

_FORMAT = 1

LABEL = "__label__1"
"""The positive label of published classifiers."""


@dataclass(frozen=True, eq=False)
class CollapsedFastText:
    """A binary fastText model as plain arrays: ``V`` words, ``bucket`` hashed n-grams.

    It pickles as its arrays, and every array may be read-only or memory-mapped.
    """

    weights: np.ndarray
    """(V + bucket,) float32: what each input row adds to the positive label's logit."""
    words: np.ndarray
    """(bytes,) int8: the vocabulary in UTF-8, most frequent word first, without separators."""
    starts: np.ndarray
    """(V + 1,) int64: word ``i`` is ``words[starts[i]:starts[i + 1]]``."""
    bucket: int
    word_ngrams: int
    positive: str = LABEL
    label_prefix: str = LABEL_PREFIX.decode()
    """A word of a document that begins with it is a label to fastText, and ignored."""

    eos_row: int = field(init=False, repr=False)
    slots: np.ndarray = field(init=False, repr=False)
    tails: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.weights) == 0:
            raise SelectorError(expected="a model of at least one word", got="none")
        vocabulary = vocabulary_of(self.words, self.starts, self.label_prefix)
        object.__setattr__(self, "slots", vocabulary.slots)
        object.__setattr__(self, "tails", vocabulary.tails)
        object.__setattr__(self, "eos_row", vocabulary.eos_row)

    @classmethod
    def from_file(
        cls, path: str | PathLike[str], positive: str = LABEL, *, zero_eos: bool = False
    ) -> CollapsedFastText:
        """Collapse the model of a ``.bin`` file of fastText.

        ``zero_eos`` sets the end-of-line token's row to zero after training, which PreSelect
        does so that documents do not score by their length (Shum et al. 2025). The token still
        counts in the mean, and its n-gram with the last word keeps its weight.

        Raises:
            SelectorError: It is none, or its probability is no sigmoid of a sum over words and
                n-grams.
        """
        try:
            model = FastTextFile.read(read_plain(path))
        except (OSError, ValueError) as error:
            raise SelectorError(
                key="model", expected="a fastText .bin model", got=f"{path}: {error}"
            ) from None
        labels = [label.decode(errors="replace") for label in model.dictionary.labels]
        _check_collapsible(model, labels, positive)
        weights = collapse(model.rows, model.output, labels.index(positive))
        words = model.dictionary.words
        if zero_eos and EOS in words:
            weights[words.index(EOS)] = 0.0
        elif zero_eos:
            warnings.warn("zero_eos has no effect: the model has no end-of-line row", stacklevel=2)
        return cls(
            weights=weights,
            words=np.frombuffer(b"".join(words), np.int8),
            starts=np.cumsum([0, *map(len, words)], dtype=np.int64),
            bucket=model.arguments.bucket,
            word_ngrams=model.arguments.word_ngrams,
            positive=positive,
        )

    def score(self, texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Compute p(positive) of each document: (n,) string or large_string to (n,) float32.

        A null scores NaN. A document is one line: newlines are spaces, as in training.
        Otherwise this is ``predict``, less the 1e-5 that fastText adds to each probability
        before it reports it, and without its float32 rounding (1e-5 on ordinary documents, 5e-4
        on a million repeated words). In particular a word ``</s>`` ends the document, words that
        begin with ``__label__`` are skipped, and a document none of whose rows exist
        (``predict`` returns no label) scores NaN.
        """
        table = self._table()

        def kernel(text: Text, offsets: np.ndarray, scratch: WordScratch, out: np.ndarray) -> None:
            score_documents(text, offsets, table, scratch, out[0])

        return score_texts(texts, 1, kernel)[0]

    def save(self, directory: str | PathLike[str]) -> None:
        """Write ``fasttext.json`` and three ``.npy`` files; equal models give equal bytes."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("weights", "words", "starts"):
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)
        settings = {
            "format": _FORMAT,
            "bucket": self.bucket,
            "word_ngrams": self.word_ngrams,
            "positive": self.positive,
            "label_prefix": self.label_prefix,
        }
        (directory / "fasttext.json").write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, directory: str | PathLike[str]) -> CollapsedFastText:
        """Read what :meth:`save` wrote, and check it: the kernel does not check its arrays."""
        directory = Path(directory)
        try:
            model = json.loads((directory / "fasttext.json").read_text())
            if not isinstance(model, dict):
                raise ValueError("expected an object")
            for name in ("weights", "words", "starts"):
                model[name] = load_array(directory / f"{name}.npy")
        except (OSError, ValueError, RecursionError) as error:
            raise ArtefactError(
                f"not a collapsed fastText model: {error}", file=directory
            ) from error
        version = model.pop("format", None)
        if version != _FORMAT:
            raise ArtefactError(file=directory, expected=f"format {_FORMAT}", got=version)
        _check_saved(directory, model)
        return cls(**model)

    def _table(self) -> CollapsedTable:
        return CollapsedTable(
            vocabulary=Vocabulary(
                words=Text.of(read_only(self.words)),
                starts=read_only(self.starts),
                slots=read_only(self.slots),
                tails=read_only(self.tails),
                label_prefix=_prefix_bytes(self.label_prefix),
                eos_row=self.eos_row,
            ),
            weights=read_only(self.weights),
            bucket=np.uint64(self.bucket),
            word_ngrams=self.word_ngrams,
        )


def collapse(inputs: np.ndarray, outputs: np.ndarray, positive: int) -> np.ndarray:
    """Multiply each row by the difference of the outputs.

    Args:
        inputs: (v, d) float32.
        outputs: (2, d) float32.
        positive: The positive label's row of ``outputs``.

    Returns:
        (v,) float32.
    """
    wide = outputs.astype(np.float64)
    direction = wide[positive] - wide[1 - positive]
    weights = np.einsum("rd,d->r", inputs, direction, dtype=np.float64)
    return np.asarray(weights.astype(np.float32))


def vocabulary_of(words: np.ndarray, starts: np.ndarray, label_prefix: str) -> Vocabulary:
    """Index words for the kernel; arrays as in :class:`CollapsedFastText`."""
    words, starts = read_only(words), read_only(starts)
    n_words = len(starts) - 1
    slots = np.zeros(1 << (2 * n_words).bit_length(), SLOT)
    tails = np.empty(n_words, np.uint64)
    fill_slots(Text.of(words), starts, slots, tails)
    return Vocabulary(
        words=Text.of(words),
        starts=starts,
        slots=read_only(slots),
        tails=read_only(tails),
        label_prefix=_prefix_bytes(label_prefix),
        eos_row=_row_of(EOS, words, starts),
    )


def score_texts(
    texts: pa.Array | pa.ChunkedArray,
    n_models: int,
    kernel: Callable[[Text, np.ndarray, WordScratch, np.ndarray], None],
) -> np.ndarray:
    """Run ``kernel(text, offsets, scratch, out)`` over Arrow's buffers, a chunk at a time.

    (n,) string or large_string to (n_models, n) float32; a null is NaN.
    """
    if isinstance(texts, pa.ChunkedArray):
        parts = [score_texts(chunk, n_models, kernel) for chunk in texts.chunks]
        return np.concatenate([np.empty((n_models, 0), np.float32), *parts], axis=1)
    view = text_view(texts)
    if view.longest > np.iinfo(np.int32).max:
        raise SelectorError(expected="documents of up to 2 GiB", got=f"{view.longest} bytes")
    scores = np.empty((n_models, len(texts)), np.float32)
    scratch = WordScratch.for_document_of(view.longest)
    kernel(Text.of(view.data.view(np.int8)), view.offsets, scratch, scores)
    if texts.null_count:
        scores[:, texts.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return scores


def _prefix_bytes(label_prefix: str) -> np.ndarray:
    return np.frombuffer(label_prefix.encode(), np.int8)


_LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
_KINDS = {1: "cbow", 2: "skipgram", 3: "supervised"}

_LONGEST_NGRAM = 64
"""Words; time grows with it."""


def _check_collapsible(model: FastTextFile, labels: Sequence[str], positive: str) -> None:
    """Refuse every model whose probability is not a sigmoid of a sum over words and n-grams."""
    args, rows = model.arguments, len(model.rows)
    if model.quantised or model.dictionary.pruned is not None:
        raise SelectorError(expected="a full fastText model", got="a quantised one (.ftz)")
    if args.model != SUPERVISED:
        kind = _KINDS.get(args.model, args.model)
        raise SelectorError(expected="a supervised fastText model", got=kind)
    if args.loss != SOFTMAX:
        loss = _LOSSES.get(args.loss, args.loss)
        raise SelectorError(expected="a fastText model with softmax loss", got=loss)
    if args.longest > 0:
        raise SelectorError(
            expected="a fastText model without character n-grams", got=f"maxn={args.longest}"
        )
    if args.word_ngrams > _LONGEST_NGRAM:
        raise SelectorError(
            expected=f"n-grams of at most {_LONGEST_NGRAM} words", got=args.word_ngrams
        )
    if args.word_ngrams > 1 and args.bucket < 1:
        raise SelectorError(expected="buckets for the word n-grams", got="bucket=0")
    if len(labels) != 2 or len(model.output) != 2:
        raise SelectorError(expected="a fastText model with two labels", got=len(labels))
    if positive not in labels:
        raise SelectorError(key="positive", expected=f"one of {', '.join(labels)}", got=positive)
    if rows != len(model.dictionary.words) + args.bucket:
        raise SelectorError(
            expected=f"a row for each of {len(model.dictionary.words):,} words and "
            f"{args.bucket:,} buckets",
            got=f"{rows:,}",
        )


def _check_saved(directory: Path, model: dict[str, Any]) -> None:
    weights, words, starts = model["weights"], model["words"], model["starts"]
    texts = model.get("positive"), model.get("label_prefix")
    bucket, word_ngrams = model.get("bucket"), model.get("word_ngrams")
    consistent = (
        len(model) == 7
        and type(texts[0]) is type(texts[1]) is str
        and type(bucket) is type(word_ngrams) is int
        and 0 <= word_ngrams <= _LONGEST_NGRAM
        and (weights.dtype, words.dtype, starts.dtype) == (np.float32, np.int8, np.int64)
        and weights.ndim == words.ndim == starts.ndim == 1
        and len(starts) >= 1
        and starts[0] == 0
        and starts[-1] == len(words)
        and bool((np.diff(starts) > 0).all())
        and bucket >= max(min(word_ngrams - 1, 1), 0)
        and len(weights) == len(starts) - 1 + bucket
        and texts[1] != ""
        and _is_utf8(texts[1])
    )
    if not consistent:
        raise ArtefactError(
            "the arrays do not fit together", file=directory, fix="collapse the model again"
        )


def _is_utf8(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


def _row_of(word: bytes, words: np.ndarray, starts: np.ndarray) -> int:
    """Return the row of ``word``, or -1."""
    packed = words.tobytes()
    of_its_length = np.flatnonzero(np.diff(starts) == len(word))
    matches = (row for row in of_its_length if packed.startswith(word, starts[row]))
    return int(next(matches, -1))
