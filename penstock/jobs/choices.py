"""The cut's decision on one document that cleaning kept: taken or left, place, sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.columnar import read_parquet
from penstock.jobs.curate import Curated
from penstock.jobs.stage_lines import describe_draw
from penstock.pipeline.cutting.places import Placed, ScoreCounts, place_by_counts, place_of
from penstock.pipeline.cutting.ranks import rank_of
from penstock.pipeline.tokens import count_tokens
from penstock.pipeline.units import Unit

__all__ = ["choice_of"]


def choice_of(
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
    own = None
    if curated.recipe.budget.uniform is None:
        own = _place(curated, unit, place, counts)
    whole = entry["tokens"]
    if _is_last(curated, group, entry["score"]):  # the one document that may be shortened
        whole = int(count_tokens(unit, np.array([row]), curated.tokenizer)[0])
    return {
        "fate": "taken",
        "why": _taken(curated, rank, group, own, (entry["tokens"], whole)),
        "rank": rank,
        "tokens": entry["tokens"],
        **({"whole_tokens": whole} if whole > entry["tokens"] else {}),
        **({} if own is None else {"by_score": asdict(own)}),
        "share": facts["groups"][group]["source"],
        "sequences": [offset + first, offset + last],
        **_shards_with(curated, offset + first, offset + last),
    }


def _is_last(curated: Curated, group: int, score: float) -> bool:
    """Return whether no document of a group was taken by a lower score."""
    for file in curated.cut.files:
        if file.facts["documents"] and file.facts["lowest"] < score:
            table = read_parquet(curated.cut.verified(file), ["group", "score"])
            mine = table.column("group").to_numpy() == group
            if (table.column("score").to_numpy()[mine] < score).any():
                return False
    return True


def _taken(
    curated: Curated, rank: int, group: int, own: Placed | None, tokens: tuple[int, int]
) -> str:
    """Describe a document that was taken; ``tokens`` are those taken of it, and all of it."""
    *shares, _ = curated.cut.facts["groups"]
    drawn = describe_draw(curated.cut, curated.recipe.budget)
    why = f"rank {rank:,} of {curated.cut.facts['documents']:,} taken{drawn and f', {drawn}'}"
    if shares:
        quota = curated.cut.facts["groups"][group]
        why += f"; for the {quota['tokens']:,} tokens of {_group_words(quota['source'])}"
    if own is not None:
        why += f"; {_where(curated, own)}"
    if tokens[1] > tokens[0]:
        why += f"; the budget ended within it: {tokens[0]:,} of its {tokens[1]:,} tokens are taken"
    return why


def _group_words(source: str | None) -> str:
    return source or "sources without a share"


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
    why, own = _below(curated.cut.facts, source), _place(curated, unit, place, counts)
    found = {
        "why": why,
        "by_score": asdict(own),
        "share": curated.cut.facts["groups"][own.group]["source"],
    }
    return found if own.lowest is None else {**found, "why": f"{why}; {_where(curated, own)}"}


def _place(
    curated: Curated, unit: Unit, place: int, counts: Mapping[str, ScoreCounts | None]
) -> Placed:
    """Return the place of a document by score, from the counts of its column where they suffice."""
    budget = curated.recipe.budget
    column = counts.get(str(budget.rank))
    if column is not None and budget.draw == "top" and len(curated.cut.facts["groups"]) == 1:
        return place_by_counts(curated.cut, column)
    return _placed(curated, unit, place)


def _where(curated: Curated, own: Placed) -> str:
    """Describe the place of a document by score, and the line, or the tie that it was in."""
    budget = curated.recipe.budget
    by = "by score"
    if len(budget.ranks) > 1:
        by = f"by the mixture of {', '.join(budget.ranks)}"
    elif "random" in budget.ranks:
        by = "by the draw of `random`"
    if budget.temperature is not None:
        by += " with the noise of the draw"
    where = f"{by} it is {own.place:,} of {own.documents:,}"
    if 0 < own.equal_taken < own.equal:
        tie = f"{own.equal_taken:,} of the {own.equal:,} documents of its score {own.score:.6g}"
        return f"{where}, and {tie} were taken, in the order of a hash of seed, id and text"
    return f"{where} ({own.score:.6g}; the lowest that was taken is {own.lowest:.6g})"


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
    of_group = f" of {_group_words(group['source'])}" if shares else ""
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
    group_of = f" for {_group_words(group['source'])}" if shares else ""
    return (
        f"below the cut: the {group['tokens']:,} tokens{group_of} were filled by documents that "
        "rank higher"
    )


def _shards_with(curated: Curated, first: int, last: int) -> dict[str, Any]:
    """Return the shard files with the sequences ``first`` to ``last``, and their rows in each.

    ``rows`` has the first and the last row of each of ``shards``, from 0.
    """
    names, rows = [], []
    start = 0
    for record in curated.shards.named("shard-"):
        end = start + record.facts["sequences"]
        if start <= last and end > first:
            names.append(record.path)
            rows.append([max(first, start) - start, min(last, end - 1) - start])
        start = end
    return {"shards": names, "shard_rows": rows}
