"""The columns stage: a float32 score for every document, from each selector of a recipe.

A selector is fitted once (the *model*, an artefact of its own) and then scores every document of
every unit, row-aligned with the unit. All scorers that have no column yet share one pass over the
text; set selectors read vectors, an artefact that all of them share. A cut reads columns alone, so
cutting again at another budget reads no text.
"""

from __future__ import annotations

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
    finished: dict[str, Artefact] = {}
    scorers: list[Column] = []
    drafts: dict[str, Draft] = {}
    for column in ordered:
        if column.selector.kind == "set":
            continue
        found, draft = _draft(column, models, {})
        if found is not None:
            finished[column.name] = found
        elif draft is not None:
            scorers.append(column)
            drafts[column.name] = draft
    if scorers:
        embeddings = _embedded(scorers, models)
        score_documents(drafts, scorers, units, embeddings, models.runner, models.progress)
    for name, draft in drafts.items():
        finished[name] = _publish(draft, units, models.corpus)
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
    ordered: dict[str, Column] = {}
    for column in columns:
        path: list[Column] = []
        upon: Column | None = column
        while upon is not None and upon.name not in ordered:
            if upon in path:
                circle = " -> ".join(each.name for each in [*path, upon])
                raise SelectorError(
                    key=f"select.{upon.name}.quality",
                    expected="a column that does not depend on this one",
                    got=circle,
                )
            path.append(upon)
            if upon.quality is None:
                break
            if upon.quality not in known:
                raise SelectorError(
                    key=f"select.{upon.name}.quality",
                    expected="the name of another selector of the recipe",
                    got=f"{upon.quality!r}",
                )
            upon = known[upon.quality]
        ordered.update({each.name: each for each in reversed(path)})
    return list(ordered.values())


def _embedded(columns: Sequence[Column], models: Models) -> dict[str, Artefact]:
    """Find or make the vectors of each column whose scorer reads vectors."""
    found: dict[str, Artefact] = {}
    for column in columns:
        asked = column.selector.requirements.embeddings
        if asked is not None:
            found[column.name] = make_embeddings(asked.encoder, models, models.progress)
    return found


def _set_column(
    column: Column,
    selector: SetSelector,
    models: Models,
    units: Sequence[Unit],
    finished: Mapping[str, Artefact],
) -> Artefact:
    embeddings = make_embeddings(selector.requirements.encoder, models, models.progress)
    quality = None if column.quality is None else finished[column.quality]
    inputs = {
        "embeddings": embeddings.fingerprint,
        "quality": None if quality is None else quality.fingerprint,
    }
    found, draft = _draft(column, models, inputs)
    if draft is None:
        assert found is not None
        return found
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


def _draft(
    column: Column, models: Models, inputs: Mapping[str, Any]
) -> tuple[Artefact | None, Draft | None]:
    """Find a finished column, or open a draft of it and load its selector's model."""
    model = models.fitted(column)
    inputs = {"corpus": models.corpus.fingerprint, "model": model.fingerprint, **inputs}
    config = {"selector": column.name}
    found = models.workspace.find("columns", fingerprint("columns", VERSION, config, inputs))
    if found:
        return found, None
    models.load(column, model)
    return None, models.workspace.draft("columns", VERSION, config, inputs)


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
