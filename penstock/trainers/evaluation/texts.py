"""Bits per byte on target texts: the number by which arms are compared.

Bytes, not tokens, so that models with different tokenizers can be compared. Every byte counts once:
a text longer than the model's context is read in consecutive windows. So the tokens at a window's
beginning have less context, and no token is read twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.language_models import windows
from penstock.trainers.evaluation.reading import WindowReader

__all__ = ["Score", "score_texts", "text_nats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A model's score on the texts of one evaluation."""

    mean: float
    """Bits per byte."""
    stderr: float
    """Standard error of the ratio of sums over examples (Cochran 1977, eq. 6.9)."""
    bytes: int
    examples: int


def score_texts(
    texts: Sequence[str], reader: WindowReader, tokenizer: Any, *, eos: int, context: int
) -> Score:
    """Compute bits per byte of texts, not all empty; arguments as for :func:`text_nats`."""
    sizes = np.array([len(text.encode()) for text in texts], np.float64)
    nats = text_nats(texts, reader, tokenizer, eos=eos, context=context)
    return _ratio(nats / math.log(2), sizes)


def text_nats(
    texts: Sequence[str], reader: WindowReader, tokenizer: Any, *, eos: int, context: int
) -> np.ndarray:
    """Compute -ln p of each text given ``eos``: (n,) float64.

    Args:
        texts: (n,).
        reader: Reads with the model.
        tokenizer: The model's own, of the tokenizers library.
        eos: The token that every text is conditioned on.
        context: Tokens of the model's context.
    """
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    ids = [np.array([eos, *encoding.ids], np.int64) for encoding in encodings]
    return windows.text_nats(ids, reader.nats, window=context, stride=context)


def _ratio(bits: np.ndarray, sizes: np.ndarray) -> Score:
    """Compute the ratio of sums and its standard error from two (n,) float64."""
    count, total = len(sizes), float(sizes.sum())
    ratio = float(bits.sum()) / total
    spread = float(np.square(bits - ratio * sizes).sum())
    return Score(
        mean=ratio,
        stderr=math.sqrt(spread * count / (count - 1)) / total if count > 1 else 0.0,
        bytes=int(total),
        examples=count,
    )
