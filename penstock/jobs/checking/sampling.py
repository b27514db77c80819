"""A bounded sample of a recipe's inputs: records from the beginnings of some of their files.

Files are chosen evenly over the sorted list of each item of ``corpus``, so that directories of one
source each are all met. Of each file the first batch is read, and the first row groups or record
batches of a table. The sample is not uniform: what is estimated from it is exact only where every
file was read to its end (:attr:`InputSample.whole`). Files of one item and ending stand for each
other, and not for those of another: a gigabyte of HTML has fewer records than one of JSON lines.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zstandard

from penstock.errors import PenstockError
from penstock.jobs.checking.guessing import ending_of, head_records
from penstock.pipeline.reading.finding import FoundInputs
from penstock.pipeline.reading.inputs import Input
from penstock.pipeline.reading.readers import read_batches, reader_of
from penstock.pipeline.reading.records import Extent, Span
from penstock.pipeline.reading.streams import blocks, compression_of
from penstock.recipe import CorpusSource, Recipe
from penstock.storage import store_of

__all__ = ["EXAMINED", "FieldTypes", "InputSample", "SampledFile", "sample_inputs"]

MOST_BYTES = 16 * 2**20
"""Bytes of text that are read of all files together, about."""

MOST_FILES = 64
"""Files of an item of ``corpus`` that are opened."""

MOST_RECORDS = 10_000
"""Records of the sample, about."""

EXAMINED = 400
"""Records of a file whose other fields are examined."""

_CAP = 2**28
"""Most bytes of a line or text that is held."""

_NAMES = 200
"""Most fields of an item that are counted."""

Group = tuple[int, str]
"""Position of the item of ``corpus``, and the ending of the files."""

FieldTypes = dict[str, Counter[str]]
"""Records by field and type: ``{"stars": {"int": 12, "null": 1}}``."""


@dataclass(slots=True, kw_only=True)
class SampledFile:
    """What was read of one input file."""

    item: int
    """Position of the item of ``corpus``."""
    input: Input
    size: int | None
    """Bytes of the file; None of a dataset of the hub."""
    group: Group
    """The group that it stands for."""
    records: int = 0
    """Documents and bad records that were read."""
    bad: int = 0
    error: str | None = None
    """The first bad record's error, or that of the file."""
    text_bytes: int = 0
    """UTF-8 bytes of the documents' texts."""
    whole: bool = False
    """True if the file was read to its end."""
    damaged: bool = False
    """True if reading ended with :attr:`error`."""
    examined: int = 0
    """Records of which :attr:`fields` has the fields."""
    fields: FieldTypes = field(default_factory=dict)
    share: float = 1.0
    """About the share of the file's bytes that the records take."""
    seconds: float = 0.0
    """Seconds that reading took."""

    @property
    def text_total(self) -> float | None:
        """Bytes of text of the whole file, an estimate unless it was read to its end."""
        if self.whole:
            return float(self.text_bytes)
        return self.text_bytes / self.share if self.share > 0 and self.size is not None else None

    @property
    def records_total(self) -> float | None:
        """Records of the whole file, an estimate unless it was read to its end."""
        if self.whole:
            return float(self.records)
        return self.records / self.share if self.share > 0 and self.size is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSample:
    """Documents of the sample, and the files that they are of."""

    documents: pa.Table
    """``text`` (large_string), ``id``, ``source`` (null where the record has none), ``meta`` and
    ``file``, the position among :attr:`files`, and ``number``, that of the line or row from 1."""
    files: Sequence[SampledFile]
    groups: Mapping[Group, tuple[int, int]]
    """All files that the recipe names, by group: their number, and their bytes on disk or in a
    store; those of the hub count as 0."""

    @property
    def of_files(self) -> int:
        """Files that the recipe names."""
        return sum(count for count, _ in self.groups.values())

    @property
    def bytes_of_files(self) -> int:
        """Their bytes."""
        return sum(size for _, size in self.groups.values())

    @property
    def whole(self) -> bool:
        """True if every file was read to its end, so that counts are exact."""
        return self.of_files == len(self.files) and all(one.whole for one in self.files)

    def fields(self, item: int | None = None) -> FieldTypes:
        """Return the fields of the records of one item of ``corpus``, or of all."""
        found: FieldTypes = {}
        for one in self.files:
            if item in (None, one.item):
                for name, types in one.fields.items():
                    found.setdefault(name, Counter()).update(types)
        return found

    @property
    def text_total(self) -> float | None:
        """Bytes of text of all files, an estimate unless all were read to their ends."""
        return self._total([one.text_total for one in self.files], by_files=False)

    @property
    def records_total(self) -> float | None:
        """Records of all files, an estimate unless all were read to their ends."""
        return self._total([one.records_total for one in self.files], by_files=True)

    def share_of_text(self, kept: np.ndarray, sizes: np.ndarray, files: np.ndarray) -> float:
        """Return about the share of the text of all files that is kept; 1 without a sample.

        Args:
            kept: (n,) bool, for some documents of the sample.
            sizes: (n,) bytes of their texts.
            files: (n,) positions of their files among :attr:`files`.
        """
        names = list(self.groups)
        numbers = np.array([names.index(one.group) for one in self.files], np.int64)
        scales, places = self._scales(by_files=False), numbers[files]
        totals = np.zeros(len(names))
        for number, one in zip(numbers, self.files):
            totals[number] += (one.text_total or one.text_bytes) * scales[one.group]
        read = np.bincount(places, sizes, len(names))
        known = np.bincount(places, sizes * kept, len(names))
        whole = totals[read > 0].sum()
        return float((totals * known / np.maximum(read, 1)).sum() / whole) if whole else 1.0

    def _total(self, own: Sequence[float | None], *, by_files: bool) -> float | None:
        """Return a sum over all files from the values of those that were sampled."""
        if any(value is None for value in own) or not own:
            return None
        scales = self._scales(by_files=by_files)
        return sum(value * scales[one.group] for one, value in zip(self.files, own) if value)

    def _scales(self, *, by_files: bool) -> dict[Group, float]:
        """Return for each group by how much its sampled files are to be multiplied.

        Args:
            by_files: Go by the number of files, not by their bytes, where each sampled file of the
                group is one record.
        """
        rest = dict(self.groups)
        found: dict[Group, float] = {}
        for group in dict.fromkeys(one.group for one in self.files):
            sampled = [one for one in self.files if one.group == group]
            count, size = rest.pop(group)
            read = sum(one.size or 0 for one in sampled)
            single = by_files and all(one.whole and one.records == 1 for one in sampled)
            if len(sampled) == count:
                found[group] = 1.0
            elif single or not read:
                found[group] = count / len(sampled)
            else:
                found[group] = size / read
        # Groups without a file in the sample are like the others of their items.
        for item in {group[0] for group in rest}:
            own = [group for group in found if group[0] == item]
            known = sum(self.groups[group][1] for group in own)
            more = sum(size for group, (_, size) in rest.items() if group[0] == item)
            for group in own:
                found[group] *= 1 + more / known if known else 1.0
        return found


def sample_inputs(recipe: Recipe, found: FoundInputs) -> InputSample:
    """Read a bounded sample of the inputs.

    A file that cannot be read has its error in the sample; none is raised.

    Args:
        recipe: The recipe.
        found: Its input files.
    """
    items = _by_item(recipe, found.inputs)
    sizes = {id(one): _size(one) for own in items for one in own}
    chosen = [(item, one) for item, own in enumerate(items) for one in _spread(own)]
    files: list[SampledFile] = []
    tables: list[pa.Table] = []
    left_bytes, left_records = MOST_BYTES, MOST_RECORDS
    for number, (item, one) in enumerate(chosen):
        if left_bytes <= 0 and any(file.item == item for file in files):
            continue
        waiting = len(chosen) - number
        file = SampledFile(item=item, input=one, size=sizes[id(one)], group=_group(item, one))
        tables.append(
            _read(
                file,
                max(left_bytes // waiting, 2**16),
                max(left_records // waiting, 20),
                len(files),
            )
        )
        left_bytes -= file.text_bytes
        left_records -= file.records
        files.append(file)
    return InputSample(
        documents=pa.concat_tables(tables) if tables else _EMPTY,
        files=files,
        groups=_groups(items, sizes),
    )


def _groups(
    items: Sequence[Sequence[Input]], sizes: Mapping[int, int | None]
) -> dict[Group, tuple[int, int]]:
    found: dict[Group, tuple[int, int]] = {}
    for item, own in enumerate(items):
        for one in own:
            count, size = found.get(group := _group(item, one), (0, 0))
            found[group] = count + 1, size + (sizes[id(one)] or 0)
    return found


def _group(item: int, one: Input) -> Group:
    hub = one.spec.path.startswith("hf:")
    return item, "" if hub else ending_of(one.path).lower()


def _by_item(recipe: Recipe, inputs: Sequence[Input]) -> list[list[Input]]:
    """Divide inputs by the item of ``corpus`` that names them."""
    paths = [_without_revision(spec) for spec in recipe.corpus]
    found: list[list[Input]] = [[] for _ in paths]
    for one in inputs:
        found[paths.index(_without_revision(one.spec))].append(one)
    return found


def _without_revision(spec: CorpusSource) -> str:
    return spec.path.partition("@")[0] if spec.path.startswith("hf:") else spec.path


def _spread(inputs: Sequence[Input]) -> list[Input]:
    """Choose at most :data:`MOST_FILES`, evenly over the list, the first and the last included."""
    if len(inputs) <= MOST_FILES:
        return list(inputs)
    places = np.linspace(0, len(inputs) - 1, MOST_FILES).round().astype(int)
    return [inputs[place] for place in dict.fromkeys(places.tolist())]


def _size(one: Input) -> int | None:
    if one.spec.path.startswith("hf:"):
        return None
    with contextlib.suppress(OSError, PenstockError):
        version = store_of(one.path).version(one.path)
        return int(version[0]) if version else None
    return None


_SCHEMA = pa.schema(
    [
        ("text", pa.large_string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("meta", pa.large_string()),
        ("file", pa.int32()),
        ("number", pa.int64()),
    ]
)
_EMPTY = _SCHEMA.empty_table()


def _read(file: SampledFile, most_bytes: int, most_records: int, number: int) -> pa.Table:
    """Read the beginning of a file; fills ``file`` and returns its documents."""
    spec = file.input.spec
    extent = Extent()
    parts: list[pa.RecordBatch] = []
    begin = time.perf_counter()
    try:
        span, of_rows = _first_span(file)
        batches = read_batches(file.input.path, spec, span, _CAP, extent)
        for batch in batches:
            file.records += len(batch.documents) + len(batch.bad)
            file.bad += len(batch.bad)
            file.text_bytes += pc.sum(pc.binary_length(batch.documents["text"])).as_py() or 0
            parts.append(batch.documents)
            if batch.bad and file.error is None:
                file.error = f"{batch.bad[0].place}: {batch.bad[0].error}"
            for bad in batch.bad[:EXAMINED]:
                _count_raw(bad.raw, file.fields)
                file.examined += 1
            if file.text_bytes >= most_bytes or file.records >= most_records:
                break
        else:
            file.whole = span.end is None or span.end == of_rows
    except (PenstockError, OSError) as error:
        file.error = str(error)
        # Without the field of the text each record is bad, and a key of the recipe is at fault.
        file.damaged = not file.records or file.bad < file.records
        if not file.records:  # perhaps only the column of the text is missing
            with contextlib.suppress(PenstockError, OSError):
                for record in head_records(file.input) or ():
                    _count(record, file.fields)
    file.seconds = time.perf_counter() - begin
    documents = pa.Table.from_batches(parts) if parts else None
    if documents is None:
        return _EMPTY
    _count_fields(documents, spec, file.fields)
    file.examined += min(len(documents), EXAMINED)
    if not file.whole:
        with contextlib.suppress(PenstockError, OSError):  # said already
            file.share = _share(file, extent, documents)
    columns = [documents[name] for name in ("text", "id", "source", "meta")]
    file_number = pa.array(np.full(len(documents), number, np.int32))
    return pa.table([*columns, file_number, documents["number"]], schema=_SCHEMA)


def _first_span(file: SampledFile) -> tuple[Span, int | None]:
    """Return the part to read: of a table its first row group, of other files all.

    Returns:
        The span, and the end of the last one of a table.
    """
    spec, path = file.input.spec, file.input.path
    reader = reader_of(path, spec)
    if reader is None or reader.spans is None or spec.path.startswith("hf:"):
        return Span(), None
    spans = reader.spans(path, spec, 1)
    if not spans:
        return Span(), None
    total = sum(span.size for span in spans)
    file.share = spans[0].size / total if total else 1.0
    return spans[0], spans[-1].end


def _share(file: SampledFile, extent: Extent, documents: pa.Table) -> float:
    """Return about which share of a file's bytes the records that were read take."""
    spec = file.input.spec
    reader = reader_of(file.input.path, spec)
    if reader is not None and reader.spans is not None:
        return file.share  # of row groups, by their sizes
    if not file.size:
        return 0.0
    lines = reader is not None and reader.noun == "line" and extent.noun != "element"
    block = next(iter(blocks(file.input.path)), b"") if lines else b""
    count = block.count(b"\n")
    if count:
        # In CSV a field of several lines has line feeds of its own; those of `meta` are escaped.
        texts, metas = (documents[name] for name in ("text", "meta"))
        within = pc.sum(pc.count_substring(texts, "\n")).as_py() or 0
        within += pc.sum(pc.count_substring(metas, "\\n")).as_py() or 0
        spread = within if _delimited(file.input) else 0
        read = (file.records + spread) * (block.rfind(b"\n") + 1) / count
    else:
        metas = pc.sum(pc.binary_length(documents["meta"])).as_py() or 0
        block = "\n".join(documents["text"].slice(0, 2000).to_pylist()).encode()
        read = float(file.text_bytes + metas)
    if compression_of(file.input.path):
        head = bytes(block[: 2**22])
        read *= len(zstandard.compress(head, 3)) / max(1, len(head))
    return min(1.0, max(read / file.size, 1e-12))


def _delimited(one: Input) -> bool:
    return ending_of(one.path).lower().split(".")[1] in ("csv", "tsv")


# -- fields -----------------------------------------------------------------------------------

_KINDS = {
    str: "text",
    bool: "truth",
    int: "integer",
    float: "number",
    type(None): "null",
    list: "list",
    dict: "object",
}


def _count(fields: Mapping[str, Any], found: FieldTypes) -> None:
    for name, value in fields.items():
        if name in found or len(found) < _NAMES:
            found.setdefault(name, Counter())[_KINDS.get(type(value), type(value).__name__)] += 1


def _count_fields(documents: pa.Table, spec: CorpusSource, found: FieldTypes) -> None:
    """Count the fields of documents by type, those of text, id and source too."""
    head = documents.slice(0, EXAMINED)
    named = [(spec.text, head["text"]), (spec.id, head["id"])]
    if isinstance(spec.source, str):
        named.append((spec.source, head["source"]))
    for name, column in named:
        if there := len(column) - column.null_count:
            found.setdefault(name, Counter())["text"] += there
    for meta in head["meta"].to_pylist():
        if meta is not None:
            _count(msgspec.json.decode(meta), found)


def _count_raw(raw: bytes, found: FieldTypes) -> None:
    """Count the fields of a record that is no document, where it is an object of JSON."""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        fields = msgspec.json.decode(raw)
        if isinstance(fields, dict):
            _count(fields, found)
