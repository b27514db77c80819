"""Find out what happened to a document: taken, left, dropped or quarantined, and why.

For each document of the corpus the values are given that the rules and the condition compared with
their thresholds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.columnar import OwnParquet
from penstock.errors import InputError
from penstock.jobs.choices import choice_of
from penstock.jobs.column_warnings import MOST
from penstock.jobs.curate import Curated, PartiallyCurated
from penstock.jobs.lost_records import iter_emptied, iter_quarantined
from penstock.jobs.origins import Origins
from penstock.jobs.rewritings import later_rows, rewriting_of
from penstock.jobs.wanted import Wanted, readings_of
from penstock.pipeline.cleaning.explaining import Explanations
from penstock.pipeline.cleaning.fates import document_overlaps, failed_rules, repeated_by
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cutting.places import ScoreCounts, count_scores
from penstock.pipeline.pool import Pool, pools_of
from penstock.pipeline.units import Unit, base_of, generations, units_of

__all__ = ["fates_of", "fates_with"]


def fates_of(curated: Curated | PartiallyCurated, name: str) -> list[dict[str, Any]]:
    """Return an entry for each record with an id: its fate, scores, rank and sequences.

    Where no record has the id, it may be one with controls as they are printed (``\\x1b``). It may
    also be the path of a file that is one document, or PATH:LINE: where a record has it as its id,
    too, both are returned. ``rewritten`` has the names of the rewriters that changed a document's
    text, and ``before`` the ``text`` that was read, with its ``bytes``; the rest of its entry is of
    the text that they made. A rewriter sees documents that are kept alone, so that the text before
    passed the rules.

    Where the cut is not made yet, the fate of a document that was not dropped is ``kept``. With the
    fields of :mod:`penstock.pipeline.cleaning.explaining`, ``rules`` has the value and threshold of
    every rule, ``where`` the condition and its values, and ``repeats`` the document that stays in
    place of a duplicate.

    Raises:
        InputError: No record of the corpus has that id or path; of a file that is not read, why,
            and of a line behind the last one, how many lines the file has.
    """
    origins = Origins(generations(curated.corpus)[-1], curated.recipe)
    found: list[dict[str, Any]] = []
    try:
        for wanted in readings_of(name, origins):
            if wanted.column == "input" or not found:
                found += _not_in(found, _found(curated, wanted, origins))
    except InputError:
        if not found:  # else the path of a file with several documents is the id of one
            raise
    if found:
        return found
    if wanted.line is not None:
        before = _line_before(curated, wanted, origins)
        raise origins.no_line(wanted.values, wanted.line, before)
    if error := origins.unread(name):
        raise error
    raise InputError(
        f"{name}: no document of the corpus has this id",
        fix=f"ids are those of the input's {curated.recipe.corpus[0].id!r} column, or a hash "
        "of the text where it has none; a file that is one document is found by its path, a line "
        "or row of another as PATH:17, and any document by `--text` and words that it contains",
    )


def _not_in(found: list[dict[str, Any]], others: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the entries of records that are not among those found."""
    keys = "unit", "row", "file", "line", "fate"
    seen = [[one.get(key) for key in keys] for one in found]
    return [one for one in others if [one.get(key) for key in keys] not in seen]


def _line_before(
    curated: Curated | PartiallyCurated, wanted: Wanted, origins: Origins
) -> int | None:
    """Return the line of the last record of an input that begins before the line wanted."""
    corpus = generations(curated.corpus)[-1]
    whole = replace(wanted, line=None)
    lines = [one["line"] for one in iter_quarantined(corpus, whole, origins)]
    for unit in units_of(corpus):
        rows = whole.rows(unit, origins)
        places = unit.read_rows(["input", "line"]).take(pa.array(rows)).to_pylist()
        lines += [origins.line(unit, one["input"], one["line"]) for one in places]
    assert wanted.line is not None
    return max((line for line in lines if line is not None and line < wanted.line), default=None)


def fates_with(
    curated: Curated | PartiallyCurated, text: str, most: int = 10
) -> list[dict[str, Any]]:
    """Return an entry for each record that contains a text, as :func:`fates_of`.

    Args:
        curated: What is made of the recipe.
        text: As it stands in the records, upper and lower case distinguished.
        most: Entries at most; the first of the corpus are found. Documents that had the text
            before a rewriter changed it come after them, with ``found``: ``before rewriting``.

    Raises:
        InputError: No record contains it.
    """
    origins = Origins(generations(curated.corpus)[-1], curated.recipe)
    wanted = Wanted(values=[text])
    if found := list(itertools.islice(_found(curated, wanted, origins), most)):
        return found
    raise InputError(
        "no document of the corpus contains this text",
        got=repr(text),
        fix="upper and lower case, spaces and line breaks are compared as they are",
    )


def _found(
    curated: Curated | PartiallyCurated, wanted: Wanted, origins: Origins
) -> Iterator[dict[str, Any]]:
    corpora = generations(curated.corpus)
    first, *before = pools_of(curated.pool)
    yield from _in_pool(curated, first, wanted, origins)
    if wanted.column == "text":
        yield from _before_rewriting(curated, first, wanted, origins)
    for corpus in corpora:
        yield from iter_emptied(corpus, wanted, origins)
    for pool in before:
        yield from _in_pool(curated, pool, wanted, origins, dropped_only=True)
    yield from iter_quarantined(corpora[-1], wanted, origins)


def _in_pool(
    curated: Curated | PartiallyCurated,
    pool: Pool,
    wanted: Wanted,
    origins: Origins,
    dropped_only: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the records of a pool's documents, or of those alone that it drops."""
    explanations = Explanations(CleanSettings.of(curated.recipe), pool)
    for unit in pool.units:
        whole = replace(unit, kept=None)
        places = wanted.rows(whole, origins)
        kept = unit.numbers() if len(places) else places
        if dropped_only:
            places = np.setdiff1d(places, kept)
        if len(places):
            yield from _entries(curated, explanations, unit, places, origins)


def _before_rewriting(
    curated: Curated | PartiallyCurated, pool: Pool, wanted: Wanted, origins: Origins
) -> Iterator[dict[str, Any]]:
    """Yield the records of documents that held a text before a rewriter, and do not now."""
    explanations = Explanations(CleanSettings.of(curated.recipe), pool)
    seen: set[tuple[str, int]] = set()
    for corpus in generations(pool.corpus)[1:]:
        for before in units_of(corpus):
            rows = wanted.rows(before, origins)
            for unit, found in later_rows(before, rows, pool.units) if len(rows) else ():
                there = wanted.rows(replace(unit, kept=None), origins)
                new = [row for row in np.setdiff1d(found, there) if (unit.name, row) not in seen]
                seen.update((unit.name, row) for row in new)
                places = np.array(new, np.int64)
                for entry in _entries(curated, explanations, unit, places, origins):
                    yield {**entry, "found": "before rewriting"}


def _entries(
    curated: Curated | PartiallyCurated,
    explanations: Explanations,
    unit: Unit,
    places: np.ndarray,
    origins: Origins,
) -> Iterator[dict[str, Any]]:
    """Yield the records of documents of a pool's unit; ``places`` are rows of the corpus's unit."""
    pool, kept = explanations.pool, unit.numbers()
    corpora = generations(pool.corpus)
    rows = replace(unit, kept=None).read_rows(["id", "source", "input", "line"])
    with OwnParquet(unit.path()) as file:
        texts = file.read(["text", "parent"]).take(pa.array(places)).to_pylist()
    for row, own, text in zip(
        places.tolist(), rows.take(pa.array(places)).to_pylist(), texts, strict=True
    ):
        parent = text["parent"]
        fate = _fate(curated, pool, unit, row, kept, own["source"])
        yield {
            "id": own["id"],
            "source": own["source"],
            **origins.of(unit, own["input"], own["line"]),
            **({} if parent is None else {"parent": parent}),
            **rewriting_of(corpora, unit, own),
            "text": text["text"],
            "unit": unit.name,
            "row": row,
            **_overlaps(pool, unit, row),
            **fate,
            **_values(explanations, unit, row, origins),
            **_not_kept(explanations, unit),
        }


def _values(explanations: Explanations, unit: Unit, row: int, origins: Origins) -> dict[str, Any]:
    """Return the values that the verdicts about a document compared."""
    condition = explanations.condition(unit, row)
    repeated = explanations.repeated(unit, row)
    stays: dict[str, Any] = {}
    if repeated is not None:
        its = next(one for one in explanations.pool.units if one.name == repeated.unit)
        rows = replace(its, kept=None).read_rows(["input", "line"])
        number, line = (column[repeated.row].as_py() for column in rows.columns)
        stays = origins.of(its, number, line)
    return {
        "rules": [asdict(one) for one in explanations.rules(unit, row)],
        **({} if condition is None else {"where": asdict(condition)}),
        **({} if repeated is None else {"repeats": asdict(repeated) | stays}),
    }


def _not_kept(explanations: Explanations, unit: Unit) -> dict[str, Any]:
    """Return which columns with values of the verdicts were deleted, and what makes them again."""
    deleted = explanations.deleted(unit)
    if not deleted:
        return {}
    pool, fix = explanations.pool, "`penstock clean RECIPE` makes them again"
    if base_of(pool.corpus) is not None:
        fix = f"delete {pool.verdicts.path}, and `penstock curate RECIPE` makes them again"
    return {"not_kept": {"columns": deleted, "fix": fix}}


def _fate(
    curated: Curated | PartiallyCurated,
    pool: Pool,
    unit: Unit,
    row: int,
    kept: np.ndarray,
    source: str,
) -> dict[str, Any]:
    place = int(np.searchsorted(kept, row))
    if place == len(kept) or kept[place] != row:
        failed = failed_rules(pool, unit, row)
        of = repeated_by(pool, unit, row)
        repeated = f": repeats {of[0].id_at(of[1])}" if of else ""
        return {
            "fate": "dropped",
            "why": f"rule {failed.reason}{repeated}",
            "reason": failed.reason,
            "fails": failed.rules,
        }
    counts = _counts(curated, unit, place)
    scores = {
        "scores": {
            name: {
                "score": None if own is None else own.score,
                "quantile": None if own is None else own.below / own.documents,
                **_equal(own),
            }
            for name, own in counts.items()
        }
    }
    if isinstance(curated, Curated):
        return scores | choice_of(curated, unit, row, place, source, counts)
    return {**scores, "fate": "kept", "why": "what is taken was not decided yet"}


def _overlaps(pool: Pool, unit: Unit, row: int) -> dict[str, Any]:
    found = document_overlaps(pool, unit, row)
    return {"overlaps": [asdict(one) for one in found]} if found else {}


def _equal(own: ScoreCounts | None) -> dict[str, float]:
    """Return the share of the documents with the same score, where nearly all have it."""
    share = 0 if own is None or own.documents < 2 else own.equal / own.documents
    return {"equal": share} if share > MOST else {}


def _counts(
    curated: Curated | PartiallyCurated, unit: Unit, row: int
) -> dict[str, ScoreCounts | None]:
    """Read the document's score in each column, None for none, and where it is in the pool."""
    return {
        name: count_scores(artefact, unit.number, row) for name, artefact in curated.columns.items()
    }
