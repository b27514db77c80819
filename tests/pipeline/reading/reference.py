"""Batches as single records, JSON lines line by line, arrays by Python's json: what is right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from penstock.pipeline.reading.batches import ParsedBatch
from penstock.pipeline.reading.readers import read_batches
from penstock.pipeline.reading.records import Bad, Record
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = ["is_array", "json_lines", "read_records", "records_of"]

_encode = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode


def records_of(batches: Iterable[ParsedBatch]) -> list[Record | Bad]:
    """All records of batches, in file order."""
    found: list[Record | Bad] = []
    for batch in batches:
        documents = [batch.document(row) for row in range(len(batch.documents))]
        for records in (documents, batch.bad):
            numbers = [record.number for record in records]
            assert numbers == sorted(numbers)
        found += sorted([*documents, *batch.bad], key=lambda record: record.number)
    return found


def read_records(where: AnyPath, spec: CorpusSource, *span: Any) -> list[Record | Bad]:
    """All records of a span; arguments as of ``read_batches``."""
    return records_of(read_batches(where, spec, *span))


def is_array(content: bytes) -> bool:
    """Return whether a file begins as an array of objects."""
    first = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    return first[:1] == b"[" and first[1:].lstrip()[:1] in (b"{", b"]")


def json_lines(content: bytes, cap: int, spec: CorpusSource) -> list[Record | Bad]:
    """Read a whole file that does not begin as an array."""
    found: list[Record | Bad] = []
    position = 0
    lines = content.split(b"\n")
    for number, line in enumerate(lines if lines[-1] else lines[:-1], 1):
        place = f"line {number}"
        if len(line) > cap:
            error = (
                f"{len(line):,} bytes in this line, more than the {cap:,} that "
                "clean.max_document_bytes leaves room for; only the first "
                f"{min(len(line), 65536):,} are kept here"
            )
            found.append(Bad(f"{place}, from byte {position:,}", error, line[:65536], number))
        else:
            own = line
            while own.startswith(b"\xef\xbb\xbf"):
                own = own.removeprefix(b"\xef\xbb\xbf")
            if own and not own.isspace():
                found.append(_record(own, line, place, number, spec))
        position += len(line) + 1
    return found


def _record(own: bytes, raw: bytes, place: str, number: int, spec: CorpusSource) -> Record | Bad:
    try:
        fields: Any = msgspec.json.decode(own)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Bad(place, f"not JSON in UTF-8: {error}", raw, number)
    if not isinstance(fields, dict):
        return Bad(place, f"expected an object, got {type(fields).__name__}", raw, number)
    value = fields.pop(spec.text, None)
    if not isinstance(value, str):
        came = "nothing" if value is None else type(value).__name__
        return Bad(place, f"expected text in {spec.text!r}, got {came}", raw, number)
    own_id = fields.pop(spec.id, None)
    own_source = fields.pop(spec.source, None) or None
    meta = _encode(fields).decode() if fields else ""
    return Record(
        value,
        str(own_id) if own_id not in (None, "") else None,
        str(own_source) if own_source is not None else None,
        meta,
        number,
    )
