"""Text columns: what hangs on the text of a document alone, for every row of a corpus.

A column is named by its definition and by the texts, so it outlives a change of labels, rules and
thresholds, and documents that a rewriter adds leave those of the others as they are. All columns
that are missing are made in one pass over the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.activity import count_documents
from penstock.artefact import Artefact, Draft, FileRecord, Workspace, fingerprint
from penstock.columnar import OwnParquet, read_parquet
from penstock.display import numbered
from penstock.errors import ScoringError
from penstock.pipeline.checking import check_sum, smallest_failing
from penstock.pipeline.corpus import text_digest
from penstock.pipeline.runner import Runner
from penstock.pipeline.units import Unit, base_of, units_of
from penstock.storage import AnyPath, atomic_file

__all__ = [
    "ColumnFile",
    "ColumnFiles",
    "TextColumn",
    "find_text_columns",
    "make_text_columns",
    "stage_of",
]


class TextColumn(Protocol):
    """A column that is a function of the text; it is sent to workers."""

    @property
    def name(self) -> str:
        """The stage of its artefact; then, if there are several columns of it, a colon and more."""

    @property
    def version(self) -> int:
        """Raised whenever the same text would get other values."""

    def config(self) -> dict[str, Any]:
        """Return what the values depend on beside the text, for the fingerprint."""

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Compute the values of (n,) large_string: n rows, always of the same schema."""


@dataclass(frozen=True, slots=True)
class ColumnFile:
    """A column's file of one unit: a row for each document of the corpus's unit."""

    directory: AnyPath
    record: FileRecord

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read it, or some of its columns, after comparing the checksum."""
        path = self.record.verified(self.directory)
        return read_parquet(path, columns)


ColumnFiles = Mapping[str, ColumnFile]
"""The files of a column by the names of the units."""


def make_text_columns(
    columns: Sequence[TextColumn],
    corpus: Artefact,
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, ColumnFiles]:
    """Find or make columns for all rows of a corpus.

    Args:
        columns: Columns of different names.
        corpus: Corpus; units that a rewriter added have separate artefacts.
        workspace: Where columns are found and made.
        runner: Runs a task for each unit that lacks a column.
        progress: Called with a line for each unit.

    Returns:
        The files of each column, by its name.
    """
    files: dict[str, dict[str, ColumnFile]] = {column.name: {} for column in columns}
    for units in _by_corpus(corpus) if columns else ():
        for name, artefact in _make(columns, units, workspace, runner, progress).items():
            own = zip(units, artefact.files, strict=True)
            files[name] |= {unit.name: ColumnFile(artefact.path, file) for unit, file in own}
    return dict(files)


def find_text_columns(
    columns: Sequence[TextColumn], corpus: Artefact, workspace: Workspace
) -> dict[str, ColumnFiles]:
    """Find the columns that are made, arguments as :func:`make_text_columns`; make none.

    Returns:
        The files of each column that has any, by its name.
    """
    files: dict[str, dict[str, ColumnFile]] = {}
    for units in _by_corpus(corpus) if columns else ():
        inputs = {"text": text_digest([unit.record for unit in units])}
        for column in columns:
            stage = stage_of(column.name)
            name = fingerprint(stage, column.version, column.config(), inputs)
            if artefact := workspace.find(stage, name):
                own = zip(units, artefact.files, strict=True)
                known = files.setdefault(column.name, {})
                known |= {unit.name: ColumnFile(artefact.path, file) for unit, file in own}
    return dict(files)


def _by_corpus(corpus: Artefact) -> Iterator[list[Unit]]:
    """Yield the units of each corpus that a rewriter added to, then those that it added."""
    units = units_of(corpus)
    base = base_of(corpus) if corpus.facts.get("adds") else None
    if base is not None:
        yield from _by_corpus(base)
        units = units[len(units_of(base)) :]
    yield units


def _make(
    columns: Sequence[TextColumn],
    units: Sequence[Unit],
    workspace: Workspace,
    runner: Runner,
    progress: Callable[[str], None],
) -> dict[str, Artefact]:
    made: dict[str, Artefact] = {}
    drafts: dict[str, Draft] = {}
    inputs = {"text": text_digest([unit.record for unit in units])}
    for column in columns:
        stage = stage_of(column.name)
        name = fingerprint(stage, column.version, column.config(), inputs)
        if found := workspace.find(stage, name):
            made[column.name] = found
        else:
            drafts[column.name] = workspace.draft(stage, column.version, column.config(), inputs)
    items = [
        (unit, names)
        for unit in units
        if (names := [name for name, draft in drafts.items() if draft.done(unit.name) is None])
    ]
    state = [(column, drafts[column.name].path) for column in columns if column.name in drafts]
    for index, records in runner.run(_compute, items, state, keep_state=True):
        unit, _ = items[index]
        for name, record in records.items():
            drafts[name].record(unit.name, [record])
        stages = dict.fromkeys(stage_of(name) for name in records)
        progress(f"{', '.join(stages)}: {numbered(unit.of, 'document')} of {unit.name}")
    parts = [unit.name for unit in units]
    documents = sum(unit.of for unit in units)
    for name, draft in drafts.items():
        counted = sum(record.facts["documents"] for record in draft.files(parts))
        check_sum(f"{draft.path}", ("documents of the corpus", documents), {"in rows": counted})
        made[name] = draft.publish(parts, {"documents": counted})
    return made


def stage_of(name: str) -> str:
    """Return the stage of a column's artefact, from the name of the column."""
    return name.partition(":")[0]


def _compute(
    item: tuple[Unit, Sequence[str]], state: Sequence[tuple[TextColumn, AnyPath]]
) -> dict[str, FileRecord]:
    """Compute the missing columns of a unit, a row group of texts at a time."""
    unit, names = item
    wanted = [(column, directory) for column, directory in state if column.name in names]
    file_name = f"{unit.name}.parquet"
    with ExitStack() as stack:
        file = stack.enter_context(OwnParquet(unit.path()))
        sinks = [stack.enter_context(atomic_file(directory / file_name)) for _, directory in wanted]
        writers: list[pq.ParquetWriter] = []
        for group in range(file.num_row_groups):
            texts = file.read_row_group(group, ["text"], use_threads=False).column("text")
            whole = texts.combine_chunks()
            batches = [_computed(column, whole, file, group) for column, _ in wanted]
            if not writers:
                writers = [
                    stack.enter_context(_writer(sink, batch.schema))
                    for sink, batch in zip(sinks, batches)
                ]
            for writer, batch in zip(writers, batches):
                check_sum(unit.label, ("documents", len(texts)), {"in the column": len(batch)})
                writer.write_batch(batch)
            count_documents(len(texts), texts.nbytes)
    return {
        column.name: FileRecord.of(file_name, sink, documents=unit.of)
        for (column, _), sink in zip(wanted, sinks)
    }


def _computed(column: TextColumn, texts: pa.Array, file: OwnParquet, group: int) -> pa.RecordBatch:
    """Compute a column of a row group; an error of a user's rule names the document."""
    try:
        return column.compute(texts)
    except ScoringError as error:
        if error.__cause__ is None or isinstance(error.__cause__, MemoryError):
            raise
        start, count = smallest_failing(column.compute, texts, type(error.__cause__))
        ids = file.read_row_group(group, ["id"], use_threads=False).column("id")
        error.file = f"document {ids[start]}"
        if count > 1:
            error.file = f"documents {ids[start]} to {ids[start + count - 1]}"
        raise


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        sink, schema, compression="zstd", use_dictionary=False, write_statistics=False
    )
