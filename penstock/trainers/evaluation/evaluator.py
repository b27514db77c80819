"""Evaluate a model on examples, by the metrics of :mod:`penstock.trainers.evaluation.scores`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from penstock.errors import InputError
from penstock.tokenization.hiding import read_text_tokenizer
from penstock.trainers.evaluation.examples import Evaluation, TreeNats, example_nats
from penstock.trainers.evaluation.scores import ExampleScores, Scores

__all__ = ["evaluate"]


def evaluate(
    evaluations: Sequence[Evaluation],
    reader: TreeNats,
    tokenizer: Path,
    *,
    eos: int,
    context: int,
    branches: bool = True,
) -> Scores:
    """Compute the metrics of every evaluation.

    All workers call it together and get the same.

    Args:
        evaluations: Each with at least one text that is not empty.
        reader: Reads the model.
        tokenizer: The model's ``tokenizer.json``.
        eos: The token on which every text is conditioned.
        context: Tokens of the model's context.
        branches: True if the model reads trees with branches.

    Raises:
        InputError: An evaluation has no text.
    """
    # As in the shards: the characters <|endoftext|> in a text are encoded as ordinary text.
    loaded = read_text_tokenizer(tokenizer, ids=[eos], key="evaluate")
    for item in evaluations:
        if not any(example.text for example in item.examples):
            raise InputError(key="evaluate", file=item.name, expected="texts", got="none")
    return Scores(
        {
            item.name: ExampleScores.of(
                item.examples,
                *example_nats(
                    item.examples, reader, loaded, eos=eos, context=context, branches=branches
                ),
            )
            for item in evaluations
        }
    )
