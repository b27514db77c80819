"""Evaluate a model on benchmarks: bits per byte, and accuracy where there are choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.errors import InputError
from penstock.trainers.evaluation.choices import Accuracy, Question, score_choices
from penstock.trainers.evaluation.reading import WindowReader
from penstock.trainers.evaluation.texts import Score, score_texts

__all__ = ["Evaluation", "Scores", "evaluate"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Rendered examples of one benchmark."""

    name: str
    texts: tuple[str, ...]
    """All examples, for bits per byte."""
    questions: tuple[Question, ...] = ()
    """The examples with choices, for accuracy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Scores of a model, by the names of the evaluations."""

    bits_per_byte: dict[str, Score]
    accuracy: dict[str, Accuracy]
    """Accuracy of evaluations with questions."""

    def to_json(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return plain data."""
        return asdict(self)


def evaluate(
    evaluations: Sequence[Evaluation],
    reader: WindowReader,
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
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(tokenizer))
    # As in the shards: the characters <|endoftext|> in a text are encoded as ordinary text.
    loaded.encode_special_tokens = True
    reading: dict[str, Any] = {"eos": eos, "context": context}
    for item in evaluations:
        if not any(item.texts):
            raise InputError(key="evaluate", file=item.name, expected="texts", got="none")
    return Scores(
        bits_per_byte={
            item.name: score_texts(item.texts, reader, loaded, **reading) for item in evaluations
        },
        accuracy={
            item.name: score_choices(item.questions, reader, loaded, **reading)
            for item in evaluations
            if item.questions
        },
    )
