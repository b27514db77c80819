"""Name two documents of one id by their files, and tell equal texts from ids that are given twice.

A document without an id is named by a hash of its text, so that two files of equal text have one
id: nothing is wrong with them. Ids that the records themselves give twice are often a mistake. Only
the first million documents are looked at, so that memory is bounded.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from penstock.artefact import FileRecord
from penstock.columnar import OwnParquet
from penstock.display import numbered, printable
from penstock.hashing import hash_ids
from penstock.pipeline.reading.inputs import Input
from penstock.storage import AnyPath

__all__ = ["RepeatedExample", "describe_repeated", "find_repeated"]

_LOOKED_AT = 1 << 20
"""Documents that are looked at: about 100 MB of ids and hashes."""

_NAME = re.compile("[0-9a-f]{24}")
"""The id of a document that has none: :func:`~penstock.text_hashes.name_texts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatedExample:
    """Two documents with one id, and how many others are alike."""

    id: str
    inputs: tuple[int, int]
    """Numbers of their input files; equal if one file has both."""
    named_by_text: int
    """Documents whose id is a hash of their text, and so that of an equal text before them."""
    repeated: int
    """Documents with the id of an earlier one, among those that were looked at."""


def find_repeated(records: Sequence[FileRecord], directory: AnyPath) -> RepeatedExample | None:
    """Find two documents of one id, equal texts first; None if the first million have none.

    Args:
        records: All files of a corpus that no rewriter made.
        directory: That of the corpus.
    """
    tables: list[pa.Table] = []
    documents = 0
    for record in records:
        if not record.path.startswith("rows-"):
            continue
        if tables and documents >= _LOOKED_AT:
            break
        with OwnParquet(record.verified(directory)) as file:
            tables.append(file.read(["id", "hash", "input"]))
        documents += len(tables[-1])
    if not tables:
        return None
    rows = pa.concat_tables(tables)
    hashes = hash_ids(rows.column("id"), 0)
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    if not len(again):
        return None
    some = rows.take(pa.array(order[np.union1d(again, again + 1)])).to_pylist()
    pairs = [pair for pair in itertools.pairwise(some) if pair[0]["id"] == pair[1]["id"]]
    equal = [
        pair
        for pair in pairs
        if _NAME.fullmatch(pair[0]["id"]) and pair[0]["hash"] == pair[1]["hash"]
    ]
    chosen = next(iter(equal or pairs), None)
    if chosen is None:  # two ids with one hash of 64 bits
        return None
    return RepeatedExample(
        id=chosen[0]["id"],
        inputs=(chosen[0]["input"], chosen[1]["input"]),
        named_by_text=len(equal),
        repeated=len(again),
    )


def describe_repeated(count: int, found: RepeatedExample | None, inputs: Sequence[Input]) -> str:
    """Describe in one line how many documents have the id of an earlier one, and why.

    Args:
        count: Documents, at least one.
        found: Two of them.
        inputs: The input files, by number.
    """
    line = f"{numbered(count, 'document has', 'documents have')} the id of an earlier one"
    if found is None:
        return line
    first, second = (printable(inputs[number].label) for number in found.inputs)
    where = f"twice in {first}" if first == second else f"in {first} and in {second}"
    if not found.named_by_text:
        return f"{line}: {printable(found.id)[:80]!r} is {where}"
    some = "" if found.named_by_text == found.repeated else f"{found.named_by_text:,} of them are "
    return (
        f"{line}: {some}equal texts without an id of their own, which a hash of the text names; "
        f"one is {where}"
    )
