"""The pass of scorers: the text of a unit is read once for all scorers that still need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.errors import ScoringError
from penstock.pipeline.checking import call_plugin
from penstock.pipeline.grouped import write_scores
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.models import Column, read_vectors
from penstock.pipeline.units import Unit, iter_documents
from penstock.resources import Resources
from penstock.selectors.base import Scorer
from penstock.selectors.batch_scorer import BatchScorer
from penstock.storage import AnyPath

__all__ = ["score_documents", "scores_of"]


def score_documents(
    drafts: Mapping[str, Draft],
    columns: Sequence[Column],
    units: Sequence[Unit],
    embeddings: Mapping[str, Artefact],
    runner: Runner,
    progress: Any,
) -> None:
    """Score every unit and record the scores in the drafts of the columns.

    Args:
        drafts: Drafts of the columns, by name.
        columns: Columns whose scorers are loaded.
        units: Units of the corpus.
        embeddings: The vectors of each column whose scorer reads vectors.
        runner: Runs a task for each unit.
        progress: Called with a line for each unit.
    """
    missing = [
        (unit, [name for name, draft in drafts.items() if draft.done(unit.name) is None])
        for unit in units
    ]
    left = [
        (
            unit,
            names,
            {
                name: (embeddings[name].path, embeddings[name].files[unit.number])
                for name in names
                if name in embeddings
            },
        )
        for unit, names in missing
        if names
    ]
    state = [(column.name, column.selector, drafts[column.name].path) for column in columns]
    needs = _needs_of(columns)
    for index, records in runner.run(_score_unit, left, state, keep_state=True, needs=needs):
        unit, *_ = left[index]
        for name, record in records.items():
            drafts[name].record(unit.name, [record])
        progress(f"scored {unit.documents:,} documents of {unit.name}")


def scores_of(returned: Any, count: int, key: str, at: str) -> np.ndarray:
    """Convert the return value of a selector to (count,) float32.

    Args:
        returned: By the selector.
        count: Documents that it scored.
        key: Key of the selector in the recipe.
        at: The documents of the call, for messages.

    Raises:
        ScoringError: It is not one float for each document.
    """
    expected = f"{count} scores, one float for each document"
    try:
        scores = np.asarray(returned, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ScoringError(key=key, file=at, expected=expected, got=error) from None
    if scores.shape != (count,):
        raise ScoringError(
            key=key, file=at, expected=expected, got=f"an array of shape {scores.shape}"
        )
    return scores


def _needs_of(columns: Sequence[Column]) -> Resources:
    """Add up the resources of one worker that runs all of these scorers."""
    asked = [
        replace(resources, by=f"select.{column.name}")
        for column in columns
        if (resources := column.selector.requirements.resources) != Resources()
    ]
    return Resources(
        cpus=max([1, *(one.cpus for one in asked)]),
        gpus=max([0, *(one.gpus for one in asked)]),
        memory=sum(one.memory or 0 for one in asked) or None,
        by=", ".join(one.by for one in asked) or "the stage",
    )


Embedded = Mapping[str, tuple[AnyPath, FileRecord]]
"""For each column whose scorer reads vectors, the artefact of the vectors and a unit's file."""


def _score_unit(
    item: tuple[Unit, Sequence[str], Embedded], state: Sequence[tuple[str, Scorer, AnyPath]]
) -> Mapping[str, FileRecord]:
    unit, names, embedded = item
    vectors = {name: read_vectors(*where) for name, where in embedded.items()}
    start = 0
    wanted = [column for column in state if column[0] in names]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for documents in iter_documents(unit):
        together = BatchScorer([scorer for _, scorer, _ in wanted], documents)
        rows = slice(start, start := start + len(documents))
        for name, scorer, _ in wanted:
            embeddings = scorer.requirements.embeddings
            if name in vectors and embeddings is not None:
                work = partial(embeddings.score, documents, vectors[name][rows])
            else:
                work = partial(together.score, scorer)
            ids = documents.column("id")
            at = f"documents {ids[0]} to {ids[-1]} of {unit.name}"
            returned = call_plugin(f"select.{name}", at, work)
            parts[name].append(scores_of(returned, len(documents), f"select.{name}", at))
    return {
        name: write_scores(directory, unit.name, np.concatenate(parts[name]))
        for name, _, directory in wanted
    }
