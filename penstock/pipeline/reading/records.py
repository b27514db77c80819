"""Records that readers yield: a document, or a bad record with its error and its bytes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec

from penstock.pipeline.reading.spans import Span
from penstock.recipe import CorpusSource

__all__ = ["HEAD", "Bad", "Record", "Records", "as_json", "record_of", "too_long"]

HEAD = 64 * 2**10
"""Bytes that are kept of a line or text over the cap."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document of an input file; ``id`` is None where the file has none."""

    text: str
    id: str | None
    source: str
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
    if not isinstance(text, str):
        came = "nothing" if text is None else type(text).__name__
        original = as_json({**fields, spec.text: text}) if raw is None else raw
        place = span.place(noun, number)
        return Bad(place, f"expected text in {spec.text!r}, got {came}", original)
    name = fields.pop(spec.id, None)
    if isinstance(spec.source, str):
        source = str(fields.pop(spec.source, None) or "unknown")
    else:
        source = spec.source.name
    try:
        meta = _encode(fields).decode() if fields else ""
    except RecursionError as error:
        kept = repr(fields).encode() if raw is None else raw
        return Bad(span.place(noun, number), f"nested too deeply: {error}", kept)
    return Record(text, None if name is None or name == "" else str(name), source, meta, number)


def too_long(place: str, size: int, cap: int, what: str, head: bytes) -> Bad:
    """Make the bad record of a line or text over the cap, which bounds a worker's memory."""
    return Bad(
        place,
        f"{size:,} bytes in this {what}, more than the {cap:,} that clean.max_document_bytes "
        f"leaves room for; only the first {len(head):,} are kept here",
        head,
    )


def as_json(value: Any) -> bytes:
    """Encode a row for the quarantine: bytes in base64, other types that JSON lacks as text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain).encode(
        "utf-8", "backslashreplace"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return str(value)
