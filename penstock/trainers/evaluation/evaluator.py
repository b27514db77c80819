"""What a model is judged on, and the judge: of a saved model, or of one that is being trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from penstock.errors import InputError
from penstock.trainers.evaluation.choices import Accuracy, Question, score_choices
from penstock.trainers.evaluation.reading import Reader
from penstock.trainers.evaluation.texts import Score, score_texts

__all__ = ["Evaluation", "Evaluator", "Scores"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Examples of one benchmark, already rendered."""

    name: str
    texts: tuple[str, ...]
    """Of all examples: bits per byte are taken of them."""
    questions: tuple[Question, ...] = ()
    """Of those that have choices: accuracy is taken of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What a model scored, by the names of the evaluations."""

    bits_per_byte: dict[str, Score]
    accuracy: dict[str, Accuracy]
    """Of the evaluations that have questions."""

    def to_json(self) -> dict[str, dict[str, dict[str, Any]]]:
        """As plain data."""
        return asdict(self)


class Evaluator:
    """Scores a model on evaluations; all workers call it together and get the same.

    Args:
        reader: Of the model.
        tokenizer: Its ``tokenizer.json``.
        eos: The token that every text is conditioned on.
        context: Tokens the model sees at once.
    """

    def __init__(self, reader: Reader, tokenizer: Path, *, eos: int, context: int) -> None:
        from tokenizers import Tokenizer

        self._reader = reader
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        # As the shards were made: who writes <|endoftext|> gets its letters, not the token.
        self._tokenizer.encode_special_tokens = True
        self._eos = eos
        self._context = context

    def scores(self, evaluations: Sequence[Evaluation]) -> Scores:
        """Bits per byte on every evaluation, and accuracy where there are questions.

        Raises:
            InputError: An evaluation has no text.
        """
        reading: dict[str, Any] = {"eos": self._eos, "context": self._context}
        for item in evaluations:
            if not any(item.texts):
                raise InputError(f"evaluate: {item.name}: expected texts, got none")
        return Scores(
            bits_per_byte={
                item.name: score_texts(item.texts, self._reader, self._tokenizer, **reading)
                for item in evaluations
            },
            accuracy={
                item.name: score_choices(item.questions, self._reader, self._tokenizer, **reading)
                for item in evaluations
                if item.questions
            },
        )
