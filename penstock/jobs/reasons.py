"""What the scores of a document mean, in the words of the selectors that gave them.

The fitted selectors are read from their artefacts, so nothing is fitted or scored anew but the
words of this one document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact, Workspace
from penstock.errors import ArtefactError
from penstock.hashing import hash_documents, mix
from penstock.jobs.build import build_columns
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.pipeline.columns import changed_modules
from penstock.pipeline.scoring.models import Column, read_vectors
from penstock.plugin_frames import describe_error
from penstock.selectors.influence import can_be_asked, influential_words
from penstock.selectors.parameters import Algorithm

__all__ = ["add_reasons", "changed_code", "describe_reasons"]

_DIGITS = 16
"""Digits of a fingerprint in the name of its directory."""


def add_reasons(
    curated: Curated | PartiallyCurated, fates: list[dict[str, Any]], own_code: bool = True
) -> None:
    """Add ``reasons`` to the fates of documents that have scores, by column.

    Each has ``selector``, as recipes name it; ``meaning``, what a score is, where the selector is
    built in; ``words``, with ``word`` and ``change``, those that weigh most; ``cluster``
    and ``clusters``, where a set selector scored the document within one; and ``of``, for a mean,
    the group. ``problem`` says why the rest is missing, where the model cannot be read any more or
    the user's own class or function raised.

    Args:
        curated: What is made of the recipe.
        fates: Entries as of :func:`penstock.jobs.why.fates_of`.
        own_code: Whether the user's own functions and classes are called for ``words``.
    """
    columns = {column.name: column for column in build_columns(curated.recipe)}
    problems = {
        name: _load(columns[name], artefact)
        for name, artefact in curated.columns.items()
        if name in columns
    }
    for fate in fates:
        if "scores" in fate:
            fate["reasons"] = {
                name: dict(
                    _reasons(columns[name], curated.columns[name], curated, fate, problem, own_code)
                )
                for name, problem in problems.items()
            }


def changed_code(curated: PartiallyCurated) -> list[str]:
    """Return a line for each selector whose code changed since the column of its name was scored.

    Args:
        curated: What is made of the recipe.
    """
    if curated.columns:
        return []
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    return [
        f"select.{column.name}: the code of {', '.join(modules)} changed since it was scored"
        for column in build_columns(curated.recipe)
        if (modules := changed_modules(workspace, column.name, column.selector.identity()))
    ]


def _load(column: Column, artefact: Artefact) -> str | None:
    """Give a selector its fitted state; return why that cannot be read, or None."""
    model = artefact.manifest["inputs"].get("model")
    directory = artefact.path.parent.parent / "model" / str(model)[:_DIGITS]
    try:
        made = Artefact.open(directory)
        for record in made.files:
            made.verified(record)
        column.selector.load(made.local() / "state")
    except ArtefactError as error:
        return str(error)
    except Exception as error:
        if isinstance(column.selector, Algorithm):
            raise
        return f"its words are left out: load raised {describe_error(error)}"
    return None


def _reasons(
    column: Column,
    artefact: Artefact,
    curated: Curated | PartiallyCurated,
    fate: Mapping[str, Any],
    problem: str | None,
    own_code: bool,
) -> Iterator[tuple[str, Any]]:
    selector: Any = column.selector
    built_in = isinstance(selector, Algorithm)
    yield "selector", selector.name if built_in else str(curated.recipe.select[column.name].use)
    if built_in and selector.score_meaning:
        yield "meaning", selector.score_meaning
    if problem is not None:
        yield "problem", problem
    if problem is not None or fate["scores"][column.name]["score"] is None:
        return
    if selector.kind == "mean":
        yield "of", fate["source"] if selector.by == "source" else "documents of its length"
    elif selector.kind == "set":
        embeddings = artefact.manifest["inputs"].get("embeddings")
        if embeddings is not None:
            yield from _cluster(selector, artefact, str(embeddings), curated, fate)
    elif can_be_asked(selector) and (built_in or own_code):
        document = pa.record_batch(
            {
                "id": [fate["id"]],
                "text": pa.array([fate["text"]], pa.large_string()),
                "source": [fate["source"]],
            }
        )
        try:
            found = influential_words(selector, document)
        except Exception as error:
            if built_in:
                raise
            yield "problem", f"its words are left out: the scorer raised {describe_error(error)}"
            return
        yield "words", [{"word": one.word, "change": one.change} for one in found]


def _cluster(
    selector: Any,
    artefact: Artefact,
    embeddings: str,
    curated: Curated | PartiallyCurated,
    fate: Mapping[str, Any],
) -> Iterator[tuple[str, Any]]:
    """Yield the partition of a document, found from its vector as the selector assigned it."""
    try:
        vectors = Artefact.open(artefact.path.parent.parent / "embeddings" / embeddings[:_DIGITS])
    except ArtefactError:  # it may be deleted when the column is made
        return
    unit = next(unit for unit in curated.pool.units if unit.name == fate["unit"])
    place = int(np.searchsorted(unit.numbers(), fate["row"]))
    own = read_vectors(vectors.path, vectors.files[unit.number])[place : place + 1]
    rows = unit.read_rows(["id", "hash"]).slice(place, 1)
    number = selector.assign(own, hash_documents(rows, mix(curated.recipe.seed, "sets")))
    yield "cluster", int(number[0])
    yield "clusters", int(selector.partitions)


def describe_reasons(reasons: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on one column of a document's ``reasons``."""
    meaning = reasons.get("meaning")
    yield f"{reasons['selector']}: {meaning}" if meaning else str(reasons["selector"])
    if "problem" in reasons:
        yield str(reasons["problem"])
    if "of" in reasons:
        yield f"mean of {reasons['of']}"
    if "cluster" in reasons:
        yield f"cluster {reasons['cluster']:,} of {reasons['clusters']:,}"
    if words := reasons.get("words"):
        named = ", ".join(f"{one['word']} {one['change']:+.3g}" for one in words)
        yield f"what its words add to the score: {named}"
