"""Scores by answers of a language model: the answers are an artefact of their own.

They are requested and kept as those of rewriters are (:mod:`penstock.pipeline.rewriting.answers`):
a killed run requests nothing twice, and another pool of the corpus only what is new to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.display import numbered
from penstock.pipeline.checking import call_plugin, scores_of
from penstock.pipeline.grouped import write_scores
from penstock.pipeline.rewriting.answers import Questions, answers_of, make_answers
from penstock.pipeline.scoring.models import Column, Models
from penstock.pipeline.units import Unit
from penstock.selectors.base import AnswerScores
from penstock.selectors.rewriting.base import Answer
from penstock.storage import AnyPath

__all__ = ["answers_for", "score_answers"]

_COUNTS = ("answers", "unusable", "without_probabilities")


def answers_for(column: Column, asked: AnswerScores, models: Models) -> Artefact:
    """Find or request the answers about all documents of a pool.

    Raises:
        CompletionError: The model cannot be reached; the answers so far are kept.
    """
    questions = Questions(
        name=column.name,
        section="select",
        prompter=asked.prompter,
        completions=asked.completions,
        share=1.0,
        seed=models.seed,
    )
    pool = models.pool
    return make_answers(
        questions, pool, pool.units, models.workspace, models.runner, models.progress
    )


def score_answers(
    column: Column, asked: AnswerScores, draft: Draft, answers: Artefact, models: Models
) -> list[str]:
    """Score every unit and record the scores in the draft of a column.

    Returns:
        The names of the parts.
    """
    items = {unit.name: (unit, record) for unit, record in zip(models.pool.units, answers.files)}
    state = (f"select.{column.name}", asked.score, answers.path, draft.path)
    records = draft.fill(models.runner.run, _score_unit, items, state)
    counts = {key: sum(record.facts[key] for record in records) for key in _COUNTS}
    for key, words in (
        ("unusable", "that give no score"),
        ("without_probabilities", "without probabilities: their text is what counts"),
    ):
        if counts[key]:
            of = numbered(counts["answers"], "answer")
            models.progress(f"{column.name}: {counts[key]:,} of {of} {words}")
    return list(items)


def _score_unit(
    item: tuple[Unit, FileRecord],
    state: tuple[str, Callable[[Sequence[Answer]], float], AnyPath, AnyPath],
) -> FileRecord:
    unit, record = item
    key, score_of, answers, directory = state
    numbers = unit.numbers()
    scores: list[float] = [np.nan] * len(numbers)
    counts = dict.fromkeys(_COUNTS, 0)
    for row, found in answers_of(answers, record):
        own = [answer for _, answer in found]
        place = int(np.searchsorted(numbers, row))
        score = call_plugin(key, f"row {row} of {unit.name}", score_of, own)
        scores[place] = score
        counts["answers"] += len(own)
        counts["unusable"] += len(own) * bool(np.isnan(score))
        counts["without_probabilities"] += sum(not answer.probabilities for answer in own)
    checked = scores_of(scores, len(scores), key, unit.label)
    written = write_scores(directory, unit.name, checked)
    return replace(written, facts={**written.facts, **counts})
