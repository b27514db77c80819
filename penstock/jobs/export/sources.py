"""What an export says of each source: documents, tokens, licences as given, and inputs.

A licence is what a record's field ``license``, ``licence`` or ``licenses`` says, at the top or in
``metadata``; ``corpus.fields: {license: …}`` gives it to all records of files that have none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from penstock.artefact import FileRecord
from penstock.columnar import OwnParquet
from penstock.jobs.documents import TableUnit
from penstock.storage import AnyPath, atomic_file, read_file

__all__ = ["SourceFacts", "count_sources", "described", "gather_sources", "licences_of"]

_LONGEST = 200
"""Characters of a licence."""

_DISTINCT = 50
"""Most licences and inputs of a source that are listed; the rest is one entry."""

OTHERS = "(others)"
"""The entry of all licences or inputs that are not listed."""


class _Rights(msgspec.Struct):
    license: Any = None
    licence: Any = None
    licenses: Any = None
    metadata: Any = None


_decoder = msgspec.json.Decoder(_Rights)


def licences_of(meta: pa.Array) -> pa.Array:
    """Return the licence that each record gives: (n,) strings, null where it gives none.

    Args:
        meta: The records' other fields: (n,) JSON objects, or nulls.
    """
    named = pc.match_substring(meta, "icen").fill_null(False)
    if not pc.any(named).as_py():
        return pa.nulls(len(meta), pa.string())
    # Many records have equal fields: each is parsed once.
    distinct = pc.if_else(named, meta, pa.scalar(None, meta.type)).dictionary_encode()
    words = [_licence(own) for own in distinct.dictionary.to_pylist()]
    return pa.array(words, pa.string()).take(distinct.indices)


def _licence(meta: str) -> str | None:
    try:
        rights = _decoder.decode(meta)
    except msgspec.DecodeError:
        return None
    inner = rights.metadata if isinstance(rights.metadata, dict) else {}
    for value in (rights.license, rights.licence, rights.licenses, *map(inner.get, _NAMES)):
        many = value if isinstance(value, list) else [value]
        if word := ", ".join(one.strip() for one in many if isinstance(one, str)):
            return word[:_LONGEST]
    return None


_NAMES = ("license", "licence", "licenses")


@dataclass(slots=True)
class SourceFacts:
    """Counts of one source's documents that the cut takes."""

    documents: int
    tokens: int
    text_bytes: int
    licences: Counter[str | None]
    """Documents by the licence that they give; None of those that give none."""
    inputs: Counter[int | None]
    """Documents by the number of their input in the corpus; None of those that a rewriter made."""


def count_sources(item: tuple[AnyPath, str, TableUnit], shared: None) -> FileRecord:
    """Count the sources of a unit's documents, and write the counts as a file of scratch.

    Args:
        item: Directory of the export, name of the file, and the unit.
        shared: Nothing.
    """
    directory, name, unit = item
    table = unit.rows()
    taken = table.column("taken").to_numpy()
    wanted = pa.array(unit.unit.numbers()[taken])
    with OwnParquet(unit.unit.path()) as file:
        licences = [
            licences_of(batch.column("meta")) for batch in file.iter_batches(columns=["meta"])
        ]
    table = table.filter(pa.array(taken)).select(["source", "tokens", "bytes"])
    inputs = unit.unit.read_rows(["input"]).filter(pa.array(taken)).column("input")
    table = table.append_column("input", inputs)
    table = table.append_column("licence", pa.chunked_array(licences, pa.string()).take(wanted))
    counts = table.group_by(["source", "licence", "input"]).aggregate(
        [([], "count_all"), ("tokens", "sum"), ("bytes", "sum")]
    )
    rows = [
        [row["source"], row["licence"], row["input"], *(int(row[name]) for name in _SUMS)]
        for row in counts.to_pylist()
    ]
    with atomic_file(directory / name, durable=False) as sink:
        sink.write(json.dumps(sorted(rows, key=repr)).encode())
    return FileRecord.of(name, sink)


_SUMS = ("count_all", "tokens_sum", "bytes_sum")


def gather_sources(directory: AnyPath, records: Sequence[FileRecord]) -> dict[str, SourceFacts]:
    """Add the counts of all units; return them by source, by name."""
    found: dict[str, SourceFacts] = {}
    for record in records:
        for source, licence, number, documents, tokens, size in json.loads(
            read_file(directory / record.path)
        ):
            facts = found.setdefault(source, SourceFacts(0, 0, 0, Counter(), Counter()))
            facts.documents += documents
            facts.tokens += tokens
            facts.text_bytes += size
            facts.licences[licence] += documents
            facts.inputs[number] += documents
    return dict(sorted(found.items()))


def described(
    sources: Mapping[str, SourceFacts], inputs: Mapping[int, str]
) -> dict[str, dict[str, Any]]:
    """Return the content of ``sources.json``.

    Args:
        sources: Counts by source.
        inputs: Names of the inputs of the corpus, by number.
    """
    return {
        source: {
            "documents": facts.documents,
            "tokens": facts.tokens,
            "text_bytes": facts.text_bytes,
            "licenses": _largest(Counter({k or "": n for k, n in facts.licences.items()})),
            "inputs": _largest(_by_name(facts.inputs, inputs)),
        }
        for source, facts in sources.items()
    }


def _by_name(counts: Counter[int | None], names: Mapping[int, str]) -> Counter[str]:
    named: Counter[str] = Counter()
    for number, documents in counts.items():
        named["" if number is None else names.get(number, f"input {number}")] += documents
    return named


def _largest(counts: Counter[str]) -> dict[str, int]:
    """Return the largest counts, largest first, and one entry of all others."""
    ordered = sorted(counts.items(), key=lambda own: (-own[1], own[0]))
    found = dict(ordered[:_DISTINCT])
    if rest := sum(count for _, count in ordered[_DISTINCT:]):
        found[OTHERS] = rest
    return found
