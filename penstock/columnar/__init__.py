"""Open Arrow and Parquet files, and validate what is read of them before any value is used.

::

    validation.py      validate: all offsets, sizes, indices and strings of a batch
    arrow.py           open_arrow: an input; read_batches, read_batch: our own files, mapped
    arrow_claims.py    ArrowClaims: sizes of compressed buffers, before they are allocated
    parquet.py         InputParquet: an input; OwnParquet, read_parquet: our own files
    parquet_claims.py  rows_within: how many rows may be decoded at a time
    parquet_pages.py   headers and bytes of pages
    parquet_indices.py most_repeated: how often rows repeat an entry of a dictionary
    parquet_levels.py  longest_list: elements of the longest list of a column
    parquet_runs.py    runs and packed bits, of which levels and indices consist
    thrift.py          structures in Thrift's compact protocol

Arrow trusts the offsets, sizes and indices in a file. A damaged or hostile one makes it read other
memory of the process, which then is a document, or ends the process. So every batch is validated
in full here (20 GB/s a core of text), and no other module opens such a file. This includes
Penstock's own files: an artefact may come from another machine, and its checksums with it.
"""

from __future__ import annotations

from penstock.columnar.arrow import ArrowReader, open_arrow, read_batch, read_batches
from penstock.columnar.parquet import InputParquet, OwnParquet, read_parquet
from penstock.columnar.validation import validate

__all__ = [
    "ArrowReader",
    "InputParquet",
    "OwnParquet",
    "open_arrow",
    "read_batch",
    "read_batches",
    "read_parquet",
    "validate",
]
