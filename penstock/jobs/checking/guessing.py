"""Guess which fields of input files are the text, the id and the source of a document.

Names decide first, then values: a text is the field of longest strings, an id has another value in
each record of the sample, and a source one of few values.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.errors import PenstockError
from penstock.pipeline.reading.inputs import Input
from penstock.pipeline.reading.readers import read_batches
from penstock.pipeline.reading.streams import blocks
from penstock.pipeline.reading.tables import first_rows
from penstock.storage import AnyPath

__all__ = ["Guess", "ending_of", "guess", "head_records"]

RECORDS = 300
"""Records of a file that are looked at."""

_TEXTS = (
    "text", "content", "contents", "body", "raw_content", "document", "article", "markdown",
    "passage", "story", "page", "maintext", "full_text", "abstract", "code", "completion",
)  # fmt: skip
_IDS = (
    "id", "doc_id", "docid", "document_id", "_id", "uuid", "guid", "uid", "warc_record_id",
    "record_id", "key", "url", "path",
)  # fmt: skip
_SOURCES = (
    "source", "dataset", "subset", "data_source", "collection", "corpus", "domain", "category",
    "origin", "site", "type",
)  # fmt: skip
_LICENCES = ("license", "licence", "license_name", "licenses", "rights", "copyright")

_SHORTEST = 40
"""Characters that the texts of a field have on average, at least, where its name tells nothing."""

_SOURCES_MOST = 50
"""Values of a source in a sample, at most."""

_LICENCES_SHOWN = 5


@dataclass(slots=True, kw_only=True)
class Guess:
    """What the fields of some records are."""

    text: str | None
    """None where no field holds texts."""
    id: str | None = None
    source: str | None = None
    sources: tuple[str, ...] = ()
    """The values of :attr:`source`, the most frequent first."""
    licences: tuple[str, ...] = ()
    """Values of a field that is named as a licence, the most frequent first."""
    fields: dict[str, str] = field(default_factory=dict)
    """Each field and the type of its first value, in the order of the records."""

    @property
    def roles(self) -> tuple[str | None, str | None, str | None]:
        """Text, id and source: equal for files that one item of ``corpus`` can read."""
        return self.text, self.id, self.source


def ending_of(path: AnyPath) -> str:
    """Return the ending of an input file's name with its compression, as ``.jsonl.zst``."""
    lower = path.name.lower()
    stem = path.name[: len(lower.removesuffix(".gz").removesuffix(".zst"))]
    return f".{stem.rpartition('.')[2]}{path.name[len(stem) :]}"


def head_records(one: Input) -> list[dict[str, Any]] | None:
    """Return the first records of a file with all their fields; None where it has no fields.

    Raises:
        InputError: The file is damaged.
    """
    if one.spec.path.startswith("hf:") or one.spec.format is not None:
        return None
    kind = ending_of(one.path).lower().split(".")[1]
    if kind in ("parquet", "arrow"):
        return first_rows(one.path, RECORDS)
    if kind in ("csv", "tsv"):
        return _delimited(one.path, "," if kind == "csv" else "\t")
    if kind in ("jsonl", "json", "ndjson"):
        return _objects(one)
    return None


def _objects(one: Input) -> list[dict[str, Any]]:
    """Return objects of JSON, whole: as bad records of a text field that no record has."""
    spec = one.spec.model_copy(update={"text": "\0", "fields": {}})
    found: list[dict[str, Any]] = []
    batches = read_batches(one.path, spec, cap=2**26)
    with contextlib.suppress(PenstockError):  # raised at the end: no record has the field
        for batch in batches:
            for bad in batch.bad:
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    value = msgspec.json.decode(bad.raw)
                    if isinstance(value, dict):
                        found.append(value)
            if len(found) >= RECORDS:
                break
    return found[:RECORDS]


def _delimited(path: AnyPath, delimiter: str) -> list[dict[str, Any]]:
    head = next(iter(blocks(path)), b"")[: 2**20]
    lines = head.decode("utf-8-sig", "replace").splitlines(keepends=True)
    rows = csv.DictReader(lines, delimiter=delimiter)
    with contextlib.suppress(csv.Error):
        return [
            {name: value for name, value in row.items() if isinstance(name, str)}
            for row in itertools.islice(rows, RECORDS)
        ]
    return []


def guess(records: Sequence[Mapping[str, Any]]) -> Guess:
    """Guess the fields of records; ties are decided by names.

    Args:
        records: Records with all their fields.
    """
    values: dict[str, list[Any]] = {}
    for record in records:
        for name, value in record.items():
            if value is not None:
                values.setdefault(name, []).append(value)
    text = _text(values, len(records))
    found = Guess(text=text, fields={name: _type(own[0]) for name, own in values.items()})
    others = {name: own for name, own in values.items() if name != text}
    lower = {name.lower(): name for name in reversed(list(others))}
    for name in (lower[wanted] for wanted in _IDS if wanted in lower):
        if _is_id(others[name]):
            found.id = name
            break
    for name in (lower[wanted] for wanted in _SOURCES if wanted in lower):
        if name == found.id or not all(isinstance(value, str) for value in others[name]):
            continue
        counts = Counter(others[name])
        if len(counts) <= _SOURCES_MOST:
            found.source = name
            found.sources = tuple(value for value, _ in _ordered(counts))
            break
    for name in [lower[wanted] for wanted in _LICENCES if wanted in lower][:1]:
        kinds = Counter(str(value)[:60] for value in others[name])
        found.licences = tuple(value for value, _ in _ordered(kinds)[:_LICENCES_SHOWN])
    return found


def _ordered(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda own: (-own[1], own[0]))


def _text(values: Mapping[str, list[Any]], records: int) -> str | None:
    """Return the field of the text: one with a usual name, else that with the longest strings."""
    texts = {
        name: sum(map(len, own)) / max(1, records)
        for name, own in values.items()
        if all(isinstance(value, str) for value in own)
    }
    lower = {name.lower(): name for name in reversed(list(texts))}
    for wanted in _TEXTS:
        if wanted in lower:
            return lower[wanted]
    longest = max(texts, key=lambda name: (texts[name], name), default=None)
    return longest if longest is not None and texts[longest] >= _SHORTEST else None


def _is_id(values: Sequence[Any]) -> bool:
    """Return whether values can be ids: texts or integers, all different."""
    if not all(isinstance(value, (str, int)) and not isinstance(value, bool) for value in values):
        return False
    return len(set(values)) == len(values)


def _type(value: Any) -> str:
    kinds = {str: "text", bool: "truth", int: "integer", float: "number", list: "list"}
    return kinds.get(type(value), "object" if isinstance(value, dict) else type(value).__name__)
