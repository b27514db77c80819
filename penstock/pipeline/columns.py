"""The columns stage: a float32 score for every document, from each selector of a recipe.

A selector is fitted once (the *model*, an artefact of its own) and then scores every document of
every unit, row-aligned with the unit. All scorers that have no column yet share one pass over the
text; set selectors read vectors, an artefact that all of them share. A cut reads columns alone, so
cutting again at another budget reads no text.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from typing import Any

from penstock.artefact import Artefact, Draft, fingerprint
from penstock.errors import SelectorError
from penstock.pipeline.checking import check_sum
from penstock.pipeline.scoring.documents import score_documents
from penstock.pipeline.scoring.models import Column, Models, make_embeddings
from penstock.pipeline.scoring.sets import score_sets
from penstock.pipeline.units import Unit, units_of
from penstock.selectors.base import SetSelector

__all__ = ["Column", "in_dependence", "make_columns"]

VERSION = 1

_COUNTED = ("documents", "excluded")


def make_columns(columns: Sequence[Column], models: Models) -> dict[str, Artefact]:
    """Find or make the column of each selector.

    Args:
        columns: Columns in any order.
        models: Models of the corpus whose documents are scored.

    Raises:
        SelectorError: A selector cannot be fitted on this sample and target.
        ScoringError: A selector raised, or returned something other than one float a document.
    """
    ordered = in_dependence(columns)
    units = units_of(models.corpus)
    begun = {
        column.name: _begin(column, models, {})
        for column in ordered
        if column.selector.kind != "set"
    }
    drafts = {name: draft for name, draft in begun.items() if isinstance(draft, Draft)}
    if drafts:
        scorers = [column for column in ordered if column.name in drafts]
        score_documents(
            drafts, scorers, units, _embedded(scorers, models), models.runner, models.progress
        )
    finished = {
        name: _publish(found, units, models.corpus) if isinstance(found, Draft) else found
        for name, found in begun.items()
    }
    for column in ordered:
        if column.selector.kind == "set":
            finished[column.name] = _set_column(column, column.selector, models, units, finished)
    for name, artefact in finished.items():
        if excluded := artefact.facts["excluded"]:
            models.progress(f"{name}: {excluded:,} documents have no score and are never taken")
    return {column.name: finished[column.name] for column in columns}


def in_dependence(columns: Sequence[Column]) -> list[Column]:
    """Sort columns so that each comes after the column that it is made from.

    Raises:
        SelectorError: A column that is named does not exist, or depends on itself.
    """
    known = {column.name: column for column in columns}
    for column in columns:
        if column.quality is not None and column.quality not in known:
            raise SelectorError(
                key=f"select.{column.name}.quality",
                expected="the name of another selector of the recipe",
                got=f"{column.quality!r}",
            )
    upon = {column.name: [column.quality] if column.quality else [] for column in columns}
    try:
        return [known[name] for name in graphlib.TopologicalSorter(upon).static_order()]
    except graphlib.CycleError as error:
        circle = error.args[1][::-1]
        raise SelectorError(
            key=f"select.{circle[0]}.quality",
            expected="a column that does not depend on this one",
            got=" -> ".join(circle),
        ) from None


def _embedded(columns: Sequence[Column], models: Models) -> dict[str, Artefact]:
    """Find or make the vectors of each column whose scorer reads vectors."""
    return {
        column.name: make_embeddings(asked.encoder, models, models.progress)
        for column in columns
        if (asked := column.selector.requirements.embeddings) is not None
    }


def _set_column(
    column: Column,
    selector: SetSelector,
    models: Models,
    units: Sequence[Unit],
    finished: Mapping[str, Artefact],
) -> Artefact:
    embeddings = make_embeddings(selector.requirements.encoder, models, models.progress)
    quality = None if column.quality is None else finished[column.quality]
    draft = _begin(
        column,
        models,
        {
            "embeddings": embeddings.fingerprint,
            "quality": None if quality is None else quality.fingerprint,
        },
    )
    if isinstance(draft, Artefact):
        return draft
    score_sets(
        column.name,
        selector,
        draft,
        units,
        embeddings,
        quality,
        models.runner,
        models.seed,
        models.progress,
    )
    return _publish(draft, units, models.corpus)


def _begin(column: Column, models: Models, inputs: Mapping[str, Any]) -> Artefact | Draft:
    """Find a finished column, or open a draft of it and load its selector's model."""
    model = models.fitted(column)
    inputs = {"corpus": models.corpus.fingerprint, "model": model.fingerprint, **inputs}
    config = {"selector": column.name}
    found = models.workspace.find("columns", fingerprint("columns", VERSION, config, inputs))
    if found:
        return found
    models.load(column, model)
    return models.workspace.draft("columns", VERSION, config, inputs)


def _publish(draft: Draft, units: Sequence[Unit], corpus: Artefact) -> Artefact:
    parts = [unit.name for unit in units]
    records = draft.files(parts)
    counts = {key: sum(record.facts[key] for record in records) for key in _COUNTED}
    check_sum(
        f"{draft.path}",
        ("documents kept in the corpus", corpus.facts["documents"]["kept"]),
        {"scored": counts["documents"] - counts["excluded"], "excluded": counts["excluded"]},
    )
    return draft.publish(parts, counts)
