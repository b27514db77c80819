"""A control for any selector: the mean of another column's scores in a document's group.

A selector may win by the sources or the lengths that it prefers, which a table of its cut shows and
no reading of texts is needed for. The control keeps that preference alone: every document gets the
mean of its source's scores, or of its twentieth of length's, so documents of a group are taken in
the order of a hash. A selector that is not better than its controls has found no more than sources
and lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from penstock.selectors.base import Fitting, Requirements
from penstock.selectors.parameters import Algorithm, Text

__all__ = ["MeanOf"]


class MeanOf(
    Algorithm,
    name="mean_of",
    summary="mean of another column by source or by length: a control for any selector",
    meaning="mean of another column over the documents of its source, or of its length",
    paper="Penstock's own control",
    version=1,
):
    """Gives each document the mean of another column's scores in its group.

    Means are over the documents that the column gives a score, summed exactly. A document without
    a score has none here, so that the control takes from the same documents.
    """

    kind: ClassVar[Literal["mean"]] = "mean"

    column: Text = Field(description="The other selector of the recipe whose scores are averaged.")
    by: Literal["source", "length"] = Field(
        description="Groups: the sources of the pool, or twentieths of the documents by the bytes "
        "of their texts. Lengths above 2,047 bytes are compared by their first 11 bits, to 0.1 %; "
        "documents of equal length are in one group."
    )

    @property
    def requirements(self) -> Requirements:
        return Requirements(quality=self.column, quality_key="column")

    def identity(self) -> Mapping[str, Any]:
        """Return name and groups; the other column's artefact is an input, whatever its name."""
        return {"algorithm": self.name, "by": self.by}

    def fit(self, fitting: Fitting) -> Mapping[str, Any]:
        """Fit nothing: means are computed when the pool is scored."""
        return {}

    def save(self, directory: Path) -> None:
        """Write nothing."""

    def load(self, directory: Path) -> None:
        """Read nothing."""
