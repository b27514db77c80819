"""Corpus files as a stream of records, good and bad.

A reader never judges: it turns bytes into :class:`Record` or, where the bytes are not a document,
into :class:`Bad` with the error and the raw bytes, so that nothing is lost. What stops a run is
only what would lose documents silently: a file that is truncated, unreadable, or without the
column that was named.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import InputError
from penstock.recipe import CorpusSource

__all__ = ["Bad", "Record", "is_plain_text", "read_records", "supported"]

_BLOCK = 4 << 20
_ROWS = 1024
"""Rows of a columnar file that are turned into records at a time."""


@dataclass(frozen=True, slots=True)
class Record:
    """A document as the file has it; ``id`` is None where the file names none."""

    text: str
    id: str | None
    source: str
    meta: str
    """The record's other fields, as JSON; empty where there are none."""


@dataclass(frozen=True, slots=True)
class Bad:
    """Something that should have been a document."""

    place: str
    """``line 17`` or ``row 17``, counted from 1."""
    error: str
    raw: bytes


Records: TypeAlias = Iterator[Record | Bad]

_decode = msgspec.json.Decoder().decode


def read_records(path: Path, spec: CorpusSource) -> Records:
    """Stream the records of one file, in file order.

    Raises:
        InputError: The file is missing, truncated, of an unknown kind, or lacks a column.
    """
    try:
        yield from _reader(path, spec)(path, spec)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError:
        raise InputError(f"{path}: permission denied; make it readable") from None


def supported(path: Path) -> bool:
    """Whether the name of a file says that it can be read."""
    return _kind(path) in _READERS


def is_plain_text(path: Path) -> bool:
    """Whether a file has neither fields nor columns."""
    return _READERS.get(_kind(path)) is _plain_text


def _kind(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    return name.rpartition(".")[2] if "." in name else ""


def _reader(path: Path, spec: CorpusSource) -> Callable[[Path, CorpusSource], Records]:
    if spec.path.startswith("hf:"):
        return _hugging_face
    try:
        return _READERS[_kind(path)]
    except KeyError:
        raise InputError(
            f"{path}: unknown kind of file; expected .jsonl, .json, .txt (each also .gz or .zst), "
            ".parquet or .arrow"
        ) from None


# -- lines and plain text ---------------------------------------------------------------------


def _blocks(path: Path) -> Iterator[bytes]:
    """Decompressed bytes, about 4 MiB at a time."""
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix.lower())
    count = 0
    with pa.OSFile(str(path)) as file:
        if compression and not file.size():
            raise InputError(f"{path}: 0 bytes, which no {compression} file has; fetch it again")
        stream = pa.CompressedInputStream(file, compression) if compression else file
        try:
            while block := stream.read(_BLOCK):
                count += len(block)
                yield block
        except OSError as error:
            raise InputError(
                f"{path}: truncated or damaged after {count:,} decompressed bytes ({error}); "
                "fetch the file again, or recompress what can be read of it"
            ) from None


def _lines(path: Path) -> Iterator[bytes]:
    """Lines without their line feed."""
    pieces: list[bytes] = []
    for block in _blocks(path):
        first, *rest = block.split(b"\n")
        pieces.append(first)
        if rest:
            yield b"".join(pieces)
            yield from rest[:-1]
            pieces = [rest[-1]]
    if last := b"".join(pieces):
        yield last


def _unmarked(number: int, raw: bytes) -> bytes:
    """A file's line or text number ``number`` without the byte order mark that may begin a file."""
    return raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def _json_lines(path: Path, spec: CorpusSource) -> Records:
    for number, line in enumerate(_lines(path), 1):
        text = _unmarked(number, line)
        if not text.strip():
            continue
        try:
            fields = _decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            yield Bad(f"line {number}", f"not JSON in UTF-8: {error}", line)
            continue
        if isinstance(fields, dict):
            yield _from_fields(fields, spec, f"line {number}", line)
        else:
            yield Bad(f"line {number}", f"expected an object, got {type(fields).__name__}", line)


def _plain_text(path: Path, spec: CorpusSource) -> Records:
    documents = _lines(path) if spec.per == "line" else iter([b"".join(_blocks(path))])
    source = "unknown" if isinstance(spec.source, str) else spec.source.name
    for number, raw in enumerate(documents, 1):
        try:
            text = _unmarked(number, raw).decode("utf-8")
            yield Record(text.removesuffix("\r"), None, source, "")
        except UnicodeDecodeError as error:
            yield Bad(f"line {number}" if spec.per == "line" else "file", str(error), raw)


# -- columns ----------------------------------------------------------------------------------


def _parquet(path: Path, spec: CorpusSource) -> Records:
    with (
        _readable(path, "Parquet file"),
        pq.ParquetFile(path, page_checksum_verification=True) as file,  # where it has any
    ):
        _require_text(path, spec, file.schema_arrow.names)
        yield from _from_batches(file.iter_batches(batch_size=_ROWS), spec)


def _arrow(path: Path, spec: CorpusSource) -> Records:
    with _readable(path, "Arrow file"), pa.memory_map(str(path)) as file:
        # The file format has a footer; `datasets` writes the stream format.
        if file.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(file)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        else:
            file.seek(0)
            reader = pa.ipc.open_stream(file)
            batches = iter(reader)
        _require_text(path, spec, reader.schema.names)
        yield from _from_batches(batches, spec)


def _hugging_face(path: Path, spec: CorpusSource) -> Records:
    from penstock.pipeline.hub import open_dataset

    dataset = open_dataset(spec, path)
    names = dataset.column_names
    if names:
        _require_text(spec.path, spec, names)
    batches = (
        batch
        for table in dataset.with_format("arrow").iter(batch_size=_ROWS)
        for batch in table.to_batches()
    )
    with _readable(spec.path, "dataset"):
        yield from _from_batches(batches, spec)


@contextlib.contextmanager
def _readable(path: Path | str, kind: str) -> Iterator[None]:
    """Names the file where Arrow finds that it cannot go on."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path}: not a readable {kind}, or damaged: {error}; fetch or write it again"
        ) from None


def _require_text(path: Path | str, spec: CorpusSource, names: list[str]) -> None:
    if spec.text not in names:
        raise InputError(
            f"{path}: no column {spec.text!r} (corpus.text); it has {', '.join(names)}"
        )


def _from_batches(batches: Iterator[pa.RecordBatch], spec: CorpusSource) -> Records:
    number = itertools.count(1)
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            for fields in _rows(batch.slice(start, _ROWS)):
                place = f"row {next(number)}"
                if isinstance(fields, _Broken):
                    yield Bad(place, fields.error, _json(fields.values))
                else:
                    yield _from_fields(fields, spec, place, None)


@dataclass(frozen=True, slots=True)
class _Broken:
    """A row with a value that Python cannot hold."""

    error: str
    values: dict[str, Any]


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | _Broken]:
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for row in range(batch.num_rows):
            yield _row(batch.slice(row, 1))


def _row(batch: pa.RecordBatch) -> dict[str, Any] | _Broken:
    """One row, value by value: invalid UTF-8 becomes its bytes, a date beyond Python's its text."""
    values: dict[str, Any] = {}
    errors = []
    for name, column in zip(batch.schema.names, batch.columns):
        try:
            values[name] = column[0].as_py()
        except UnicodeDecodeError as error:
            values[name] = error.object
            errors.append(f"{name!r} is not UTF-8: {error}")
        except (ValueError, OverflowError) as error:
            values[name] = str(column)
            errors.append(f"{name!r} is out of range: {error}")
    return _Broken("; ".join(errors), values) if errors else values


# -- fields to a record -----------------------------------------------------------------------


def _from_fields(
    fields: dict[str, Any], spec: CorpusSource, place: str, raw: bytes | None
) -> Record | Bad:
    text = fields.pop(spec.text, None)
    if not isinstance(text, str):
        came = "nothing" if text is None else type(text).__name__
        original = {**fields, spec.text: text}
        return Bad(
            place,
            f"expected text in {spec.text!r}, got {came}",
            _json(original) if raw is None else raw,
        )
    name = fields.pop(spec.id, None)
    if isinstance(spec.source, str):
        source = str(fields.pop(spec.source, None) or "unknown")
    else:
        source = spec.source.name
    return Record(
        text,
        None if name is None or name == "" else str(name),
        source,
        _json(fields).decode() if fields else "",
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=_plain).encode(
        "utf-8", "backslashreplace"
    )


def _plain(value: Any) -> Any:
    """What JSON lacks: bytes exactly, anything else as text."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    return str(value)


_READERS: dict[str, Callable[[Path, CorpusSource], Records]] = {
    "jsonl": _json_lines,
    "json": _json_lines,
    "ndjson": _json_lines,
    "txt": _plain_text,
    "parquet": _parquet,
    "arrow": _arrow,
}
