"""Evaluate a model on benchmarks: bits per byte, and accuracy where there are choices.

Bits per byte is the number by which arms are compared: bytes, not tokens, so that models with
different tokenizers can be compared. Every byte counts once: a text longer than the model's context
is read in consecutive windows. So the tokens at a window's beginning have less context, and no
token is read twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from penstock.errors import InputError
from penstock.language_models import windows
from penstock.panics import panics_as_errors
from penstock.tokenization.hiding import read_text_tokenizer
from penstock.trainers.evaluation.choices import Accuracy, Question, WindowNats, score_choices

__all__ = ["Evaluation", "Score", "Scores", "evaluate", "score_texts", "text_nats"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Rendered examples of one benchmark."""

    name: str
    texts: tuple[str, ...]
    """All examples, for bits per byte."""
    questions: tuple[Question, ...] = ()
    """The examples with choices, for accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A model's score on the texts of one evaluation."""

    mean: float
    """Bits per byte."""
    stderr: float
    """Standard error of the ratio of sums over examples (Cochran 1977, eq. 6.9)."""
    bytes: int
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of a model, by the names of the evaluations."""

    bits_per_byte: dict[str, Score]
    accuracy: dict[str, Accuracy]
    """Accuracy of evaluations with questions."""

    def to_json(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return plain data."""
        return asdict(self)

    def line(self, step: int, tokens: int, *, saved: bool = False) -> dict[str, Any]:
        """Return the line of ``metrics.jsonl``.

        Args:
            step: The last step that was taken.
            tokens: Tokens trained on until then.
            saved: True if the model is the saved one, at the end of the run.
        """
        return {"step": step, "tokens": tokens, "evaluation": self.to_json(), "saved": saved}


def evaluate(
    evaluations: Sequence[Evaluation],
    reader: WindowNats,
    tokenizer: Path,
    *,
    eos: int,
    context: int,
) -> Scores:
    """Compute bits per byte on every evaluation, and accuracy where there are questions.

    All workers call it together and get the same.

    Args:
        evaluations: Each with at least one text that is not empty.
        reader: Reads the model.
        tokenizer: The model's ``tokenizer.json``.
        eos: The token on which every text is conditioned.
        context: Tokens in a forward pass.

    Raises:
        InputError: An evaluation has no text.
    """
    # As in the shards: the characters <|endoftext|> in a text are encoded as ordinary text.
    loaded = read_text_tokenizer(tokenizer, ids=[eos], key="evaluate")
    options: dict[str, Any] = {"eos": eos, "context": context}
    for item in evaluations:
        if not any(item.texts):
            raise InputError(key="evaluate", file=item.name, expected="texts", got="none")
    return Scores(
        bits_per_byte={
            item.name: score_texts(item.texts, reader, loaded, **options) for item in evaluations
        },
        accuracy={
            item.name: score_choices(item.questions, reader, loaded, **options)
            for item in evaluations
            if item.questions
        },
    )


def score_texts(
    texts: Sequence[str], reader: WindowNats, tokenizer: Any, *, eos: int, context: int
) -> Score:
    """Compute bits per byte of texts, not all empty; arguments as for :func:`text_nats`."""
    sizes = np.array([len(text.encode()) for text in texts], np.float64)
    nats = text_nats(texts, reader, tokenizer, eos=eos, context=context)
    return _ratio(nats / math.log(2), sizes)


def text_nats(
    texts: Sequence[str], reader: WindowNats, tokenizer: Any, *, eos: int, context: int
) -> np.ndarray:
    """Compute -ln p of each text given ``eos``: (n,) float64.

    Args:
        texts: (n,).
        reader: Reads with the model.
        tokenizer: The model's own, of the tokenizers library.
        eos: The token that every text is conditioned on.
        context: Tokens of the model's context.
    """
    with panics_as_errors("tokenizer"):
        encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    ids = [np.array([eos, *encoding.ids], np.int64) for encoding in encodings]
    return windows.text_nats(ids, reader, window=context, stride=context)


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
