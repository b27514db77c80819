"""What rewriters made of a document: their names, and the text that was read.

A corpus that a rewriter made has a unit for each of the one before, and a document keeps its input
and its line.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from penstock.artefact import Artefact
from penstock.jobs.unit_fates import read_texts
from penstock.pipeline.units import Unit, units_of

__all__ = ["describe_rewriting", "later_rows", "rewriting_of"]

_ROOM = 40
"""Characters of both texts that are shown before and after the first difference."""


def rewriting_of(
    corpora: Sequence[Artefact], unit: Unit, document: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``rewritten`` and ``before`` of a document that rewriters changed; else nothing.

    Args:
        corpora: The corpus and those that it was made from; the one read from files is last.
        unit: Unit of the document.
        document: Its ``input`` and ``line``, which tell it from others of the unit.

    Returns:
        ``rewritten``, the names of the rewriters in their order; ``before``, the ``text`` that was
        read and its ``bytes`` of UTF-8.
    """
    if len(corpora) == 1 or document["line"] is None:
        return {}
    names: list[str] = []
    first: list[str] = []
    texts_before: list[str] = []
    for corpus, base in zip(reversed(corpora), [None, *reversed(corpora)]):
        own = next((one for one in units_of(corpus) if _is_before(one, unit)), None)
        if own is None:
            return {}
        rows = own.read_rows(["input", "line"])
        same = pc.and_(
            pc.equal(rows.column("input"), document["input"]),
            pc.equal(rows.column("line"), document["line"]),
        )
        texts = read_texts(own, np.flatnonzero(same.to_numpy()))
        if base is None:
            first = texts
        elif texts != texts_before:
            earlier = base.facts.get("rewrites", {})
            names += [name for name in corpus.facts["rewrites"] if name not in earlier]
        texts_before = texts
    if not names or len(first) != 1:
        return {"rewritten": names} if names else {}
    return {
        "rewritten": names,
        "before": {"text": first[0], "bytes": len(first[0].encode())},
    }


def later_rows(
    before: Unit, rows: np.ndarray, units: Sequence[Unit]
) -> Iterator[tuple[Unit, np.ndarray]]:
    """Yield the units with what rewriters made of documents, and its rows in each.

    Args:
        before: A unit of a corpus that was rewritten.
        rows: (m,) int64, rows of its documents.
        units: The units of a later corpus.
    """
    places = before.read_rows(["input", "line"]).take(rows).to_pylist()
    wanted = {(one["input"], one["line"]) for one in places} - {(None, None)}
    for unit in units:
        if not _is_before(before, unit):
            continue
        table = _whole(unit).read_rows(["input", "line"])
        own = zip(*(column.to_pylist() for column in table.columns))  # none of added documents
        found = [row for row, at in enumerate(own) if at in wanted]
        if found:
            yield unit, np.array(found, np.int64)


def _whole(unit: Unit) -> Unit:
    return replace(unit, kept=None)


def _is_before(one: Unit, other: Unit) -> bool:
    """Return whether a unit is another, or one that it was made from: its name begins with it."""
    return f"{other.name}-".startswith(f"{one.name}-")


def describe_rewriting(fate: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines on what rewriters made of a document.

    Args:
        fate: An entry of :func:`~penstock.jobs.why.fates_of`.
    """
    names = fate.get("rewritten")
    if not names:
        return
    made = "it made" if len(names) == 1 else "they made"
    yield f"rewritten by {', '.join(names)}: all of this is of the text that {made}"
    if "before" not in fate:
        return
    before, after = fate["before"]["text"], fate["text"]
    at = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, after)))
    for label, text in (("before", before), ("after", after)):
        start = max(0, at - _ROOM)
        shown = " ".join(text[start : at + _ROOM].split())
        dots = "… " if start else "", " …" if at + _ROOM < len(text) else ""
        yield f"{label}, {len(text.encode()):,} bytes: {dots[0]}{shown}{dots[1]}"
    if fate["fate"] == "dropped":
        yield "the text before passed the rules, and was kept"
