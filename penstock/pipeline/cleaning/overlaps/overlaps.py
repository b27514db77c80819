"""A text column: the overlap of each document with the examples of one evaluation file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from penstock.pipeline.cleaning.overlaps.grams import Grams
from penstock.pipeline.cleaning.overlaps.kernels import SHORTEST
from penstock.rules.characters import UNICODE

__all__ = ["Overlaps"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlaps:
    """The overlap of documents with the examples of a file."""

    name: ClassVar[str] = "overlaps"
    version: ClassVar[int] = 1

    sha256: str
    """Of the file that the examples are from."""
    grams: Grams
    """The grams of its examples."""

    def config(self) -> dict[str, Any]:
        """Return what the column depends on besides the texts."""
        return {
            "sha256": self.sha256,
            "ngram": self.grams.ngram,
            "shortest": SHORTEST,
            "unicode": UNICODE,
        }

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Count overlaps.

        Args:
            texts: (n,) large_string, without nulls.

        Returns:
            ``share`` float32, ``example`` int32 and ``grams`` uint32, (n,) each, without nulls; see
            :class:`~penstock.pipeline.cleaning.overlaps.grams.OverlapCounts`.
        """
        found = self.grams.count(texts)
        return pa.record_batch(
            {
                "share": pa.array(found.share),
                "example": pa.array(found.example),
                "grams": pa.array(found.grams),
            }
        )
