"""What the scores of a document mean, in the words of the selectors that gave them.

The fitted selectors are read from their artefacts, so nothing is fitted or scored anew but the
words of this one document.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from penstock.artefact import Artefact, Workspace
from penstock.display import numbered
from penstock.errors import ArtefactError
from penstock.hashing import hash_documents, mix
from penstock.jobs.build import build_columns
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.grades import describe_grade, read_grade
from penstock.jobs.nearest import ExampleSearch
from penstock.jobs.unscored import ask_own_code, document_of
from penstock.pipeline.scoring.changes import changes_of
from penstock.pipeline.scoring.means import TWENTIETHS, count_lengths, group_of_length
from penstock.pipeline.scoring.models import Column, read_vectors
from penstock.pipeline.units import Unit
from penstock.plugin_frames import describe_error
from penstock.selectors.base import AnswerScores, MeanSelector
from penstock.selectors.influence import can_be_asked, influential_words
from penstock.selectors.parameters import Algorithm

__all__ = ["add_reasons", "changed_code", "describe_reasons", "describe_score"]

_DIGITS = 16
"""Digits of a fingerprint in the name of its directory."""


def add_reasons(
    curated: Curated | PartiallyCurated, fates: list[dict[str, Any]], own_code: bool = True
) -> None:
    """Add ``reasons`` to the fates of documents that have scores, by column.

    Each has ``selector``, as recipes name it; ``meaning``, what a score is, where the selector is
    built in; ``words``, with ``word`` and ``change``, those that weigh most; ``nearest``, the
    example of the target that is nearest to the document, and ``ranked_by``, the one that gives a
    score that is a rank, or ``last_rank`` (:meth:`.nearest.ExampleSearch.find`);
    ``cluster`` and ``clusters``, where a set selector scored the document within one; ``mean``, of
    which column and group; ``unscored``, why there is no score; ``model`` and ``asked``, where a
    language model graded it (:func:`.grades.read_grade`). ``problem`` says why the rest is missing,
    where the model cannot be read any more or the user's own class or function raised.

    Args:
        curated: What is made of the recipe.
        fates: Entries as of :func:`penstock.jobs.why.fates_of`.
        own_code: Whether the user's own functions and classes are called for ``words``.
    """
    columns = {column.name: column for column in build_columns(curated.recipe)}
    explained = [
        _Explained(columns[name], artefact, curated, own_code)
        for name, artefact in curated.columns.items()
        if name in columns
    ]
    for fate in fates:
        if "scores" in fate:
            fate["reasons"] = {one.column.name: dict(one.reasons(fate)) for one in explained}


def changed_code(curated: PartiallyCurated) -> list[str]:
    """Return lines on selectors whose code or files changed since their column was scored.

    Args:
        curated: What is made of the recipe.
    """
    if curated.columns:
        return []
    workspace = Workspace(curated.recipe.work_directory, read_only=True)
    return [
        line
        for column in build_columns(curated.recipe)
        for line in changes_of(workspace, column).lines(
            f"select.{column.name}", " since it was scored"
        )
    ]


def describe_score(selector: Any, artefact: Artefact) -> str:
    """Return what the scores of a column mean; empty for a user's own selector.

    Args:
        selector: The column's selector, which need not be fitted.
        artefact: The column.
    """
    if not isinstance(selector, Algorithm):
        return ""
    try:
        facts = _model_of(artefact).facts
    except ArtefactError:  # it may be deleted when the column is made
        facts = {}
    return selector.describe_score(facts)


def _model_of(artefact: Artefact) -> Artefact:
    """Open the model that made a column.

    Raises:
        ArtefactError: It is not there any more.
    """
    model = str(artefact.manifest["inputs"].get("model"))
    return Artefact.open(artefact.path.parent.parent / "model" / model[:_DIGITS])


class _Explained:
    """A column whose selector has its fitted state, or a problem that says why not."""

    def __init__(
        self,
        column: Column,
        artefact: Artefact,
        curated: Curated | PartiallyCurated,
        own_code: bool,
    ) -> None:
        self.column = column
        self._artefact = artefact
        self._curated = curated
        self._built_in = isinstance(column.selector, Algorithm)
        self._may_run = self._built_in or own_code
        self._facts: Mapping[str, Any] = {}
        self._lengths: np.ndarray | None = None
        self._problem = self._load()
        self._examples = None if self._problem else self._search()

    def _load(self) -> str | None:
        """Give the selector its fitted state; return why that cannot be read, or None."""
        try:
            made = _model_of(self._artefact)
            for record in made.files:
                made.verified(record)
            self._facts = made.facts
            self.column.selector.load(made.local() / "state")
        except ArtefactError as error:
            return str(error)
        except Exception as error:
            if self._built_in:
                raise
            return f"its words are left out: load raised {describe_error(error)}"
        return None

    def _search(self) -> ExampleSearch | None:
        nearness = self.column.selector.requirements.nearness if self._built_in else None
        if nearness is None:
            return None
        return ExampleSearch(self.column, nearness, self._facts, self._curated)

    def reasons(self, fate: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Yield the items of a document's ``reasons``."""
        selector: Any = self.column.selector
        used = self._curated.recipe.select[self.column.name].use
        yield "selector", selector.name if self._built_in else str(used)
        if self._built_in and (meaning := selector.describe_score(self._facts)):
            yield "meaning", meaning
        if self._problem is not None:
            yield "problem", self._problem
        asked = selector.requirements.answers
        if asked is not None and self._may_run and self._problem is None:
            yield from self._grade(asked, fate)
        if self._problem is not None:
            return
        if fate["scores"][self.column.name]["score"] is None:
            yield "unscored", self._unscored(selector, fate)
            return
        embeddings = self._artefact.manifest["inputs"].get("embeddings")
        if selector.kind == "mean":
            yield "mean", self._mean(selector, fate)
        elif selector.kind == "set" and embeddings is not None:
            yield from _cluster(selector, self._artefact, str(embeddings), self._curated, fate)
        elif selector.kind == "scorer" and can_be_asked(selector) and self._may_run:
            yield from self._words(fate)
        if self._examples is not None:
            yield from self._examples.find(fate, embeddings and str(embeddings)).items()

    def _unscored(self, selector: Any, fate: Mapping[str, Any]) -> str:
        quality = selector.requirements.quality
        own = fate["scores"].get(quality, {})
        if selector.kind == "mean" or (own and own["score"] is None):
            return f"it has no score in {quality}"
        if self._built_in:
            return str(selector.describe_unscored(fate["text"], self._knows_token(fate)))
        asks = self._may_run and selector.kind == "scorer"
        sees_vectors = selector.requirements.embeddings is not None
        return ask_own_code(selector if asks and not sees_vectors else None, fate)

    def _knows_token(self, fate: Mapping[str, Any]) -> bool | None:
        """Return whether the encoder knew a token of the text; None without the pool's vectors."""
        embeddings = self._artefact.manifest["inputs"].get("embeddings")
        if embeddings is None:
            return None
        try:
            return bool(_vector(self._artefact, str(embeddings), self._curated, fate).any())
        except ArtefactError:  # they may be deleted when the column is made
            return None

    def _mean(self, selector: MeanSelector, fate: Mapping[str, Any]) -> dict[str, Any]:
        """Return the column and the group of a document's mean."""
        column = str(selector.requirements.quality)
        found = {"column": column, "by": selector.by}
        if selector.by == "source":
            return {**found, "source": fate["source"]}
        if self._lengths is None:
            self._lengths = count_lengths(self._curated.pool, self._curated.columns[column])
        return {**found, **asdict(group_of_length(self._lengths, len(fate["text"].encode())))}

    def _grade(self, asked: AnswerScores, fate: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        name = str(self._artefact.manifest["inputs"].get("answers"))
        try:
            answers = Artefact.open(self._artefact.path.parent.parent / "answers" / name[:_DIGITS])
            yield from read_grade(asked, answers, fate)
        except ArtefactError as error:
            yield "problem", f"its answers are left out: {error}"
        except Exception as error:
            if self._built_in:
                raise
            yield "problem", f"its answers are left out: requests raised {describe_error(error)}"

    def _words(self, fate: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        try:
            document = document_of(fate)
            found = influential_words(self.column.selector, document)  # type: ignore[arg-type]
        except Exception as error:
            if self._built_in:
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
        own = _vector(artefact, embeddings, curated, fate)
    except ArtefactError:  # it may be deleted when the column is made
        return
    unit, place = _place_of(curated, fate)
    rows = unit.read_rows(["id", "hash"]).slice(place, 1)
    number = selector.assign(own, hash_documents(rows, mix(curated.recipe.seed, "sets")))
    yield "cluster", int(number[0])
    yield "clusters", int(selector.partitions)


def _place_of(curated: Curated | PartiallyCurated, fate: Mapping[str, Any]) -> tuple[Unit, int]:
    """Return the unit of a document, and its place among the documents there that are kept."""
    unit = next(unit for unit in curated.pool.units if unit.name == fate["unit"])
    return unit, int(np.searchsorted(unit.numbers(), fate["row"]))


def _vector(
    artefact: Artefact,
    embeddings: str,
    curated: Curated | PartiallyCurated,
    fate: Mapping[str, Any],
) -> np.ndarray:
    """Return the vector of a document, (1, d) int16.

    Raises:
        ArtefactError: The vectors are not there any more.
    """
    vectors = Artefact.open(artefact.path.parent.parent / "embeddings" / embeddings[:_DIGITS])
    unit, place = _place_of(curated, fate)
    return read_vectors(vectors.path, vectors.files[unit.number])[place : place + 1]


def describe_reasons(reasons: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on one column of a document's ``reasons``."""
    meaning = reasons.get("meaning")
    yield f"{reasons['selector']}: {meaning}" if meaning else str(reasons["selector"])
    if "problem" in reasons:
        yield str(reasons["problem"])
    if mean := reasons.get("mean"):
        yield f"mean of {mean['column']} over {_describe_group(mean)}"
    if "asked" in reasons:
        yield from describe_grade(reasons)
    if "cluster" in reasons:
        yield f"cluster {reasons['cluster']:,} of {reasons['clusters']:,}"
    ranked, near = reasons.get("ranked_by"), reasons.get("nearest")
    if ranked:
        said = f"similarity {ranked['similarity']:.3f}: {ranked['text']}"
        yield f"its score: rank {ranked['rank']:,} by nearness to {_place(ranked)}, {said}"
    elif "last_rank" in reasons:
        yield f"its score: beyond rank {reasons['last_rank']:,} by nearness to every example"
    if near and ranked and _place(near) == _place(ranked):
        yield "this is the most similar example, too"
    elif near:
        name = "most similar" if ranked or "last_rank" in reasons else "nearest"
        yield f"{name} example: similarity {near['similarity']:.3f}, {_place(near)}: {near['text']}"
    if words := reasons.get("words"):
        named = ", ".join(f"{one['word']} {one['change']:+.3g}" for one in words)
        yield f"what its words add to the score: {named}"


def _place(example: Mapping[str, Any]) -> str:
    return f"{example['file']}:{example['line']}"


def _describe_group(mean: Mapping[str, Any]) -> str:
    if mean["by"] == "source":
        return f"the documents of the source {mean['source']}"
    documents = numbered(mean["documents"], "document")
    return (
        f"{documents} of {mean['least']:,} to {mean['most']:,} bytes, "
        f"twentieth {mean['number']} of {TWENTIETHS} by length"
    )
