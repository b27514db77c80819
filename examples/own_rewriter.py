"""A rewriter without a model: each text is replaced by another one.

::

    rewrite: {unwrapped: {use: "own_rewriter:Unwrap", by: none}}

One with a model has ``requests`` and ``assemble`` in place of ``edit``
(penstock/selectors/rewriting/base.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa


class Unwrap:
    """Joins lines that were broken at a width; a text of which nothing is left is dropped."""

    version = 1
    replaces = True

    def __init__(self, *, width: int = 80) -> None:
        self.width = width

    def identity(self) -> Mapping[str, Any]:
        """Return what the texts depend on besides the code: the parameters."""
        return {"width": self.width}

    def edit(self, texts: pa.Array) -> pa.Array:
        """Edit (n,) large_string to as many texts, each by itself."""
        return pa.array([self._unwrapped(text) for text in texts.to_pylist()], pa.large_string())

    def _unwrapped(self, text: str) -> str:
        return re.sub(rf"(?m)^(.{{1,{self.width}}})\n(?=\S)", r"\1 ", text)
