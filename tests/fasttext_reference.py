"""fastText's own training, as the reference of Penstock's, and for models to score with."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from penstock.selectors.classifiers.fasttext import CollapsedFastText
from penstock.selectors.classifiers.fasttext_training import training_line

__all__ = ["collapsed", "train", "zeroed_malloc"]


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
    """Train by fastText itself: a model of ``__label__1`` (true) against ``__label__0``."""
    import fasttext

    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="\n", suffix=".txt") as file:
        for text, label in zip(texts, labels, strict=True):
            file.write(f"__label__{int(label)} {training_line(text)}\n")
        file.flush()
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


def collapsed(model: Any, positive: str = "__label__1", **given: Any) -> CollapsedFastText:
    """Collapse a model of fastText's own, by way of its file."""
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        model.save_model(file.name)
        return CollapsedFastText.from_file(file.name, positive, **given)


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
