"""Weight journal: the loss and the weight of every sample of a reweighted run.

Rows are held in memory until a checkpoint, or until there are a million. Then they are written as a
Parquet file in the run's directory ``weights``, which Parquet readers take as one table: about 12
bytes a sample. A checkpoint lists the files by their checksums. When a run resumes from it, files
written later are removed, and their steps are written again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.errors import TrainingError
from penstock.storage import atomic_file, sha256_file

__all__ = ["FOLDER", "SCHEMA", "WeightJournal", "pack", "unpack"]

FOLDER = "weights"

ROWS_IN_MEMORY = 2**20
"""Rows held in memory, about 24 MiB."""

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
"""One row a sample, in the order of the run's stream. ``position`` is its sequence's position in
the stream and ``sequence`` the sequence's number in the shards; ``start`` is its first token there.
``loss`` is in nats, NaN where no token is predicted."""


class WeightJournal:
    """The weight journal of one run, kept by rank 0.

    Args:
        directory: The run's. Files of an earlier attempt are removed when the first file is
            written, unless :meth:`restore` has kept them.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / FOLDER
        self._files: dict[str, str] = {}
        self._waiting: list[pa.Table] = []
        self._is_clean = False

    def add(self, **columns: Any) -> None:
        """Add the samples of a step: arrays of equal length, or single numbers, by column."""
        count = len(columns["weight"])
        arrays = [
            pa.array(np.broadcast_to(columns[field.name], count), field.type) for field in SCHEMA
        ]
        self._waiting.append(pa.table(arrays, schema=SCHEMA))
        if sum(table.num_rows for table in self._waiting) >= ROWS_IN_MEMORY:
            self.flush()

    def flush(self) -> None:
        """Write the rows held in memory."""
        if not self._is_clean:
            self._clean()
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
        """Write the rows held in memory; returns the list of files, for :meth:`restore`."""
        self.flush()
        return json.dumps(self._files, indent=1).encode()

    def restore(self, saved: bytes) -> None:
        """Keep the files that a checkpoint lists, and remove all others.

        Raises:
            TrainingError: A listed file is missing or changed.
        """
        self._files = json.loads(saved)
        for name, sha256 in self._files.items():
            path = self._folder / name
            if not path.is_file() or sha256_file(path) != sha256:
                raise TrainingError(
                    "missing, or changed since the checkpoint",
                    file=path,
                    fix=f"delete {self._folder.parent} to start the run again",
                )
        self._clean()

    def _clean(self) -> None:
        """Remove files that are not listed."""
        self._is_clean = True
        for found in self._folder.glob("*"):
            if found.name not in self._files:
                found.unlink()


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack a reweighter's arrays of plain numbers as NumPy's ``.npz``, without pickles.

    Raises:
        ValueError: An array holds objects.
    """
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **{name: np.asarray(own) for name, own in arrays.items()})
    return sink.getvalue()


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays that :func:`pack` was given."""
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}
