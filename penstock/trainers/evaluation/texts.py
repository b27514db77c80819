"""Bits per byte on target texts: the number by which arms are compared.

Bytes, not tokens, so that models with other tokenizers can be compared. Every byte is counted once:
a text longer than the model's context is read in windows that follow each other, which costs the
tokens at a window's beginning some of their context and saves reading anything twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.trainers.evaluation.reading import Reader, Window

__all__ = ["Score", "score_texts", "text_nats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a model scored on the texts of one evaluation."""

    mean: float
    """Bits per byte."""
    stderr: float
    """Of the ratio of sums, over examples (Cochran 1977, eq. 6.9)."""
    bytes: int
    examples: int


def score_texts(
    texts: Sequence[str], reader: Reader, tokenizer: Any, *, eos: int, context: int
) -> Score:
    """Bits per byte of texts that are not all empty; arguments as of :func:`text_nats`."""
    sizes = np.array([len(text.encode()) for text in texts], np.float64)
    nats = text_nats(texts, reader, tokenizer, eos=eos, context=context)
    return _ratio(nats / math.log(2), sizes)


def text_nats(
    texts: Sequence[str], reader: Reader, tokenizer: Any, *, eos: int, context: int
) -> np.ndarray:
    """-ln p of each text given ``eos``: (n,) float64.

    Args:
        texts: (n,).
        reader: Of the model.
        tokenizer: The model's own, of the tokenizers library.
        eos: The token that every text is conditioned on.
        context: Tokens the model sees at once.
    """
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    windows = [
        (number, Window([eos, *ids][start : start + context][: len(ids) - start], part))
        for number, encoding in enumerate(encodings)
        for ids in [encoding.ids]
        for start in range(0, len(ids), context)
        for part in [ids[start : start + context]]
    ]
    nats = reader.nats([window for _, window in windows])
    # bincount adds in the order of the windows, however they were batched.
    numbers = np.array([number for number, _ in windows], np.int64)
    return np.bincount(numbers, nats, minlength=len(texts))


def _ratio(bits: np.ndarray, sizes: np.ndarray) -> Score:
    """The ratio of sums and its standard error: both (n,) float64."""
    count, total = len(sizes), float(sizes.sum())
    ratio = float(bits.sum()) / total
    spread = float(np.square(bits - ratio * sizes).sum())
    return Score(
        mean=ratio,
        stderr=math.sqrt(spread * count / (count - 1)) / total if count > 1 else 0.0,
        bytes=int(total),
        examples=count,
    )
