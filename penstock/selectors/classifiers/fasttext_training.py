"""fastText training that gives the same bytes each time, from the texts as scoring will read them.

fastText's own training is not repeatable, even on one thread: below about 32 MB it starts from
memory that was freed before (:func:`zeroed_malloc`). Trade-off: the speed of more threads, whose
updates race; trials of a grid run in parallel instead.
"""

from __future__ import annotations

import ctypes
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from penstock.errors import SelectorError
from penstock.selectors.kernels.fasttext_words import EOS

__all__ = ["train", "zeroed_malloc"]

_LABEL = "__label__"
_WHITESPACE = re.compile("[ \t\n\v\f\r\0]+")


def train(
    texts: Sequence[str],
    labels: Sequence[bool],
    *,
    lr: float = 0.1,
    dim: int = 100,
    epoch: int = 5,
    word_ngrams: int = 2,
    min_count: int = 1,
    bucket: int = 2_000_000,
    seed: int = 0,
) -> Any:
    """Train a supervised fastText model of ``__label__1`` (true) against ``__label__0``.

    The defaults are fastText's and PreSelect's (bigrams). Equal arguments give equal bytes: one
    thread, since fastText's hogwild updates race, and zeroed memory (:func:`zeroed_malloc`).
    """
    import fasttext

    if len(texts) != len(labels):
        raise SelectorError(
            expected="a label for each text", got=f"{len(texts)} texts and {len(labels)} labels"
        )
    if len({bool(label) for label in labels}) < 2:
        raise SelectorError(
            expected="both positive and negative documents to train on", got="one label"
        )
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", suffix=".txt") as file:
        for text, label in zip(texts, labels, strict=True):
            file.write(f"{_LABEL}{int(label)} {_training_line(text)}\n")
        file.flush()
        try:
            with zeroed_malloc():
                return fasttext.train_supervised(
                    file.name,
                    lr=lr,
                    dim=dim,
                    epoch=epoch,
                    wordNgrams=word_ngrams,
                    minCount=min_count,
                    bucket=bucket,
                    seed=seed,
                    thread=1,
                    verbose=0,
                )
        except RuntimeError as error:
            raise SelectorError(
                f"training diverged ({error})", key="lr", got=lr, fix="use a lower one"
            ) from error


def _training_line(text: str) -> str:
    """Return the words that scoring uses.

    In a training file a document's word ``</s>`` would end the line, and its word ``__label__x``
    would be a third label.
    """
    if EOS.decode() in text or _LABEL in text:
        words = takewhile(lambda word: word != EOS.decode(), _WHITESPACE.split(text))
        return " ".join(word for word in words if not word.startswith(_LABEL))
    return text.replace("\n", " ")


@contextmanager
def zeroed_malloc() -> Iterator[None]:
    """Make glibc return zeroed memory, in this process, while a model is trained.

    With one thread fastText initialises the first tenth of the input matrix and leaves the rest
    as malloc gave it (``DenseMatrix::uniform`` splits the work into ten blocks, and ``thread=1``
    runs one). Above 32 MiB that is fresh zero pages; below, it is memory that was freed before:
    runs differed, and 3 of 45 on small models raised "Encountered NaN". ``M_PERTURB`` 255 fills
    new memory with zeros. Other C libraries have no such switch; with them only large models are
    the same each time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    m_perturb = -6  # malloc.h
    if mallopt:
        mallopt(m_perturb, 255)
    try:
        yield
    finally:
        if mallopt:
            mallopt(m_perturb, 0)
