"""Open files in Arrow's file and stream formats, whose batches are validated in full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from penstock.columnar.arrow_claims import ArrowClaims, check_rows
from penstock.columnar.validation import check_names, damaged, validate

__all__ = ["ArrowReader", "open_arrow", "read_batch", "read_batches"]


class ArrowReader:
    """The batches of an open Arrow file or stream; :func:`open_arrow` makes it."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._bytes: int = file.size()
        self._claims = ArrowClaims(file)
        if self._claims.random_access:
            self._claims.check_footer()
        self._reader = _opened(file, self._claims.random_access)
        self.schema: pa.Schema = self._reader.schema
        check_names(self.schema)

    def batches(self, start: int = 0, utf8: bool = True) -> Iterator[pa.RecordBatch]:
        """Yield the batches from number ``start`` on, validated in full; once of a stream.

        Args:
            start: The first batch.
            utf8: Whether strings that are not UTF-8 are refused, too.

        Raises:
            ArrowInvalid: A batch is damaged, or claims to decode to far more than its bytes, or
                the file far more rows than bytes.
        """
        for batch in self._unchecked(start):
            yield validate(batch, utf8)

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Yield the rows and bytes of each batch, without reading its values.

        Raises:
            ArrowInvalid: As :meth:`batches`, of buffers that are too short.
        """
        for batch in self._unchecked(0):
            batch.validate()
            yield batch.num_rows, batch.nbytes

    def _unchecked(self, start: int) -> Iterator[pa.RecordBatch]:
        rows = 0
        for batch in self._claimed(start):
            rows += batch.num_rows
            check_rows(rows, self._bytes)
            yield batch

    def _claimed(self, start: int) -> Iterator[pa.RecordBatch]:
        if self._claims.random_access:
            for number in range(start, self._reader.num_record_batches):
                self._claims.check_batch(number)
                yield self._reader.get_batch(number)
            return
        number = 0
        while True:
            self._claims.check_next()
            try:
                batch = self._reader.read_next_batch()
            except StopIteration:
                return
            if number >= start:  # those before are mapped, so that nothing is read
                yield batch
            number += 1


_FEATHER_1 = b"FEA1"


def _opened(file: pa.NativeFile, random_access: bool) -> Any:
    if random_access:
        return pa.ipc.open_file(file)
    if file.read_at(len(_FEATHER_1), 0) == _FEATHER_1:
        raise pa.ArrowInvalid(
            "a file of Feather version 1, which only pyarrow.feather.read_table reads; "
            "pyarrow.feather.write_feather writes the table as version 2, which is Arrow's format"
        )
    file.seek(0)
    return pa.ipc.open_stream(file)


@contextlib.contextmanager
def open_arrow(path: Path) -> Iterator[ArrowReader]:
    """Map a file in Arrow's file format, or in its stream format.

    Raises:
        ArrowInvalid: It is neither, or its footer is damaged.
        OSError: It cannot be opened.
    """
    with pa.memory_map(os.fsencode(path)) as file:
        yield ArrowReader(file)


def read_batches(path: Path, schema: pa.Schema | None = None) -> list[pa.RecordBatch]:
    """Map the batches of one of our own files; nothing is copied.

    Args:
        path: Local path of an Arrow file.
        schema: The columns that it has to have, with their types; any by default.

    Raises:
        ArtefactError: A batch is damaged, or has other columns.
    """
    try:
        with open_arrow(path) as reader:
            if schema is not None and not reader.schema.equals(schema):
                raise pa.ArrowInvalid(f"expected the columns {schema}, got {reader.schema}")
            return list(reader.batches())
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from None


def read_batch(path: Path) -> pa.RecordBatch:
    """Map the only batch of one of our own files; as :func:`read_batches`."""
    batches = read_batches(path)
    if len(batches) != 1:
        raise damaged(path, ValueError(f"{len(batches)} batches instead of one"))
    return batches[0]
