"""Print the difference of two curated datasets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from penstock.display import numbered
from penstock.jobs.causes import CAUSES
from penstock.jobs.compared_values import describe_limit

if TYPE_CHECKING:  # it is made by the command
    from penstock.jobs.console import Console
    from penstock.jobs.diff import SidesDifference

__all__ = ["print_difference"]

_LONGEST = 60
"""Characters of a key's value."""


def print_difference(found: SidesDifference, console: Console) -> None:
    """Print the keys that differ, the counts by reason and by source, and documents."""
    for name, side in (("A", found.a), ("B", found.b)):
        facts = side.cut.facts
        taken = numbered(facts["documents"], "document")
        console.write(f"{name}: {side.name}: {taken}, {facts['delivered']:,} tokens")
    for one in found.keys:
        old, new = _value(one.a, one.only == "b"), _value(one.b, one.only == "a")
        console.write(f"  {one.key}: {old} -> {new}")
    if not found.keys:
        console.write("  no key differs")
    console.write(f"both take {numbered(found.both['documents'], 'document')}")
    _tables(found, console)
    for sign, other, moved in (("+", "A", found.came_in), ("-", "B", found.went_out)):
        for document in moved.listed:
            why = f"in {other}: {CAUSES[document.reason]}"
            console.write(f"{sign} {document.id} ({document.source}): {why}")
            console.write(f"    A: {', '.join(_fate(document.a))}")
            console.write(f"    B: {', '.join(_fate(document.b))}")
        if moved.listed and len(moved.listed) < moved.documents:
            console.write(f"{sign} {moved.documents - len(moved.listed):,} more")


def _tables(found: SidesDifference, console: Console) -> None:
    came_in, went_out = found.came_in, found.went_out
    if not came_in.documents and not went_out.documents:
        console.write("no document came in and none went out")
        return
    heads = ("documents in", "tokens in", "documents out", "tokens out")
    reasons = came_in.by_reason, went_out.by_reason
    rows: list[tuple[str, ...]] = [
        (CAUSES[name], *(cell for one in reasons for cell in _counts(one.get(name))))
        for name in {**reasons[0], **reasons[1]}
    ]
    total = ({"documents": own.documents, "tokens": own.tokens} for own in (came_in, went_out))
    rows.append(("all", *(cell for one in total for cell in _counts(one))))
    console.table(("why", *heads), rows)
    sources = came_in.by_source, went_out.by_source
    rows = [
        (name, *(cell for one in sources for cell in _counts(one.get(name))))
        for name in sorted({**sources[0], **sources[1]})
    ]
    console.table(("source", *heads), rows)


def _counts(counts: Mapping[str, int] | None) -> tuple[str, str]:
    own = counts or {"documents": 0, "tokens": 0}
    return f"{own['documents']:,}", f"{own['tokens']:,}"


def _value(value: Any, absent: bool) -> str:
    if absent:
        return "not given"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _fate(fate: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of a line on what happened to a document on one side."""
    yield str(fate["fate"])
    if "rule" in fate:
        yield describe_limit(fate) if "value" in fate else f"rule {fate['rule']}"
    if "repeats" in fate:
        yield f"repeats {fate['repeats']}"
    if "tokens" in fate:
        yield f"{fate['tokens']:,} tokens"
    for name, score in fate.get("scores", {}).items():
        yield f"no score in {name}" if score is None else f"{name} {score:.6g}"
    if "lowest" in fate:
        tie = ", a tie: a hash of seed, id and text decides" if fate.get("tie") else ""
        yield f"lowest that is taken {fate['lowest']:.6g}{tie}"
