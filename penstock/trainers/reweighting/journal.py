"""Which weight every sample had, and from which loss: the record of a reweighted run.

Rows wait in memory until a checkpoint, or until there are a million, and become a Parquet file in
the run's directory ``weights``, which any reader of Parquet takes as one table: about 12 bytes a
sample. A checkpoint names the files that were there by their checksums; what was written after it
is removed when a run goes on from it, and written again.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import TrainingError
from penstock.storage import atomic_file, sha256_file

__all__ = ["FOLDER", "SCHEMA", "WeightJournal"]

FOLDER = "weights"

ROWS = 2**20
"""Held in memory, about 24 MiB."""

SCHEMA = pa.schema(
    [
        pa.field("step", pa.int32(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("loss", pa.float32(), nullable=False),
        pa.field("weight", pa.float32(), nullable=False),
    ]
)
"""A row for each sample, in the order of the run's stream. ``position`` is its sequence's place in
the stream and ``sequence`` the sequence's number in the shards; ``start`` is its first token there.
``loss`` is in nats, NaN where nothing is predicted."""


class WeightJournal:
    """The journal of one run; rank 0 keeps it.

    Args:
        directory: Of the run; what an earlier attempt left there goes with the first file that
            is written, unless :meth:`restore` takes it up.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._files: dict[str, str] = {}
        self._waiting: list[pa.Table] = []
        self._swept = False

    def add(self, **columns: Any) -> None:
        """Add the samples of a step: arrays of equal length, or one number, as :data:`SCHEMA`."""
        count = len(columns["weight"])
        arrays = [
            pa.array(np.broadcast_to(columns[field.name], count), field.type) for field in SCHEMA
        ]
        self._waiting.append(pa.table(arrays, schema=SCHEMA))
        if sum(table.num_rows for table in self._waiting) >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if not self._swept:
            self._sweep()
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        name = f"{table['step'][0].as_py():09d}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", use_dictionary=["step", "start"])
        data = sink.getvalue()
        with atomic_file(self._folder / name) as file:
            file.write(data)
        self._files[name] = hashlib.sha256(data).hexdigest()
        self._waiting = []

    def save(self) -> bytes:
        """Write the rows that wait, and name all files: what :meth:`restore` takes."""
        self.flush()
        return json.dumps(self._files, indent=1).encode()

    def restore(self, saved: bytes) -> None:
        """Take up the files that a checkpoint names.

        Raises:
            TrainingError: One is gone or changed.
        """
        self._files = json.loads(saved)
        for name, sha256 in self._files.items():
            path = self._folder / name
            if not path.is_file() or sha256_file(path) != sha256:
                raise TrainingError(
                    f"{path}: not the file that the checkpoint tells of; delete "
                    f"{self._folder.parent} to begin the run anew"
                )
        self._sweep()

    def _sweep(self) -> None:
        """Remove what is not ours."""
        self._swept = True
        for found in self._folder.glob("*"):
            if found.name not in self._files:
                found.unlink()
