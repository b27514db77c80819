"""Multiple-choice accuracy: how often the right choice has the highest likelihood.

Each choice is read as the answer to the question, in the same text as for bits per byte, and only
the choice is scored. A long choice is less likely than a short one whatever its meaning, so the log
likelihood is divided by its length **in bytes**, as for bits per byte: a length in tokens depends
on the words in a tokenizer's vocabulary (Gao, *Multiple Choice Normalization in LM Evaluation*,
2021; ``acc_norm`` of lm-eval counts characters, which are bytes in English). Accuracy without the
division is reported too.

**The boundary.** Question and choice are tokenised as one text, as in training, not apart and
joined. The score begins at the first token that holds a byte of the choice. A token that holds
bytes of both (most often a space and the choice's first word) is scored whole. The characters
between question and choice belong to the question, so a newline before every choice is not scored.

A text longer than the model's context keeps its end: the question loses its beginning, and a choice
that is longer than the context is scored on its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from penstock.errors import InputError
from penstock.language_models.windows import Window
from penstock.panics import panics_as_errors

__all__ = ["Accuracy", "Question", "WindowNats", "choice_nats", "score_choices"]

WindowNats: TypeAlias = Callable[[Sequence[Window]], np.ndarray]
"""Sum -ln p over each window's counted targets: (windows,) float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with choices, one of them right."""

    context: str
    """Text before the choice, with the characters between them."""
    choices: tuple[str, ...]
    """Choices that continue ``context``; none is empty."""
    answer: int
    """Index of the right choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of questions that a model answers right."""

    mean: float
    """Accuracy with the log likelihood of a choice divided by its bytes."""
    stderr: float
    """Standard error of a share: sqrt(p (1 - p) / n)."""
    plain: float
    """Accuracy without the division."""
    plain_stderr: float
    chance: float
    """Accuracy of guessing: the mean of one over the number of choices."""
    examples: int


def score_choices(
    questions: Sequence[Question], reader: WindowNats, tokenizer: Any, *, eos: int, context: int
) -> Accuracy:
    """Compute accuracy on at least one question; arguments as :func:`choice_nats`.

    The first of equally likely choices is taken.
    """
    nats = choice_nats(questions, reader, tokenizer, eos=eos, context=context)
    right = np.zeros(2)
    for question, own in zip(questions, nats):
        sizes = np.array([len(choice.encode()) for choice in question.choices])
        right += [
            int(np.argmin(own / sizes)) == question.answer,
            int(np.argmin(own)) == question.answer,
        ]
    count = len(questions)
    mean, plain = (right / count).tolist()
    return Accuracy(
        mean=mean,
        stderr=_binomial(mean, count),
        plain=plain,
        plain_stderr=_binomial(plain, count),
        chance=float(np.mean([1 / len(question.choices) for question in questions])),
        examples=count,
    )


def choice_nats(
    questions: Sequence[Question], reader: WindowNats, tokenizer: Any, *, eos: int, context: int
) -> list[np.ndarray]:
    """Compute -ln p of each choice given its question: (choices,) float64 for each question.

    Args:
        questions: Questions with their choices.
        reader: Reads the model.
        tokenizer: The model's tokenizer, of the tokenizers library.
        eos: The token on which every text is conditioned.
        context: Tokens in a forward pass.

    Raises:
        InputError: A choice gives no token.
    """
    pairs = [(question.context, choice) for question in questions for choice in question.choices]
    # encode_batch_fast computes no offsets.
    with panics_as_errors("tokenizer"):
        encodings = tokenizer.encode_batch([a + b for a, b in pairs], add_special_tokens=False)
    windows = [
        _window([eos, *encoding.ids], 1 + _first(encoding.offsets, *pair), context)
        for encoding, pair in zip(encodings, pairs)
    ]
    ends = np.cumsum([len(question.choices) for question in questions])
    return np.split(reader(windows), ends[:-1])


def _first(offsets: Sequence[tuple[int, int]], question: str, choice: str) -> int:
    """Return the index of the first token that ends after the question.

    Offsets count characters, and a token with a part of a character has the offsets of all of it.
    So this is also the first token that holds a byte of the choice.
    """
    for index, (_, end) in enumerate(offsets):
        if end > len(question):
            return index
    raise InputError(
        f"the tokenizer makes no token of the choice {choice!r}", key="evaluate", fix="leave it out"
    )


def _window(ids: list[int], first: int, context: int) -> Window:
    """Build a window of the last tokens that fit; those from ``ids[first]`` are counted."""
    begin = max(0, len(ids) - 1 - context)
    return Window(ids[begin:-1], ids[begin + 1 :], max(0, first - 1 - begin))


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)
