"""Input and output of readers: spans of files; documents, and bad records with their bytes.

A span can be read by itself and is about as large as a unit. The unit of its ``start`` and ``end``
depends on the format: bytes of a file of lines, compressed bytes at frame boundaries, row groups,
record batches, or rows.
"""

from __future__ import annotations

import base64
import codecs
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import msgspec

from penstock.pipeline.grouped import packed
from penstock.recipe import CorpusSource

__all__ = [
    "HEAD",
    "Bad",
    "Extent",
    "Labels",
    "Record",
    "Records",
    "Span",
    "as_id",
    "as_json",
    "gathered",
    "labels_of",
    "record_of",
    "refused",
    "too_long",
    "undecodable",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From ``start`` up to but not including ``end``; the whole input by default."""

    start: int = 0
    end: int | None = None
    size: int = 0
    """Bytes when uncompressed, or an estimate of them."""
    rows: int = 0
    """Lines or rows of the input before it."""
    bytes: int = 0
    """Decompressed bytes of the input before it; 0 where rows are counted."""
    counted: bool = True
    """True if ``rows`` and ``bytes`` are known: lines before a span are counted by reading."""
    file: str = ""
    """The file that this part was written to, where the input has no random access."""
    elements: bool = False
    """True if ``file`` holds elements of JSON arrays, one a line."""

    def place(self, noun: str, number: int) -> str:
        """Name the position of record ``number``, counted over the whole input: ``line 17``."""
        return f"{noun} {number}" if self.counted else f"{noun} {number} after byte {self.start:,}"


@dataclass(slots=True)
class Extent:
    """Counts of a span, as it is read."""

    lines: int = 0
    """Lines, or records of an archive."""
    bytes: int = 0
    others: Counter[str] = field(default_factory=Counter)
    """Records of an archive that are not documents, by kind."""
    noun: str = ""
    """The word for a position, where it is not that of the file's format: ``element``."""


def gathered(parts: Iterable[Span], size: int) -> Iterator[Span]:
    """Merge neighbouring spans up to ``size`` uncompressed bytes; a larger one stays alone."""
    for group in packed(parts, lambda span: span.size, size):
        yield replace(group[0], end=group[-1].end, size=sum(span.size for span in group))


HEAD = 64 * 2**10
"""Bytes that are kept of a line or text over the cap."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document of an input file; ``id`` and ``source`` are None where the record has none."""

    text: str
    id: str | None
    source: str | None
    meta: str
    """The record's other fields, as JSON; empty where there are none."""
    number: int = field(default=0, compare=False)
    """Number of the line or row, from 1."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that is not a document, for the quarantine."""

    place: str
    """``line 17`` or ``row 17``, counted from 1."""
    error: str
    raw: bytes
    number: int = field(default=0, compare=False)
    """Number of the line or row, from 1."""
    id: str | None = field(default=None, compare=False)
    """The record's id, where it can be read."""


Records: TypeAlias = Iterator[Record | Bad]

_encode = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode


def record_of(
    fields: dict[str, Any],
    spec: CorpusSource,
    span: Span,
    noun: str,
    number: int,
    raw: bytes | None,
) -> Record | Bad:
    """Make a document of the fields of a line or row; ``raw`` is the line where there is one."""
    text = fields.pop(spec.text, None)
    own = as_id(fields.get(spec.id))
    if not isinstance(text, str):
        came = "nothing" if text is None else type(text).__name__
        original = as_json({**fields, spec.text: text}) if raw is None else raw
        error = f"expected text in {spec.text!r}, got {came}"
        return Bad(span.place(noun, number), error, original, number, own)
    try:
        labels = labels_of([fields], spec)
    except RecursionError as error:
        kept = repr(fields).encode() if raw is None else raw
        return Bad(span.place(noun, number), f"nested too deeply: {error}", kept, number, own)
    (name,), (source,), (meta,) = labels
    record = Record(text, name, source, (meta or b"").decode(), number)
    try:
        for value in (text, name or "", source or ""):
            if not value.isascii():
                value.encode()
    except UnicodeEncodeError as error:
        return refused(record, span.place(noun, number), f"not Unicode text: {error}")
    return record


class Labels(NamedTuple):
    """What records have beside their texts, as columns."""

    ids: list[str | None]
    sources: list[str | None]
    metas: list[bytes | None]
    """The other fields as JSON; None where there are none."""


def labels_of(rows: list[dict[str, Any]], spec: CorpusSource) -> Labels:
    """Take the ids and sources out of the fields of records, and encode the other fields.

    Raises:
        RecursionError: Fields are nested too deeply.
    """
    for name, value in spec.fields.items():
        for fields in rows:
            if fields.get(name) is None:
                fields[name] = value
    ids = [fields.pop(spec.id, None) for fields in rows]
    if isinstance(spec.source, str):
        own = [fields.pop(spec.source, None) for fields in rows]
        sources = [
            source if type(source) is str and source else _as_source(source) for source in own
        ]
    else:
        sources = [spec.source.name for _ in rows]
    return Labels(
        [name if type(name) is str and name else as_id(name) for name in ids],
        sources,
        [_encode(fields) if fields else None for fields in rows],
    )


_MARKS = (  # those of UTF-32 first, of which UTF-16's are the beginning
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def undecodable(encoding: str, raw: bytes) -> str:
    """Return the error of a record whose bytes are not of the item's encoding.

    It names no item of ``corpus``, since a corpus is the same in any order of the items.

    Args:
        encoding: The item's.
        raw: The bytes, or the first of them.
    """
    found = f"not {encoding.upper()}"
    for mark, name in _MARKS:
        if raw.startswith(mark):
            return f"{found} but {name}, by its mark; convert the file: iconv -f {name} -t UTF-8"
    if b"\0" in raw:
        return f"{found}, and it looks binary: it has bytes of zero"
    if encoding != "utf-8":
        return found
    return f"{found}; `encoding` in an item of its own for the file can name another, as {_LATIN}"


_LATIN = "windows-1252"


def as_id(value: Any) -> str | None:
    """Return the id that a value stands for: its text; None for null, NaN and an empty text.

    Bytes are read as UTF-8, or written in hexadecimal where they are not.
    """
    if value is None or value != value:  # noqa: PLR0124  (NaN)
        return None
    if isinstance(value, bytes):
        try:
            return value.decode() or None
        except UnicodeDecodeError:
            return value.hex()
    return str(value) or None


def _as_source(value: Any) -> str | None:
    return as_id(value) if value else None


def refused(record: Record, place: str, error: str) -> Bad:
    """Make a bad record of a whole record, in ASCII, which keeps lone surrogates."""
    return Bad(place, error, json.dumps(asdict(record)).encode(), record.number, record.id)


def too_long(
    place: str,
    size: int,
    cap: int,
    what: str,
    head: bytes,
    number: int,
    name: str | None = None,
) -> Bad:
    """Make the bad record of a line or text over the cap, which bounds a worker's memory."""
    return Bad(
        place,
        f"{size:,} bytes in this {what}, more than the {cap:,} that clean.max_document_bytes "
        f"leaves room for; only the first {len(head):,} are kept here",
        head,
        number,
        name,
    )


def as_json(value: Any) -> bytes:
    """Encode a row for the quarantine: bytes in base64, other types that JSON lacks as text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain).encode(
        "utf-8", "backslashreplace"
    )


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else str(value)
