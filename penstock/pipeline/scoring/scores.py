"""Read and write the files of a column: a unit's scores, row-aligned with the unit."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.artefact import FileRecord
from penstock.storage import AnyPath, atomic_file

__all__ = ["read_scores", "write_scores"]


def read_scores(columns: AnyPath, record: FileRecord) -> np.ndarray:
    """Read a unit's scores, after comparing the checksum: (n,) float32, NaN where excluded."""
    return pq.read_table(record.verified(columns), columns=["score"]).column("score").to_numpy()


def write_scores(directory: AnyPath, unit: str, scores: np.ndarray) -> FileRecord:
    """Write a unit's scores, (n,) float32; those that are not finite become NaN: never taken."""
    scores = np.where(np.isfinite(scores), scores, np.float32(np.nan))
    name = f"{unit}.parquet"
    with atomic_file(directory / name) as sink:
        pq.write_table(
            pa.table({"score": pa.array(scores, pa.float32(), from_pandas=False)}),
            sink,
            compression="zstd",
            use_dictionary=False,
            write_statistics=False,
        )
    excluded = int(np.isnan(scores).sum())
    return FileRecord.of(name, sink, documents=len(scores), excluded=excluded)
