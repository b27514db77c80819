"""The columns stage: a float32 score for every document, from each selector of a recipe.

A selector is fitted once (the *model*, an artefact of its own) and then scores every document of
every unit, row-aligned with the unit. All scorers that have no column yet share one pass, which
reads the text of each unit once; set selectors read vectors, an artefact that all of them share,
and means of a column read that column and rows. A cut reads columns alone, so cutting again at
another budget reads no text.
"""

from __future__ import annotations

import copy
import graphlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pickle import PicklingError
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.activity import count_documents
from penstock.artefact import Artefact, Draft, FileRecord, fingerprint
from penstock.calls import begin_call
from penstock.display import numbered
from penstock.errors import SelectorError, UnmadeError, WorkerError
from penstock.pipeline.checking import (
    call_plugin,
    check_identity,
    check_sum,
    score_documents,
    scores_of,
)
from penstock.pipeline.grouped import read_scores, write_scores
from penstock.pipeline.plug_in_checks import check_sendable
from penstock.pipeline.pool import Pool
from penstock.pipeline.scoring.answered import answers_for, score_answers
from penstock.pipeline.scoring.changes import changes_of
from penstock.pipeline.scoring.means import score_means
from penstock.pipeline.scoring.models import Column, Models, make_embeddings, read_vectors
from penstock.pipeline.scoring.parts import Joined, UnitPart, fill_parts
from penstock.pipeline.scoring.rescoring import forget_scores
from penstock.pipeline.scoring.sets import score_sets
from penstock.pipeline.scoring.thinning import thinning_facts
from penstock.pipeline.units import Unit, iter_documents
from penstock.plugin_code import code_notes, describe_code
from penstock.resources import Resources
from penstock.selectors.adapter import is_users
from penstock.selectors.base import MeanSelector, Scorer, SetSelector
from penstock.selectors.classifiers.fasttext_panel import BatchScorer
from penstock.storage import AnyPath

__all__ = ["Column", "forget_columns", "in_dependence", "make_columns"]

VERSION = 3

_COUNTED = ("documents", "excluded")


def forget_columns(
    names: Sequence[str],
    columns: Sequence[Column],
    models: Models,
    deleting: Callable[[Artefact], object] = lambda artefact: None,
) -> None:
    """Delete columns, and all that was made of them; raises as :func:`forget_scores`.

    Args:
        names: Selectors of the recipe; with none nothing is done.
        columns: All columns of the recipe.
        models: Models of the pool whose documents are scored.
        deleting: Called with each finished artefact before it is deleted.
    """

    def unfinished(column: Column) -> str | None:
        if column.selector.kind != "scorer" or column.selector.requirements.answers is not None:
            return None  # it has other inputs, too
        inputs = {"pool": models.pool.fingerprint, "model": models.name_of(column)}
        return fingerprint("columns", VERSION, {"selector": column.name}, inputs)

    if names:
        forget_scores(names, columns, models, unfinished, deleting)


def make_columns(columns: Sequence[Column], models: Models) -> dict[str, Artefact]:
    """Find or make the column of each selector.

    Args:
        columns: Columns in any order.
        models: Models of the pool whose documents are scored.

    Raises:
        SelectorError: A selector cannot be fitted on this sample and target.
        ScoringError: A selector raised, or returned something other than one float a document.
    """
    ordered = in_dependence(columns)
    units = models.pool.units
    begun = {
        column.name: _begin(column, models, {})
        for column in ordered
        if column.selector.kind == "scorer" and column.selector.requirements.answers is None
    }
    drafts = {name: draft for name, draft in begun.items() if isinstance(draft, Draft)}
    scorers = [column for column in ordered if column.name in drafts]
    shared = [column for column in scorers if not _is_slow(column)]
    if shared:
        _score({column.name: drafts[column.name] for column in shared}, shared, units, models)
    for column in scorers:
        if column not in shared:
            _score_slowly(drafts[column.name], column, units, models)
    names = [unit.name for unit in units]
    finished = {
        column.name: _publish(found, names, models.pool, _code_fact(column))
        if isinstance(found := begun[column.name], Draft)
        else found
        for column in ordered
        if column.name in begun
    }
    for column in ordered:
        if column.selector.kind == "set":
            finished[column.name] = _set_column(column, column.selector, models, units, finished)
        elif column.selector.kind == "mean":
            finished[column.name] = _mean_column(column, column.selector, models, finished)
        elif column.name not in finished:
            finished[column.name] = _answered_column(column, models)
    for name, artefact in finished.items():
        if excluded := artefact.facts["excluded"]:
            noun = numbered(excluded, "document has", "documents have")
            models.progress(f"{name}: {noun} no score and cannot be taken")
        if infinite := artefact.facts.get("infinite"):
            noun = numbered(infinite, "document has", "documents have")
            models.progress(f"{name}: {noun} an infinite score (as float32), which counts as none")
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
                key=f"select.{column.name}.{column.selector.requirements.quality_key}",
                expected="the name of another selector of the recipe",
                got=f"{column.quality!r}",
            )
    upon = {column.name: [column.quality] if column.quality else [] for column in columns}
    try:
        return [known[name] for name in graphlib.TopologicalSorter(upon).static_order()]
    except graphlib.CycleError as error:
        circle = error.args[1][::-1]
        raise SelectorError(
            key=f"select.{circle[0]}.{known[circle[0]].selector.requirements.quality_key}",
            expected="a column that does not depend on this one",
            got=" -> ".join(circle),
        ) from None


def _set_column(
    column: Column,
    selector: SetSelector,
    models: Models,
    units: Sequence[Unit],
    finished: Mapping[str, Artefact],
) -> Artefact:
    embeddings = make_embeddings(selector.requirements.encoder, models)
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
    parts = score_sets(
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
    facts = {**thinning_facts(draft), **_code_fact(column)}
    return _publish(draft, parts, models.pool, facts)


def _mean_column(
    column: Column, selector: MeanSelector, models: Models, finished: Mapping[str, Artefact]
) -> Artefact:
    assert column.quality is not None
    averaged = finished[column.quality]
    draft = _begin(column, models, {"column": averaged.fingerprint})
    if isinstance(draft, Artefact):
        return draft
    parts = score_means(selector.by, draft, models.pool, averaged, models.runner)
    return _publish(draft, parts, models.pool)


def _answered_column(column: Column, models: Models) -> Artefact:
    asked = column.selector.requirements.answers
    assert asked is not None
    answers = answers_for(column, asked, models)
    draft = _begin(column, models, {"answers": answers.fingerprint})
    if isinstance(draft, Artefact):
        return draft
    parts = score_answers(column, asked, draft, answers, models)
    return _publish(draft, parts, models.pool, _code_fact(column))


def _begin(column: Column, models: Models, inputs: Mapping[str, Any]) -> Artefact | Draft:
    """Find a finished column, or open a draft of it and load its selector's model.

    Raises:
        UnmadeError: It is not made yet, and the workspace is read-only.
    """
    try:
        return _found_or_draft(column, models, inputs)
    except UnmadeError as error:  # also where a function has no model to speak of
        key = f"select.{column.name}"
        changed = "; ".join(changes_of(models.workspace, column).lines(key, " since it was scored"))
        error.problem = f"the column {column.name} of this recipe: not made yet"
        error.problem += f" ({changed})" if changed else ""
        raise


def _found_or_draft(column: Column, models: Models, inputs: Mapping[str, Any]) -> Artefact | Draft:
    """Do the work of :func:`_begin`."""
    model = models.fitted(column)
    inputs = {"pool": models.pool.fingerprint, "model": model.fingerprint, **inputs}
    config = {"selector": column.name}
    found = models.workspace.find("columns", fingerprint("columns", VERSION, config, inputs))
    key, before = f"select.{column.name}", model.manifest["config"]["identity"]
    for line in code_notes(key, before, kept=found is not None):
        models.progress(line)
    if found is None:
        for line in changes_of(models.workspace, column).lines(key, ", so it is scored again"):
            models.progress(line)
    if found:
        return found
    unfitted = copy.deepcopy(column.selector)
    models.load(column, model)
    draft = models.workspace.draft("columns", VERSION, config, inputs)
    # Workers read the files of its parameters when they score.
    draft.checks.append(lambda: check_identity(before, unfitted.identity(), key))
    return draft


def _code_fact(column: Column) -> dict[str, str]:
    """Return the code of a user's selector in words, for reports; nothing for a built-in one."""
    code = column.selector.identity().get("code")
    return {"code": describe_code(code)} if code and code["modules"] else {}


def _publish(
    draft: Draft, parts: Sequence[str], pool: Pool, facts: Mapping[str, Any] | None = None
) -> Artefact:
    records = draft.files(parts)
    counts = {key: sum(record.facts[key] for record in records) for key in _COUNTED}
    check_sum(
        f"{draft.path}",
        ("documents of the pool", pool.kept),
        {"scored": counts["documents"] - counts["excluded"], "excluded": counts["excluded"]},
    )
    if infinite := sum(record.facts.get("infinite", 0) for record in records):
        counts["infinite"] = infinite
    return draft.publish(parts, {**counts, **(facts or {})})


def _score(
    drafts: Mapping[str, Draft], scorers: Sequence[Column], units: Sequence[Unit], models: Models
) -> None:
    """Score every unit by scorers that are loaded; the scores are recorded in their drafts."""
    vectors = {
        column.name: make_embeddings(asked.encoder, models)
        for column in scorers
        if (asked := column.selector.requirements.embeddings) is not None
    }
    items: list[_Scoring] = []
    for unit in units:
        names = [name for name, draft in drafts.items() if draft.done(unit.name) is None]
        files = {name: vectors[name].files[unit.number] for name in names if name in vectors}
        if names:
            embedded = {name: (vectors[name].path, record) for name, record in files.items()}
            items.append((unit, names, embedded))
    total = sum(unit.documents for unit in units)
    if already := total - sum(unit.documents for unit, _, _ in items):
        models.progress(f"scored {already:,} of {total:,} documents already")
    state = [(column.name, column.selector, drafts[column.name].path) for column in scorers]
    needs = _needs_of(scorers)
    with _at_work(scorers):
        for index, records in models.runner.run(
            _score_unit, items, state, keep_state=True, needs=needs
        ):
            unit = items[index][0]
            for name, record in records.items():
                drafts[name].record(unit.name, [record])
            models.progress(f"scored {numbered(unit.documents, 'document')} of {unit.name}")


@contextmanager
def _at_work(columns: Sequence[Column]) -> Iterator[None]:
    """Name the columns that were scored in the error of a worker that ended.

    A loaded model that cannot be sent to a worker is another error; the sending raises it.
    """
    try:
        yield
    except (TypeError, PicklingError):
        for column in columns:
            check_sendable(f"select.{column.name}", column.selector)
        raise
    except WorkerError as error:
        error.key = error.key or ", ".join(f"select.{column.name}" for column in columns)
        raise


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


def _is_slow(column: Column) -> bool:
    """Return whether a scorer reads texts itself, and takes long for each."""
    asked = column.selector.requirements
    return asked.resources.slow and asked.embeddings is None and asked.classifier is None


def _score_slowly(draft: Draft, column: Column, units: Sequence[Unit], models: Models) -> None:
    """Score every unit by a slow scorer, in parts."""
    with _at_work([column]):
        fill_parts(
            draft,
            models.runner,
            _score_part,
            _join_scores,
            units,
            (column.name, column.selector, draft.path),
            lambda line: models.progress(f"{column.name}: scored {line}"),
            _needs_of([column]),
        )


def _score_part(part: UnitPart, state: tuple[str, Scorer, AnyPath]) -> FileRecord:
    name, scorer, directory = state
    documents = part.read(("id", "text", "source", "hash"))
    scores = score_documents(f"select.{name}", part.label, documents, scorer.score)
    count_documents(len(documents), documents.nbytes)
    return write_scores(directory, f"scratch/parts/{part.name}", scores)


def _join_scores(item: Joined, directory: AnyPath) -> FileRecord:
    scores = [read_scores(directory, record) for record in item.files]
    infinite = sum(record.facts.get("infinite", 0) for record in item.files)
    joined = np.concatenate([np.empty(0, np.float32), *scores])
    return write_scores(directory, item.unit.name, joined, infinite)


def _score_batch(
    scorer: Scorer, together: BatchScorer, batch: pa.RecordBatch, documents: pa.RecordBatch
) -> np.ndarray:
    """Score a whole batch together with other scorers, or a slice of it alone."""
    return together.score(scorer) if documents is batch else scorer.score(documents)


def _calls(documents: pa.RecordBatch, scorer: Scorer) -> Iterator[pa.RecordBatch]:
    """Yield the documents of each call of a scorer: the whole batch, or of users' code parts.

    Their size is fixed, and does not follow the time that they take: a faulty scorer, whose scores
    depend on the batch, gives the same ones in each run.
    """
    if not is_users(scorer):
        yield documents
        return
    for start in range(0, len(documents), _CALL):
        yield documents.slice(start, _CALL)


_CALL = 128
"""Documents of a call of a user's scorer: at 10 ms each, progress is counted every 1.3 s."""


def _counted(done: int, part: pa.RecordBatch, scorers: int) -> int:
    """Count documents that one of several scorers has done; return the sum over scorers."""
    after = done + len(part)
    count_documents(after // scorers - done // scorers, part.nbytes // scorers)
    return after


_Scoring = tuple[Unit, Sequence[str], Mapping[str, tuple[AnyPath, FileRecord]]]
"""A unit, the columns that lack its scores, and for each of them whose scorer reads vectors the
artefact of the vectors and the unit's file."""


def _score_unit(
    item: _Scoring, state: Sequence[tuple[str, Scorer, AnyPath]]
) -> Mapping[str, FileRecord]:
    unit, names, embedded = item
    vectors = {name: read_vectors(*where) for name, where in embedded.items()}
    start = 0
    wanted = [column for column in state if column[0] in names]
    parts = {name: [np.empty(0, np.float32)] for name in names}
    done = 0
    for documents in iter_documents(unit, counted=False):
        together = BatchScorer([scorer for _, scorer, _ in wanted], documents)
        rows = slice(start, start := start + len(documents))
        for name, scorer, _ in wanted:
            embeddings = scorer.requirements.embeddings
            key, ids = f"select.{name}", documents.column("id")
            if name in vectors and embeddings is not None:
                at = f"documents {ids[0]} to {ids[-1]} of {unit.name}"
                begin_call(key, at)
                returned = call_plugin(key, at, embeddings.score, documents, vectors[name][rows])
                parts[name].append(scores_of(returned, len(documents), key, at, ids))
                done = _counted(done, documents, len(wanted))
                continue
            work = partial(_score_batch, scorer, together, documents)
            for part in _calls(documents, scorer):
                parts[name].append(score_documents(key, unit.name, part, work))
                done = _counted(done, part, len(wanted))
    return {
        name: write_scores(directory, unit.name, np.concatenate(parts[name]))
        for name, _, directory in wanted
    }
