"""The pass of scorers: a unit's text is read once for all that have not scored it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from penstock.artefact import Artefact, Draft, FileRecord
from penstock.errors import PenstockError, ScoringError
from penstock.pipeline.runner import Runner
from penstock.pipeline.scoring.embeddings import read_vectors
from penstock.pipeline.scoring.models import Column
from penstock.pipeline.scoring.scores import write_scores
from penstock.pipeline.units import Unit, iter_documents
from penstock.resources import Resources
from penstock.selectors.base import Documents, EmbeddingScorer, Scorer
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
    """Record every unit's scores in the drafts of these columns, whose scorers are loaded.

    ``embeddings`` has the vectors of the columns that want some.
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
    for index, records in runner.run(_score_unit, left, state, _as_it_is, _needs_of(columns)):
        unit, *_ = left[index]
        for name, record in records.items():
            drafts[name].record(unit.name, [record])
        progress(f"scored {unit.documents:,} documents of {unit.name}")


def scores_of(returned: Any, count: int, place: str) -> np.ndarray:
    """What a selector returned, as (count,) float32.

    Raises:
        ScoringError: It is something else; the message begins with ``place``.
    """
    try:
        scores = np.asarray(returned, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ScoringError(f"{place}: expected one float for each document: {error}") from None
    if scores.shape != (count,):
        raise ScoringError(
            f"{place}: expected {count} scores, one for each document, got an array of shape "
            f"{scores.shape}"
        )
    return scores


def _needs_of(columns: Sequence[Column]) -> Resources:
    """What one worker must have that runs all of these scorers."""
    asked = [
        replace(needs, by=f"select.{column.name}")
        for column in columns
        if (needs := getattr(column.selector, "needs", None)) is not None
    ]
    return Resources(
        cpus=max([1, *(needs.cpus for needs in asked)]),
        gpus=max([0, *(needs.gpus for needs in asked)]),
        memory=sum(needs.memory or 0 for needs in asked) or None,
        by=", ".join(needs.by for needs in asked) or "the stage",
    )


def _as_it_is(state: Any) -> Any:
    """Setup of the pass: the fitted scorers, kept loaded by each worker."""
    return state


Embedded = Mapping[str, tuple[AnyPath, FileRecord]]
"""Where a unit's vectors are, for each column that wants some."""


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
            if name in vectors:
                assert isinstance(scorer, EmbeddingScorer)
                work = partial(scorer.score_vectors, documents, vectors[name][rows])
            else:
                work = partial(together.score, scorer)
            parts[name].append(_score(name, work, documents, unit))
    return {
        name: write_scores(directory, unit.name, np.concatenate(parts[name]))
        for name, _, directory in wanted
    }


def _score(name: str, work: Callable[[], Any], documents: Documents, unit: Unit) -> np.ndarray:
    """One batch by the scorer's ``work``: (n,) float32."""
    ids = documents.column("id")
    place = f"select.{name}: documents {ids[0]} to {ids[-1]} of {unit.name}"
    try:
        returned = work()
    except PenstockError as error:
        raise type(error)(f"{place}: {error}") from None
    except Exception as error:  # a selector may be anyone's code
        raise ScoringError(f"{place}: the scorer raised {type(error).__name__}: {error}") from error
    return scores_of(returned, len(documents), place)
