"""Find out what happened to a document: taken, left, dropped or quarantined, and why.

For each document of the corpus the values are given that the rules and the condition compared with
their thresholds.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.artefact import Artefact
from penstock.columnar import OwnParquet, read_parquet
from penstock.errors import InputError
from penstock.jobs.column_warnings import MOST
from penstock.jobs.curate import Curated, PartiallyCurated, describe_draw
from penstock.jobs.origins import Origins
from penstock.jobs.unit_fates import rewriters_of
from penstock.jobs.wanted import Wanted, readings_of
from penstock.pipeline.cleaning.explaining import Explanations
from penstock.pipeline.cleaning.fates import document_overlaps, failed_rules, repeated_by
from penstock.pipeline.cleaning.settings import CleanSettings
from penstock.pipeline.cutting.places import (
    Placed,
    ScoreCounts,
    count_scores,
    place_by_counts,
    place_of,
)
from penstock.pipeline.cutting.ranks import rank_of
from penstock.pipeline.pool import Pool, pools_of
from penstock.pipeline.units import Unit, base_of, generations, units_of

__all__ = ["fates_of", "fates_with"]


def fates_of(curated: Curated | PartiallyCurated, name: str) -> list[dict[str, Any]]:
    """Return an entry for each record with an id: its fate, scores, rank and sequences.

    Where no record has the id, the name may be one with controls as they are printed (``\\x1b``),
    the path of a file that is one document, or PATH:LINE. ``rewritten`` has the names of the
    rewriters that changed a document's text; the rest of its entry is of the text that they made.

    Where the cut is not made yet, the fate of a document that was not dropped is ``kept``. With the
    fields of :mod:`penstock.pipeline.cleaning.explaining`, ``rules`` has the value and threshold of
    every rule, ``where`` the condition and its values, and ``repeats`` the document that stays in
    place of a duplicate.

    Raises:
        InputError: No record of the corpus has that id or path; of a file that is not read, why,
            and of a line behind the last one, how many lines the file has.
    """
    origins = Origins(generations(curated.corpus)[-1], curated.recipe)
    for wanted in readings_of(name, origins):
        if found := list(_found(curated, wanted, origins)):
            return found
    if wanted.line is not None:
        raise origins.no_line(wanted.values, wanted.line)
    if error := origins.unread(name):
        raise error
    raise InputError(
        f"{name}: no document of the corpus has this id",
        fix=f"ids are those of the input's {curated.recipe.corpus[0].id!r} column, or a hash "
        "of the text where it has none; a file that is one document is found by its path, a line "
        "or row of another as PATH:17, and any document by `--text` and words that it contains",
    )


def fates_with(
    curated: Curated | PartiallyCurated, text: str, most: int = 10
) -> list[dict[str, Any]]:
    """Return an entry for each record that contains a text, as :func:`fates_of`.

    Args:
        curated: What is made of the recipe.
        text: As it stands in the records, upper and lower case distinguished.
        most: Entries at most; the first of the corpus are found.

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
    for corpus in corpora:
        yield from _emptied(corpus, wanted, origins)
    for pool in before:
        yield from _in_pool(curated, pool, wanted, origins, dropped_only=True)
    yield from _quarantined(corpora[-1], wanted, origins)


def _in_pool(
    curated: Curated | PartiallyCurated,
    pool: Pool,
    wanted: Wanted,
    origins: Origins,
    dropped_only: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield the records of a pool's documents, or of those alone that it drops."""
    explanations = Explanations(CleanSettings.of(curated.recipe), pool)
    corpora = generations(pool.corpus)
    for unit in pool.units:
        whole = replace(unit, kept=None)
        places = wanted.rows(whole, origins)
        kept = unit.numbers() if len(places) else places
        if dropped_only:
            places = np.setdiff1d(places, kept)
        if not len(places):
            continue
        rows = whole.read_rows(["id", "source", "input", "line"])
        with OwnParquet(unit.path()) as file:
            texts = file.read(["text", "parent"]).take(pa.array(places)).to_pylist()
        for row, own, text in zip(
            places.tolist(), rows.take(pa.array(places)).to_pylist(), texts, strict=True
        ):
            parent = text["parent"]
            yield {
                "id": own["id"],
                "source": own["source"],
                **origins.of(unit, own["input"], own["line"]),
                **({} if parent is None else {"parent": parent}),
                **({"rewritten": changed} if (changed := rewriters_of(corpora, unit, own)) else {}),
                "text": text["text"],
                "unit": unit.name,
                "row": row,
                **_overlaps(pool, unit, row),
                **_fate(curated, pool, unit, row, kept, own["source"]),
                **_values(explanations, unit, row),
            }


def _values(explanations: Explanations, unit: Unit, row: int) -> dict[str, Any]:
    """Return the values that the verdicts about a document compared."""
    condition = explanations.condition(unit, row)
    repeated = explanations.repeated(unit, row)
    return {
        "rules": [asdict(one) for one in explanations.rules(unit, row)],
        **({} if condition is None else {"where": asdict(condition)}),
        **({} if repeated is None else {"repeats": asdict(repeated)}),
    }


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
        return {"fate": "dropped", "why": f"rule {failed.reason}{repeated}", "fails": failed.rules}
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
        return scores | _choice(curated, unit, row, place, source, counts)
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


def _choice(
    curated: Curated,
    unit: Unit,
    row: int,
    place: int,
    source: str,
    counts: Mapping[str, ScoreCounts | None],
) -> dict[str, Any]:
    """Return whether the cut takes the document, its rank, and its sequences and shards.

    ``row`` is its row in the corpus's unit, ``place`` that among the documents that are kept of it.
    """
    cut = curated.cut
    table = read_parquet(cut.verified(cut.files[unit.number]))
    mine = np.flatnonzero(table.column("row").to_numpy() == row)
    facts = cut.facts
    if not len(mine):
        excluded = [name for name, own in counts.items() if own is None]
        if excluded:
            return {"fate": "left", "why": f"excluded: no score in {', '.join(excluded)}"}
        if curated.recipe.budget.uniform is not None:
            return {"fate": "left", **_not_drawn(curated, unit, place, source)}
        return {"fate": "left", **_left_by_score(curated, unit, place, source, counts)}
    entry = table.slice(int(mine[0]), 1).to_pylist()[0]
    group = entry["group"]
    before = sum(
        record.facts["tokens"][group]
        for record in cut.files[: unit.number]
        if group < len(record.facts["tokens"])
    )
    same = table.filter(pa.array(table.column("group").to_numpy() == group))
    position = int(np.searchsorted(same.column("row").to_numpy(), row))
    start = before + int(same.column("tokens").to_numpy()[:position].sum())
    length = curated.recipe.shards.sequence_length
    offset = sum(item["tokens"] for item in facts["groups"][:group]) // length
    first, last = start // length, (start + entry["tokens"] - 1) // length
    rank = rank_of(cut, unit.number, row)
    drawn = describe_draw(cut, curated.recipe.budget)
    return {
        "fate": "taken",
        "why": f"rank {rank:,} of {facts['documents']:,} taken{drawn and f', {drawn}'}",
        "rank": rank,
        "tokens": entry["tokens"],
        "sequences": [offset + first, offset + last],
        "shards": _shards_with(curated, offset + first, offset + last),
    }


def _placed(curated: Curated, unit: Unit, place: int) -> Placed:
    """Return the place by score of a document that has one."""
    budget, cut, units = curated.recipe.budget, curated.cut, curated.pool.units
    *shares, _ = cut.facts["groups"]

    def taken(number: int) -> np.ndarray:
        rows = read_parquet(cut.verified(cut.files[number]), ["row"]).column("row").to_numpy()
        return np.searchsorted(units[number].numbers(), rows)

    own = place_of(
        curated.pool,
        {name: column for name, column in curated.columns.items() if name in budget.ranks},
        budget,
        curated.recipe.draw_seed,
        [group["source"] for group in shares],
        unit.number,
        place,
        taken,
    )
    assert own is not None
    return own


def _left_by_score(
    curated: Curated,
    unit: Unit,
    place: int,
    source: str,
    counts: Mapping[str, ScoreCounts | None],
) -> dict[str, Any]:
    """Return why a document was left that has a score, and how near to the cut it came."""
    budget, why = curated.recipe.budget, _below(curated.cut.facts, source)
    column = counts.get(str(budget.rank))
    if column is not None and budget.draw == "top" and len(curated.cut.facts["groups"]) == 1:
        own = place_by_counts(curated.cut, column)
    else:
        own = _placed(curated, unit, place)
    found = {"why": why, "by_score": asdict(own)}
    if own.lowest is None:
        return found
    by = "by score"
    if len(budget.ranks) > 1:
        by = f"by the mixture of {', '.join(budget.ranks)}"
    elif "random" in budget.ranks:
        by = "by the draw of `random`"
    if budget.temperature is not None:
        by += " with the noise of the draw"
    where = f"{by} it is {own.place:,} of {own.documents:,}"
    if own.equal_taken:
        tie = f"{own.equal_taken:,} of the {own.equal:,} documents of its score {own.score:.6g}"
        where += f", and {tie} were taken, in the order of a hash of their ids"
    else:
        where += f" ({own.score:.6g}; the lowest that was taken is {own.lowest:.6g})"
    return {**found, "why": f"{why}; {where}"}


def _not_drawn(curated: Curated, unit: Unit, place: int, source: str) -> dict[str, Any]:
    """Return why the draw ``uniform`` left a document that has a score, and its place by score."""
    budget, facts = curated.recipe.budget, curated.cut.facts
    *shares, _ = facts["groups"]
    own = _placed(curated, unit, place)
    assert budget.uniform is not None
    best, group = facts["drawn_from"][own.group], facts["groups"][own.group]
    among = bool(best["documents"]) and own.score >= best["lowest"]
    counts = [read_parquet(curated.cut.verified(file), ["group"]) for file in curated.cut.files]
    taken = sum(int((one.column("group").to_numpy() == own.group).sum()) for one in counts)
    draw = {
        "place": own.place,
        "documents": own.documents,
        "among_the_best": among,
        "drawn": taken,
        "drawn_from": best["documents"],
    }
    of_group = "" if not shares else f" of {group['source'] or 'sources without a share'}"
    where = f"by score {own.place:,} of {own.documents:,}{of_group}"
    drawn = f"{taken:,} of the {best['documents']:,} documents of {budget.uniform.words}"
    if not group["tokens"]:
        why = _below(facts, source)
    elif among:
        why = f"not drawn: {where}; {drawn} were drawn at random, and it is one of the others"
    else:
        why = f"below the documents that are drawn: {where}; {drawn} were drawn at random"
    return {"why": why, "draw": draw}


def _below(facts: dict[str, Any], source: str) -> str:
    """Describe why a document with a rank was left: the tokens of its group, which were filled.

    The groups of a cut are the sources with a share, then all others.
    """
    *shares, rest = facts["groups"]
    group = next((own for own in shares if own["source"] == source), rest)
    if not group["tokens"]:
        return f"below the cut: budget.shares leaves no tokens for {source}"
    group_of = "" if not shares else f" for {group['source'] or 'sources without a share'}"
    return (
        f"below the cut: the {group['tokens']:,} tokens{group_of} were filled by documents that "
        "rank higher"
    )


def _shards_with(curated: Curated, first: int, last: int) -> list[str]:
    """Return the shard files with the sequences ``first`` to ``last``."""
    names = []
    start = 0
    for record in curated.shards.named("shard-"):
        end = start + record.facts["sequences"]
        if start <= last and end > first:
            names.append(record.path)
        start = end
    return names


def _emptied(corpus: Artefact, wanted: Wanted, origins: Origins) -> Iterator[dict[str, Any]]:
    """Yield the documents of which a rewriter left nothing, as they were before."""
    base = base_of(corpus)
    units = {} if base is None else {unit.name: unit for unit in units_of(base)}
    for record in corpus.named("dropped-"):
        table = read_parquet(corpus.verified(record))
        unit = units[f"unit-{record.path[8:].partition('.')[0]}"]
        gone = table.column("row").to_numpy()
        places = wanted.rows(unit, origins)
        for found in table.filter(pa.array(np.isin(gone, places))).to_pylist():
            row = found["row"]
            own = unit.read_rows(["source", "input", "line"]).slice(row, 1).to_pylist()[0]
            with OwnParquet(unit.path()) as file:
                text = file.read(["text"]).column("text")[row].as_py()
            yield {
                "id": found["id"],
                "source": own["source"],
                **origins.of(unit, own["input"], own["line"]),
                "text": text,
                "unit": unit.name,
                "row": row,
                "fate": "dropped",
                "why": _emptied_by(found["rule"]),
                "fails": (found["rule"],),
            }


def _emptied_by(rule: str) -> str:
    """Describe the rule ``NAME: blank`` or ``NAME: REASON`` by which a rewriter drops."""
    name, _, reason = rule.partition(": ")
    return f"emptied by the rewriter {name}" if reason == "blank" else f"rule {rule}"


def _quarantined(corpus: Artefact, wanted: Wanted, origins: Origins) -> Iterator[dict[str, Any]]:
    for record in corpus.named("quarantine-"):
        with open(corpus.verified(record), encoding="utf-8") as lines:
            for line in lines:
                bad = json.loads(line)
                if wanted.is_quarantined(bad, record, origins):
                    yield {
                        "id": bad.get("id") or bad["file"],
                        "source": bad["file"],
                        "file": origins.file(bad["input"]),
                        "fate": "quarantined",
                        "why": f"{bad['place']}: {bad['error']}",
                    }
