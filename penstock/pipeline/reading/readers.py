"""Readers of input files: one for each file format, by the ending of the file's name.

A reader turns bytes into batches of documents and, where they are none, into a :class:`Bad` with
the error and the raw bytes, so that nothing is lost. It filters nothing. A run stops only
where documents would be lost silently: at a file that is truncated, unreadable, or without the
column that the recipe names.

To add a format, write its ``read`` function in a module of this package (and ``spans``, unless its
files may be divided at any byte), and list it in ``_READERS`` and :data:`KINDS`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeAlias

from penstock import extras
from penstock.errors import InputError, PenstockError
from penstock.pipeline.reading.arrays import content_of
from penstock.pipeline.reading.batches import Batches, ParsedBatch
from penstock.pipeline.reading.delimited import comma_separated, tab_separated
from penstock.pipeline.reading.html import html
from penstock.pipeline.reading.hugging_face import hugging_face, hugging_face_spans
from penstock.pipeline.reading.json_lines import json_lines
from penstock.pipeline.reading.lines import plain_text
from penstock.pipeline.reading.markdown import markdown
from penstock.pipeline.reading.records import Bad, Extent, Record, Span
from penstock.pipeline.reading.streams import readable
from penstock.pipeline.reading.tables import (
    arrow,
    arrow_spans,
    parquet,
    parquet_spans,
)
from penstock.pipeline.reading.warc import warc
from penstock.recipe import CorpusSource
from penstock.storage import AnyPath

__all__ = [
    "AS_TEXT",
    "KINDS",
    "Bad",
    "ParsedBatch",
    "Reader",
    "Record",
    "is_plain_text",
    "may_be_left_out",
    "place_in",
    "read_batches",
    "reader_of",
]

KINDS = (
    ".jsonl, .json, .csv, .tsv, .txt, .md, .html, .warc, .wet (each also .gz or .zst), "
    ".parquet or .arrow"
)

AS_TEXT = "write `format: text` in its item of `corpus`, to read files of any ending as plain text"
"""What helps where files are of other kinds."""

_WHOLE = Span()
_NO_CAP = 2**63 - 1

_Read: TypeAlias = Callable[[AnyPath, CorpusSource, Span, int, Extent], Batches]
_Spans: TypeAlias = Callable[[AnyPath, CorpusSource, int], list[Span]]


@dataclass(frozen=True, slots=True)
class Reader:
    """Reader of one file format; it divides files whose format has an index."""

    noun: str
    """The word for a record's position in messages: ``line`` or ``row``."""
    read: _Read
    spans: _Spans | None = None
    """Divides a file into spans; None for files that are divided at bytes."""
    counts: str = "bytes"
    """The unit of its spans' ``start`` and ``end``."""
    whole: bool = False
    """True for files that are always read by one task."""
    arrays: bool = False
    """True if a file may be of JSON arrays, which are not divided at bytes."""
    document: bool = False
    """True if a file is one document."""
    extra: str = ""
    """The extra of the package whose modules it needs."""
    encoded: bool = False
    """True if the recipe gives the encoding of its files."""

    def require(self, where: AnyPath, spec: CorpusSource) -> None:
        """Check that it can use an item's keys, and that the modules it needs are installed.

        Raises:
            BadInput: A module is not; the fix names the extra.
            InputError: The item gives an encoding to a file whose format has its own.
        """
        if spec.encoding != "utf-8" and not self.encoded:
            raise InputError(
                key="corpus.encoding",
                file=where,
                expected="a file of CSV, TSV, Markdown or plain text",
                got="one of another format, which says its encoding itself or is UTF-8",
                fix="name files of other formats in an item of their own",
            )
        if self.extra:
            extras.require(self.extra, "corpus.path")
            if spec.extract == "trafilatura":
                extras.require("trafilatura", "corpus.extract")


_LINES = Reader("line", json_lines, arrays=True)
_HUGGING_FACE = Reader("row", hugging_face, hugging_face_spans, "rows")
_PAGE = Reader("line", html, whole=True, document=True, extra="web")
_READERS = {
    "jsonl": _LINES,
    "json": _LINES,
    "ndjson": _LINES,
    "txt": Reader("line", plain_text, encoded=True),
    "csv": Reader("line", comma_separated, whole=True, encoded=True),
    "tsv": Reader("line", tab_separated, whole=True, encoded=True),
    "md": Reader("line", markdown, whole=True, document=True, encoded=True),
    "html": _PAGE,
    "htm": _PAGE,
    "warc": Reader("record", warc, whole=True, extra="web"),
    "wet": Reader("record", warc, whole=True),
    "parquet": Reader("row", parquet, parquet_spans, "row groups"),
    "arrow": Reader("row", arrow, arrow_spans, "batches"),
}


def reader_of(where: AnyPath | PurePath, spec: CorpusSource | None = None) -> Reader | None:
    """Return the reader for a file of this name, or None."""
    if spec is not None and spec.path.startswith("hf:"):
        return _HUGGING_FACE
    if spec is not None and spec.format == "text":
        return _READERS["txt"]
    name = where.name.lower().removesuffix(".gz").removesuffix(".zst")
    return _READERS.get(name.rpartition(".")[2]) if "." in name else None


def is_plain_text(where: AnyPath | PurePath, spec: CorpusSource) -> bool:
    """Return whether a file is plain text, without fields or columns."""
    return reader_of(where, spec) is _READERS["txt"]


def place_in(where: AnyPath, spec: CorpusSource, number: int) -> str | None:
    """Name the position of a record in a file: ``row 3``; None where the file is one document.

    Of a file of JSON the beginning is read: a record is a line, or an element of an array.

    Args:
        where: The file.
        spec: The item of ``corpus`` with the settings for reading it.
        number: Number of the record, from 1.
    """
    reader = reader_of(where, spec)
    if reader is None or reader.document or (is_plain_text(where, spec) and spec.per == "file"):
        return None
    elements = False
    if reader.arrays:
        with contextlib.suppress(OSError, PenstockError):  # the file is gone
            elements = content_of(where).elements
    return f"{'element' if elements else reader.noun} {number:,}"


@contextlib.contextmanager
def may_be_left_out() -> Iterator[None]:
    """Add to the error of a damaged file how to leave it out, which is the user's decision.

    It is not quarantined: the records that are lost with it cannot be counted.
    """
    try:
        yield
    except InputError as error:
        of_a_key = error.key is not None or "(corpus." in (error.expected or "")
        if not of_a_key and error.fix != "run again":
            leave = "or leave it out: put _ before its name, which is then counted, or delete it"
            error.fix = "; ".join(part for part in (error.fix, leave) if part)
        raise


def read_batches(
    where: AnyPath,
    spec: CorpusSource,
    span: Span = _WHOLE,
    cap: int = _NO_CAP,
    extent: Extent | None = None,
) -> Batches:
    """Stream the records of a span of one file, in file order, as batches.

    Args:
        where: The file.
        spec: The item of ``corpus`` with the settings for reading it.
        span: The part to read.
        cap: Most bytes of a line, a plain-text file or a row's text that are held in memory.
        extent: Counts the lines and bytes of the span as they are read, in files of lines.

    Raises:
        InputError: The file is missing, truncated, of an unknown kind, or lacks a column.
    """
    reader = reader_of(where, spec)
    if reader is None:
        raise InputError("unknown kind of file", file=where, expected=KINDS, fix=AS_TEXT)
    with may_be_left_out(), readable(where, "file"):
        yield from reader.read(where, spec, span, cap, extent or Extent())
