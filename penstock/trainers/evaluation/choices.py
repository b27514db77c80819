"""Multiple-choice accuracy: is the right choice the one that the model finds likeliest?

Each choice is read as the answer to the question, in the very text whose bits per byte are taken,
and only the choice itself is scored. A long choice is less likely than a short one whatever it
says, so the likelihood is divided by its length: **in bytes**, as for bits per byte, because a
length in tokens belongs to a tokenizer, and one that happens to know a word would change the
answer (Gao, *Multiple Choice Normalization in LM Evaluation*, 2021; ``acc_norm`` of lm-eval counts
characters, which are bytes in English). Accuracy without the division is given beside it.

**The boundary.** Question and choice are tokenised as one text, as the model was trained on it,
not apart and joined; what is scored begins at the first token that holds a byte of the choice. A
token that holds both (a space and the choice's first word, most often) is scored whole. The gap
between question and choice is the question's, so a newline in front of the choice, the same for
all, is not scored.

A text longer than the model's context keeps its end: the question loses its beginning, and a choice
that is itself longer is scored on its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.errors import InputError
from penstock.trainers.evaluation.reading import Reader, Window

__all__ = ["Accuracy", "Question", "choice_nats", "score_choices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question with the choices of which one is right."""

    context: str
    """Everything before the choice, the gap included."""
    choices: tuple[str, ...]
    """Each continues ``context``; none is empty."""
    answer: int
    """The place of the right one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How many questions a model answered right."""

    mean: float
    """Where the likelihood of a choice is divided by its bytes."""
    stderr: float
    """Of a share: sqrt(p (1 - p) / n)."""
    plain: float
    """Where it is not divided."""
    plain_stderr: float
    chance: float
    """What guessing reaches: the mean of one over the number of choices."""
    examples: int


def score_choices(
    questions: Sequence[Question], reader: Reader, tokenizer: Any, *, eos: int, context: int
) -> Accuracy:
    """Accuracy on at least one question; arguments as of :func:`choice_nats`.

    Of choices that are equally likely the first is taken.
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
    questions: Sequence[Question], reader: Reader, tokenizer: Any, *, eos: int, context: int
) -> list[np.ndarray]:
    """-ln p of each choice given its question: (choices,) float64 for each question.

    Args:
        questions: With their choices.
        reader: Of the model.
        tokenizer: The model's own, of the tokenizers library.
        eos: The token that every text is conditioned on.
        context: Tokens the model sees at once.

    Raises:
        InputError: The tokenizer makes nothing of a choice.
    """
    pairs = [(question.context, choice) for question in questions for choice in question.choices]
    # Not encode_batch_fast, which leaves offsets out.
    encodings = tokenizer.encode_batch([a + b for a, b in pairs], add_special_tokens=False)
    windows = [
        _window([eos, *encoding.ids], 1 + _first(encoding.offsets, *pair), context)
        for encoding, pair in zip(encodings, pairs)
    ]
    ends = np.cumsum([len(question.choices) for question in questions])
    return np.split(reader.nats(windows), ends[:-1])


def _first(offsets: Sequence[tuple[int, int]], question: str, choice: str) -> int:
    """The first token that reaches beyond the question.

    Offsets are of characters, and a token that holds a part of one has all of it, so this is also
    the first token that holds a byte of the choice.
    """
    for place, (_, end) in enumerate(offsets):
        if end > len(question):
            return place
    raise InputError(
        f"evaluate: the tokenizer makes no token of the choice {choice!r}; leave it out"
    )


def _window(ids: list[int], first: int, context: int) -> Window:
    """The last tokens that fit, of which those from ``ids[first]`` are counted."""
    begin = max(0, len(ids) - 1 - context)
    return Window(ids[begin:-1], ids[begin + 1 :], max(0, first - 1 - begin))


def _binomial(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count)
