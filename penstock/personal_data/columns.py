"""Counts of personal data and secrets: a column of the text alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from penstock.arrow_text import checked_view
from penstock.personal_data.kinds import KINDS, VERSION
from penstock.personal_data.scanning import find_items
from penstock.personal_data.tables import tables

__all__ = ["PersonalData", "count_personal_data"]

_EVERY_KIND = (1 << len(KINDS)) - 1
"""The bits of all kinds."""


@dataclass(frozen=True, slots=True)
class PersonalData:
    """The number of items of each kind in each text."""

    name: ClassVar[str] = "personal_data"
    version: ClassVar[int] = VERSION

    def config(self) -> dict[str, Any]:
        """Return what the columns depend on beside the text."""
        return {"kinds": list(KINDS)}

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Count items: see :func:`count_personal_data`."""
        return count_personal_data(texts)


def count_personal_data(texts: pa.Array) -> pa.RecordBatch:
    """Count items of personal data and secrets; ``KINDS`` defines each kind.

    Args:
        texts: (n,) string or large_string, without nulls; may be a slice.

    Returns:
        n rows of uint32, a column for each of ``KINDS``.

    Raises:
        InputError: A text is null or not UTF-8.
    """
    view = checked_view(texts)
    counts = np.empty((len(texts), len(KINDS)), np.uint32)
    find_items(view.data, view.offsets, _EVERY_KIND, tables(), counts, np.empty((0, 3), np.int64))
    fields = [
        pa.field(name, pa.uint32(), nullable=False, metadata={"definition": kind.definition})
        for name, kind in KINDS.items()
    ]
    columns = [pa.array(np.ascontiguousarray(column)) for column in counts.T]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))
