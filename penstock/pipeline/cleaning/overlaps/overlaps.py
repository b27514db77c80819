"""A text column: the overlap of each document with the examples of one evaluation file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from penstock.pipeline.cleaning.overlaps.grams import NGRAM, Grams
from penstock.pipeline.cleaning.overlaps.kernels import SHORTEST
from penstock.rules.characters import UNICODE

__all__ = ["EXAMPLES", "UNCHECKED", "Overlaps"]

EXAMPLES, UNCHECKED = b"examples", b"unchecked"
"""Keys of the column's metadata: how many examples there are, and how many are too short."""


@dataclass(frozen=True, kw_only=True)
class Overlaps:
    """The overlap of documents with the examples of a file, which is read if the column is made."""

    stage: ClassVar[str] = "overlaps"
    version: ClassVar[int] = 2

    file: str
    """The name of the file, for people."""
    sha256: str
    """Of the file."""
    read: Callable[[], Sequence[Sequence[str]]] | None
    """Reads the texts of its examples, as :meth:`Grams.of` takes them; None where nothing is
    counted."""
    ngram: int = NGRAM

    @property
    def name(self) -> str:
        """The stage, and which file."""
        return f"{self.stage}:{self.sha256}"

    @cached_property
    def grams(self) -> Grams:
        """The grams of the examples."""
        assert self.read is not None
        return Grams.of(self.read(), self.ngram)

    def __getstate__(self) -> dict[str, Any]:
        # A worker that counts may not have the file.
        return (
            vars(self) if self.read is None else {**vars(self), "grams": self.grams, "read": None}
        )

    def without_examples(self) -> Overlaps:
        """Return the name of the column alone, for tasks that read it."""
        return replace(self, read=None)

    def config(self) -> dict[str, Any]:
        """Return what the column depends on besides the texts."""
        return {
            "sha256": self.sha256,
            "ngram": self.ngram,
            "shortest": SHORTEST,
            "unicode": UNICODE,
        }

    def compute(self, texts: pa.Array) -> pa.RecordBatch:
        """Count overlaps.

        Args:
            texts: (n,) large_string, without nulls.

        Returns:
            ``share`` float32, ``example`` int32 and ``grams`` uint32, (n,) each, without nulls; see
            :class:`~penstock.pipeline.cleaning.overlaps.grams.OverlapCounts`. The schema's metadata
            has the keys :data:`EXAMPLES` and :data:`UNCHECKED`.
        """
        found = self.grams.count(texts)
        columns = {"share": found.share, "example": found.example, "grams": found.grams}
        counts = {EXAMPLES: self.grams.examples, UNCHECKED: len(self.grams.unchecked)}
        batch = pa.record_batch({name: pa.array(values) for name, values in columns.items()})
        return batch.replace_schema_metadata({key: str(count) for key, count in counts.items()})
