"""The documents of a curated recipe as a table: ids, sources, scores, and which are taken.

Nothing is read before a view is asked for, and then unit by unit: a reader of batches holds the
rows of one unit of about 64 MiB of text, with ``text=True`` one row group of their texts more. The
columns are those of the artefacts, which are row-aligned, so that nothing is searched by id.

The table has Arrow's C stream interface, so that ``pyarrow.table``, DuckDB, Polars and other
libraries take it as it is. Each of them opens a new stream, and so reads the artefacts again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from penstock import extras
from penstock.artefact import Artefact, FileRecord
from penstock.cluster import connect
from penstock.columnar import read_parquet
from penstock.display import html_table, text_table
from penstock.errors import InputError
from penstock.pipeline.grouped import read_scores
from penstock.pipeline.pool import Pool
from penstock.pipeline.units import Unit, iter_documents
from penstock.storage import AnyPath

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

__all__ = ["FIRST", "LAST", "TEXTS", "DocumentTable", "TableUnit"]

FIRST = (
    pa.field("id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("bytes", pa.int64(), nullable=False),
)
"""The first columns of :class:`DocumentTable`, before the scores."""

LAST = (
    pa.field("tokens", pa.int64(), nullable=False),
    pa.field("taken", pa.bool_(), nullable=False),
)
"""Its columns after the scores."""

TEXTS = (
    pa.field("text", pa.large_string(), nullable=False),
    pa.field("meta", pa.large_string()),
    pa.field("parent", pa.string()),
)
"""The columns of :class:`DocumentTable` with ``text=True``: ``meta`` is the record's other fields
as JSON, ``parent`` the id of the document that a rewriter made this one from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableUnit:
    """One unit of a pool, with the files of its columns: a small item for a task."""

    unit: Unit
    cut: tuple[AnyPath, FileRecord]
    """Directory of the cut, and the unit's file in it."""
    scores: Mapping[str, tuple[AnyPath, FileRecord]]
    """Directory of each column, and the unit's file in it, by name."""
    schema: pa.Schema

    def batches(self, taken: bool = False) -> Iterator[pa.RecordBatch]:
        """Read the unit's rows, with texts in batches of 1,024, else in one.

        Args:
            taken: Whether to read only the documents that the cut takes.
        """
        if taken and not self.cut[1].facts["documents"]:
            return
        table = self.rows()
        kept = table.column("taken").to_numpy() if taken else None
        if TEXTS[0].name not in self.schema.names:
            table = table if kept is None else table.filter(pa.array(kept))
            yield from table.combine_chunks().to_batches()
            return
        start = 0
        for texts in iter_documents(self.unit, [field.name for field in TEXTS]):
            rows = table.slice(start, len(texts)).combine_chunks().to_batches()[0]
            arrays = [*rows.columns, *texts.columns]
            batch = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
            if kept is not None:
                batch = batch.filter(pa.array(kept[start : start + len(texts)]))
            start += len(texts)
            if len(batch):
                yield batch

    def taken_from(self) -> pa.Table:
        """Read ``input`` and ``line`` of the documents that the cut takes, in their order.

        Returns:
            Number of the input, int32, and line in its part, int64 from 1; both null where a
            rewriter made the document.
        """
        chosen = read_parquet(self.cut[1].verified(self.cut[0]), ["row", "tokens"])
        rows = np.sort(chosen.column("row").to_numpy()[chosen.column("tokens").to_numpy() > 0])
        places = np.searchsorted(self.unit.numbers(), rows)
        return self.unit.read_rows(["input", "line"]).take(pa.array(places))

    def rows(self) -> pa.Table:
        """Read all columns of the unit but those of texts, a row for each document of the pool."""
        rows = self.unit.read_rows([field.name for field in FIRST])
        chosen = read_parquet(self.cut[1].verified(self.cut[0]), ["row", "tokens"])
        tokens = np.zeros(len(rows), np.int64)
        places = np.searchsorted(self.unit.numbers(), chosen.column("row").to_numpy())
        tokens[places] = chosen.column("tokens").to_numpy()
        scores = [read_scores(*file) for file in self.scores.values()]
        arrays = [*rows.columns, *scores, tokens, tokens > 0]
        own = [field for field in self.schema if field not in TEXTS]
        return pa.Table.from_arrays(
            [
                values if isinstance(values, pa.ChunkedArray) else pa.array(values, field.type)
                for values, field in zip(arrays, own, strict=True)
            ],
            schema=pa.schema(own),
        )


class DocumentTable:
    """The documents of a pool as a lazy table, one row for each, in the order of the corpus.

    Columns: ``id``, ``source``, ``bytes`` of the text; a float32 for each column of the recipe,
    by its name, NaN where the document may not be taken; ``tokens`` that the cut takes of it, 0 of
    most; ``taken``. With ``text=True`` also :data:`TEXTS`.

    Args:
        pool: The documents.
        columns: The columns by their names in ``select``.
        cut: The choice among the documents.
        text: Whether the table has texts.

    Raises:
        InputError: A column has the name of one of the table's own.
    """

    def __init__(
        self, pool: Pool, columns: Mapping[str, Artefact], cut: Artefact, text: bool = False
    ) -> None:
        scores = [pa.field(name, pa.float32(), nullable=False) for name in columns]
        self.schema: pa.Schema = pa.schema([*FIRST, *scores, *LAST, *(TEXTS if text else ())])
        """The columns and their types."""
        own = {field.name for field in (*FIRST, *LAST, *TEXTS)}
        for name in columns:
            if name in own:
                raise InputError(
                    "a table of documents has a column of its own of this name",
                    key=f"select.{name}",
                    fix="give the selector another name; its scores are found again",
                )
        self._pool, self._columns, self._cut = pool, dict(columns), cut

    @cached_property
    def units(self) -> Sequence[TableUnit]:
        """The units of the table, in order."""
        return [
            TableUnit(
                unit=unit,
                cut=(self._cut.path, self._cut.files[unit.number]),
                scores={
                    name: (column.path, column.files[unit.number])
                    for name, column in self._columns.items()
                },
                schema=self.schema,
            )
            for unit in self._pool.units
        ]

    def __len__(self) -> int:
        return self._pool.kept

    def __repr__(self) -> str:
        return text_table("DocumentTable", (f"  {name}: {kind}" for name, kind in self._rows()))

    def _repr_html_(self) -> str:
        return html_table("DocumentTable", (), self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        counts = f"{len(self):,}, of which {self._cut.facts['documents']:,} are taken"
        return [("documents", counts), *((own.name, str(own.type)) for own in self.schema)]

    def batches(self, taken: bool = False) -> Iterator[pa.RecordBatch]:
        """Read the documents in order, a batch at a time.

        Args:
            taken: Whether to read only the documents that the cut takes.

        Yields:
            Batches of :attr:`schema`: with texts of 1,024 rows at most, else of the rows of a unit.

        Raises:
            ArtefactError: A file is missing or was changed.
        """
        for unit in self.units:
            yield from unit.batches(taken)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.reader().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def reader(self) -> pa.RecordBatchReader:
        """Return a reader of :meth:`batches`, as Arrow's libraries take it; it reads once."""
        return pa.RecordBatchReader.from_batches(self.schema, self.batches())

    def arrow(self) -> pa.Table:
        """Read the whole table into memory: without texts about 100 bytes a document.

        Raises:
            ArtefactError: A file is missing or was changed.
        """
        return pa.Table.from_batches(self.batches(), self.schema)

    def pandas(self) -> pd.DataFrame:
        """Read the whole table into a pandas DataFrame whose strings stay in Arrow's memory.

        Raises:
            BadInput: pandas is not installed; ``fix`` names the extra.
            ArtefactError: A file is missing or was changed.
        """
        with extras.named("tables", "pandas"):
            import pandas as pd
        kinds = {
            pa.string(): pd.StringDtype("pyarrow"),
            pa.large_string(): pd.StringDtype("pyarrow"),
        }
        return self.arrow().to_pandas(types_mapper=kinds.get)

    def duckdb(self, connection: duckdb.DuckDBPyConnection | None = None) -> Any:
        """Return a relation of DuckDB, which reads the table anew in each query.

        Args:
            connection: A connection; by default one in memory, for this relation alone.

        Returns:
            A ``DuckDBPyRelation``: ``relation.query("documents", "select … from documents")``.

        Raises:
            BadInput: DuckDB is not installed; ``fix`` names the extra.
        """
        with extras.named("tables", "duckdb"):
            import duckdb
        return (connection or duckdb.connect()).from_arrow(self)

    def ray(self) -> Any:
        """Return a dataset of Ray Data with a read task for each unit, in no fixed order.

        It is that of this process's Ray, of ``RAY_ADDRESS``, or of one that is started here.

        Returns:
            A ``ray.data.Dataset``.

        Raises:
            BadInput: Ray or pandas is not installed; ``fix`` names the extra.
            JobError: There is no Ray at ``RAY_ADDRESS``, or none can be started.
        """
        # Ray Data would ask a Prometheus on this machine for its own statistics every 10 s.
        os.environ.setdefault("RAY_DATA_USAGE_DISABLED", "1")
        connect()
        with extras.named("tables", "ray"):
            import pandas  # noqa: F401  Ray Data needs it
            import ray.data
        return ray.data.read_datasource(_datasource(self))


def _datasource(table: DocumentTable) -> Any:
    """Return Ray's source of a table: its base class is imported with Ray Data alone."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class UnitSource(Datasource):
        def get_name(self) -> str:
            return "Penstock"

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, *_: Any, **__: Any
        ) -> list[Any]:
            return [
                ReadTask(
                    _Blocks(unit),
                    BlockMetadata(
                        num_rows=unit.unit.documents,
                        size_bytes=None,
                        exec_stats=None,
                        input_files=None,
                    ),
                    schema=table.schema,
                    per_task_row_limit=per_task_row_limit,
                )
                for unit in table.units
                if unit.unit.documents
            ]

    return UnitSource()


@dataclass(frozen=True)
class _Blocks:
    """Reads the blocks of a unit in a task of Ray."""

    unit: TableUnit

    def __call__(self) -> Iterator[pa.Table]:
        for batch in self.unit.batches():
            yield pa.Table.from_batches([batch])
