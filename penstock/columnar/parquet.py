"""Open Parquet files, within bounds of memory, and validate what is read of them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.columnar.arrow_claims import check_decoded_size, check_rows
from penstock.columnar.parquet_claims import may_be_large, rows_within
from penstock.columnar.parquet_pages import read_groups
from penstock.columnar.validation import check_names, damaged, validate

__all__ = ["InputParquet", "OwnParquet", "read_parquet"]

_ROWS, _BYTES = 1024, 16 << 20
"""Rows and bytes that are decoded at a time to count the bytes of a row group."""

_BATCH_ROWS = 65_536
"""Rows of a batch of one of our own files by default, as of pyarrow."""


class InputParquet(pq.ParquetFile):
    """A Parquet file from anywhere.

    Args:
        source: The file.
        options: Of :class:`pyarrow.parquet.ParquetFile`.

    Raises:
        ArrowInvalid: It is damaged, or claims far more rows than bytes.
    """

    def __init__(self, source: pa.NativeFile, **options: Any) -> None:
        self._source = source
        try:
            super().__init__(source, page_checksum_verification=True, **options)
        except UnicodeDecodeError as error:
            raise pa.ArrowInvalid(f"a name in the schema is not UTF-8: {error}") from None
        check_names(self.schema_arrow)
        claims = self.metadata
        rows = [claims.row_group(group).num_rows for group in range(claims.num_row_groups)]
        if claims.num_rows != sum(rows) or min(rows, default=0) < 0:
            raise pa.ArrowInvalid(f"{claims.num_rows:,} rows are not those of the row groups")
        check_rows(sum(rows), source.size())

    def batches(self, group: int, rows: int, size: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a row group, validated but for UTF-8.

        Args:
            group: Number of the row group.
            rows: Most rows of a batch.
            size: Bytes that a batch may take, if it has several rows and small pages.

        Raises:
            ArrowInvalid: It is damaged, or claims to decode to far more than its bytes.
        """
        rows = rows_within(self._source, self, group, rows, size)
        for batch in self.iter_batches(batch_size=rows, row_groups=[group]):
            yield validate(batch, utf8=False)

    def check_groups(self) -> None:
        """Check that another library can read each row group whole.

        One that could decode to far more than its bytes is decoded here, some rows at a time, to
        count its bytes.

        Raises:
            ArrowInvalid: One is damaged, or decodes to far more than its bytes.
        """
        for group in range(self.num_row_groups):
            _check_group(self._source, self, group)


def _check_group(source: pa.NativeFile, file: pq.ParquetFile, group: int) -> None:
    """Check that a row group can be read whole.

    Raises:
        ArrowInvalid: It is damaged, or decodes to far more than its bytes.
    """
    if not may_be_large(source, file, group):
        return
    stored = sum(place.stored for place in read_groups(source)[group].columns)
    rows = rows_within(source, file, group, _ROWS, _BYTES)
    size = 0
    for batch in pq.ParquetFile.iter_batches(file, batch_size=rows, row_groups=[group]):
        size += batch.nbytes
        check_decoded_size(f"row group {group}", stored, size)


class OwnParquet(pq.ParquetFile):
    """One of our own Parquet files. All that is read is validated in full.

    It may be of another machine, so row groups are checked before they are decoded, once each.

    Raises:
        ArtefactError: It is damaged, or a row group decodes to far more than its bytes.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        self._path = path
        self._bounded: set[int] = set()
        with self._checked():
            super().__init__(os.fspath(path), **options)
            check_names(self.schema_arrow)

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(self._path, error) from None

    def _check_groups(self, groups: Iterable[int] | None = None) -> None:
        left = set(range(self.num_row_groups) if groups is None else groups) - self._bounded
        if left:
            with pa.OSFile(os.fsencode(self._path)) as source:
                for group in sorted(left):
                    _check_group(source, self, group)
            self._bounded |= left

    def read(self, *arguments: Any, **options: Any) -> pa.Table:
        with self._checked():
            self._check_groups()
            return validate(super().read(*arguments, **options))

    def read_row_group(self, i: int, *arguments: Any, **options: Any) -> pa.Table:
        with self._checked():
            self._check_groups([i])
            return validate(super().read_row_group(i, *arguments, **options))

    def read_row_groups(
        self, row_groups: Sequence[int], *arguments: Any, **options: Any
    ) -> pa.Table:
        with self._checked():
            self._check_groups(row_groups)
            return validate(super().read_row_groups(row_groups, *arguments, **options))

    def iter_batches(
        self,
        batch_size: int = _BATCH_ROWS,
        row_groups: Sequence[int] | None = None,
        **options: Any,
    ) -> Iterator[pa.RecordBatch]:
        with self._checked():
            self._check_groups(row_groups)
        batches = super().iter_batches(batch_size, row_groups, **options)
        while True:
            with self._checked():
                batch = next(batches, None)
                if batch is not None:
                    validate(batch)
            if batch is None:
                return
            yield batch


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one of our own Parquet files, or some of its columns.

    Raises:
        ArtefactError: It is damaged.
    """
    with OwnParquet(path) as file:
        return file.read(None if columns is None else list(columns))
